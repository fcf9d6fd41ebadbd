"""The table of an acquisition (``cine_sax_info.csv``, in CMRxRecon since 2024), and the pixel spacing that it implies.

It has rows of a parameter and its value, as ``FOVx,340`` or ``FOVx(mm),340``. It tells neither pixel spacing nor time
between phases nor distance of slices; their thickness leaves out the gap.
"""

import csv
import re
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.limits import is_length

__all__ = ["pixel_spacing"]

_LARGEST_FILE = 1 << 16
_UNIT = re.compile(r"\s*\(.*\)\s*$")
#: Of the pixels, along readout over along phase encode: lines are rarely finer, and partial Fourier leaves fewer.
_RATIOS = (0.6, 1.1)


def pixel_spacing(
    table: Path, num_readout: int, num_lines: int, removed_oversampling: int
) -> Tuple[Optional[Tuple[float, float]], List[str]]:
    """Pixel spacing in mm along readout and phase encode, where a table implies it, and what there is to tell.

    The field of view along the phase encode is that of the lines (of the reconstructed matrix, where that has fewer).
    Along the readout some scanners write the field of view of all points, and others that without oversampling. The one
    counts with which pixels are about as long as wide.

    Args:
        table: The file.
        num_readout: Points along the readout in the file of k-space, oversampling included.
        num_lines: Lines along the phase encode.
        removed_oversampling: Factor of the readout oversampling that will be removed.
    """
    try:
        values = _values(table)
    except UserError as error:  # what k-space is does not depend on it
        return None, [str(error)]
    fields = [values.get(name, 0.0) for name in ("FOVx", "FOVy")]
    if not all(map(is_length, fields)):
        return None, [f"{table}: tells no field of view, so pixel spacing is not known"]
    oversampling = max(values.get("ReadOutOversample", 1.0), 1.0)
    along_lines = fields[1] / min(num_lines, values.get("ReconMatrix_Y", 0) or num_lines)
    steps = {factor: factor * fields[0] / num_readout for factor in {1.0, oversampling}}
    fitting = [factor for factor, step in steps.items() if _RATIOS[0] <= step / along_lines <= _RATIOS[1]]
    view = f"the field of view of {fields[0]:g} x {fields[1]:g} mm"
    if len(fitting) != 1 or not is_length(steps[fitting[0]]) or not is_length(along_lines):
        return None, [f"{table}: {view} fits no pixels of {num_readout} x {num_lines}; pixel spacing is not known"]
    along_readout, what = steps[fitting[0]], "without" if fitting[0] > 1 else "with"
    notes = [
        f"{table}: pixel spacing {along_readout:.4g} x {along_lines:.4g} mm by {view}, taken for that {what} readout "
        "oversampling"
    ]
    if oversampling > 1 and removed_oversampling == 1:
        notes.append(f"{table}: the readout is oversampled {oversampling:g}-fold; --readout-oversampling removes that")
    return (along_readout, along_lines), notes


def _values(table: Path) -> Dict[str, float]:
    """The numbers of a table by their parameters, without units."""
    with reading(table, "a table of parameters"), open(table, newline="", errors="replace") as file:
        rows = list(csv.reader(file.read(_LARGEST_FILE).splitlines()))
    values = {}
    for row in rows:
        try:
            values[_UNIT.sub("", row[0]).strip()] = float(row[1])
        except (IndexError, ValueError):  # the heading, texts, and what is not known
            continue
    return values
