"""Where scans come from."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from meddlr_greedy.errors import UserError, check
from meddlr_greedy.ops.acquisition import Acquisition
from meddlr_greedy.preparation.readers import cmrxrecon, images, ismrmrd
from meddlr_greedy.preparation.readers.scan import RawScan, stem
from meddlr_greedy.preparation.simulate import simulated_scan

__all__ = [
    "SOURCES",
    "open_scan",
]


class Source(NamedTuple):
    """Where scans come from.

    Args:
        find: Finds the files among what is given.
        open_scan: Opens one of them.
        subject_by_path: Who a file shows, by its path alone: stands in for what a file that cannot be opened says.
    """

    find: Callable[[Sequence[str]], List[Path]]
    open_scan: Callable[..., RawScan]
    subject_by_path: Callable[[Path], str] = stem


def _open_images(path: Path, acquisition: Dict[str, Any], acquired_matrix: Optional[Tuple[int, int]]) -> RawScan:
    series = images.load_images(path)
    size = series.magnitude.shape[-2:]
    settings = {"matrix": tuple(acquired_matrix or size), **acquisition}
    return simulated_scan(series, Acquisition(**settings), acquired_matrix)


#: Sub-command -> source.
SOURCES = {
    "ismrmrd": Source(ismrmrd.find, ismrmrd.open_scan),
    "cmrxrecon": Source(cmrxrecon.find, cmrxrecon.open_scan, cmrxrecon.subject),
    "images": Source(images.find, _open_images),
}


def open_scan(source: str, options: Dict[str, Any], pattern: Optional["re.Pattern[str]"], path: Path) -> RawScan:
    scan = SOURCES[source].open_scan(path, **options)
    if pattern is None and scan.names_subject:
        return scan
    if pattern is None:
        note = f"{path}: no patient ID in it; taken for a subject, '{scan.subject_id}' (see --subject-pattern)"
        return replace(scan, notes=(*scan.notes, note))
    subject = _matched(pattern, path)
    if not subject:
        raise UserError(f"--subject-pattern: '{pattern.pattern}' finds no subject in {path}")
    return replace(scan, subject_id=subject)


def subject_of_path(source: str, pattern: Optional["re.Pattern[str]"], path: Path) -> str:
    return (_matched(pattern, path) if pattern else "") or SOURCES[source].subject_by_path(path)


def _matched(pattern: "re.Pattern[str]", path: Path) -> str:
    found = pattern.search(str(path))
    return (found.group(1) or "") if found else ""


def compile_pattern(pattern: Optional[str]) -> Optional["re.Pattern[str]"]:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--subject-pattern: found '{pattern}', no regular expression ({error})") from error
    check(
        compiled.groups >= 1, "--subject-pattern", f"'{pattern}'", "a regular expression with a group, e.g. '(P\\d+)'"
    )
    return compiled
