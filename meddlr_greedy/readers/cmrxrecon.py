"""Files of the CMRxRecon challenges 2023 to 2025."""

import argparse
from pathlib import Path
from typing import List, Optional, Sequence

from meddlr_greedy.readers.raw_scan import RawScan
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["CmrxreconReader"]


@READER_REGISTRY.register()
class CmrxreconReader(Reader):
    """Files of the CMRxRecon challenges."""

    command = "cmrxrecon"
    help = "files of the CMRxRecon challenges 2023 to 2025"
    description = (
        "Cine in MAT files (version 5 to 7.3) of the CMRxRecon challenges 2023 to 2025. A folder is a subject,\n"
        "together with those of its center and scanner, where there are such (Center001_UIH_30T_umr780_P001). The\n"
        "table of an acquisition (cine_sax_info.csv, beside the file or in ImgSnapshot) gives the pixel spacing.\n"
        "Mapping, LGE, perfusion, flow and still images in the same tree are left out.\n\n"
        "    meddlr-greedy prepare cmrxrecon TrainingSet/FullSample --output datasets/cmrxrecon --maps 2"
    )
    locations = ("masks",)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds where masks are, and the oversampling, which the files do not tell."""
        parser.add_argument(
            "--masks",
            metavar="FOLDER",
            help="of undersampled files: where their masks are (default: beside them, or at the same place in a folder "
            "Mask...)",
        )
        parser.add_argument(
            "--readout-oversampling", type=int, default=1, metavar="FACTOR", help="to be removed (default: %(default)s)"
        )

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The files given, and all ``.mat`` of cine in the folders given but masks."""
        from meddlr_greedy.readers.formats.cmrxrecon_folders import find_cine

        return find_cine(inputs)

    def left_out(self, inputs: Sequence[str], found: Sequence[Path]) -> List[str]:
        """Scans of other kinds."""
        from meddlr_greedy.readers.formats.cmrxrecon_folders import no_cine

        return no_cine(inputs, found)

    def open_scan(
        self,
        path: Path,
        undersampled: bool = False,
        readout_oversampling: int = 1,
        masks: Optional[str] = None,
    ) -> RawScan:
        """Opens a file of CMRxRecon, see :func:`meddlr_greedy.readers.formats.cmrxrecon.open_scan`."""
        from meddlr_greedy.readers.formats.cmrxrecon import open_scan

        return open_scan(path, undersampled, readout_oversampling, masks)

    def subject_by_path(self, path: Path) -> str:
        """The name of the folder of a file, behind those of center and scanner."""
        from meddlr_greedy.readers.formats.cmrxrecon_folders import subject

        return subject(path)
