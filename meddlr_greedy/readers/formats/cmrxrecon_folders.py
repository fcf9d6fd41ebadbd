"""The folders of the CMRxRecon challenges: whom a file shows, what kind of scan it is, and what lies beside it.

    2023  MultiCoil/Cine/TrainingSet/FullSample/P001/cine_sax.mat
          MultiCoil/Cine/TrainingSet/AccFactor04/P001/cine_sax.mat, cine_sax_mask.mat
    2024  MultiCoil/Cine/TrainingSet/FullSample/P001/cine_sax.mat
          MultiCoil/Cine/TrainingSet/ImgSnapshot/P001/cine_sax_info.csv
          MultiCoil/Cine/ValidationSet/UnderSample_Task1/P001/cine_sax_kus_Uniform4.mat
          MultiCoil/Cine/ValidationSet/Mask_Task1/P001/cine_sax_mask_Uniform4.mat
    2025  MultiCoil/Cine/TrainingSet/FullSample/Center001/UIH_30T_umr780/P001/cine_sax.mat, cine_sax_info.csv
          MultiCoil/Cine/TrainingSet/Mask_TaskAll/Center001/UIH_30T_umr780/P001/cine_sax_mask_Uniform8.mat

Beside Cine there are other kinds of scans, as Mapping, LGE or Perfusion.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Sequence, Set

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.raw_scan import find_files, plain_text

__all__ = ["find_cine", "info_file", "mask_file", "no_cine", "other_kind", "subject"]

_SUFFIX = ".mat"

# In 2025 patients are numbered anew in each center: Center001/UIH_30T_umr780/P001.
_CENTER = re.compile(r"center\d+", re.IGNORECASE)
_MOST_DEPTH = 4  # of folders below the one that trees share
_UNDERSAMPLED_NAME = re.compile(r"_?kus.*", re.IGNORECASE)

# Names of files begin with the kind of scan, names of folders are it. Time is the cardiac phase in cine, in tagging,
# which is cine with a pattern of lines on the heart, and in cine of the aorta.
_CINE = ("cine", "aorta", "tagging")
_OTHER_KINDS = {
    "blackblood": "still images",
    "lge": "still images",
    "t1w": "still images",
    "t2w": "still images",
    "mapping": "weightings in place of cardiac phases",
    "t1map": "weightings in place of cardiac phases",
    "t2map": "weightings in place of cardiac phases",
    "t2smap": "weightings in place of cardiac phases",
    "t1rho": "weightings in place of cardiac phases",
    "perfusion": "the passage of contrast agent in place of cardiac phases",
    "flow2d": "velocities, in phase and not in magnitude",
}


def find_cine(inputs: Sequence[str]) -> List[Path]:
    """The files given, and all of cine in the folders given but masks.

    Raises:
        UserError: There are none.
    """
    files, given = _files(inputs), {*map(Path, inputs)}
    found = [path for path in files if path in given or other_kind(path) is None]
    if not found:
        raise UserError(f"{', '.join(map(str, inputs))}: found no cine, but {_counted(files)}")
    return found


def no_cine(inputs: Sequence[str], found: Sequence[Path]) -> List[str]:
    """What there is to tell of scans of other kinds; ``found`` are those that are taken."""
    others = [path for path in _files(inputs) if other_kind(path) is not None and path not in set(found)]
    return [f"{', '.join(map(str, inputs))}: left out, no cine: {_counted(others)}"] if others else []


def _files(inputs: Sequence[str]) -> List[Path]:
    return find_files(inputs, (_SUFFIX,), skip=lambda path: "_mask" in path.stem.lower())


def _counted(paths: Sequence[Path]) -> str:
    """How many files show what, where that is no cine."""
    kinds = Counter(str(other_kind(path)) for path in paths)
    return "; ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))


def subject(path: Path) -> str:
    """The name of the folder of a file, behind those of center and scanner where there are such."""
    folders = path.resolve().parts[:-1]
    center = next((i for i, name in enumerate(folders) if _CENTER.fullmatch(name)), len(folders) - 1)
    return plain_text("_".join(folders[center:]))


def other_kind(path: Path) -> Optional[str]:
    """What a file shows, where that is no cine by its name, or else by the nearest folder that names a kind."""
    name = path.stem.lower()
    if name.startswith(_CINE):
        return None
    kinds = [kind for kind in _OTHER_KINDS if name.startswith(kind)]
    folders = [part.lower() for part in path.resolve().parts[-2::-1]]
    kinds = kinds or [folder for folder in folders if folder in _CINE or folder in _OTHER_KINDS]
    return f"{kinds[0]}, {_OTHER_KINDS[kinds[0]]}" if kinds and kinds[0] in _OTHER_KINDS else None


def mask_file(path: Path, masks: Optional[str]) -> Optional[Path]:
    """The file of the mask of an undersampled file.

    It is called as the file with "mask" for "kus", or with "_mask" at its end.

    Args:
        path: The file.
        masks: A folder, in which it lies, or in folders of it that are called as the last ones of the file. By default
            that of the file, and the same place in a tree beside it: ``kus/P001`` has ``Mask_Task1/P001``.

    Returns:
        ``None`` where there is none, and ``masks`` is not given.

    Raises:
        UserError: There is none in ``masks``.
    """
    names = {path.stem + "_mask", re.sub("kus", "mask", path.stem, flags=re.IGNORECASE)} - {path.stem}
    folder = path.resolve().parent
    folders = [folder, *_same_place(folder, "[Mm]ask*")] if masks is None else list(_below(Path(masks), folder))
    found = _first(folders, names, _SUFFIX)
    if found is None and masks is not None:
        wanted = " or ".join(name + _SUFFIX for name in sorted(names))
        raise UserError(f"--masks: found no {wanted} for {path} in {', '.join(map(str, reversed(folders)))}")
    return found


def info_file(path: Path) -> Optional[Path]:
    """The table of the acquisition, beside a file or at the same place in a tree beside it; ``None`` without one."""
    name = _UNDERSAMPLED_NAME.sub("", path.stem)
    folder = path.resolve().parent
    folders = [folder, *_same_place(folder, "ImgSnapshot"), *_same_place(folder, "[Ff]ull[Ss]ample*")]
    return _first(folders, {f"{name}_info"}, ".csv") or _first(folders, {name}, ".csv")


def _first(folders: Iterable[Path], names: Set[str], suffix: str) -> Optional[Path]:
    for folder in folders:
        files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
        for file in files:
            if file.stem in names and file.suffix.lower() == suffix:
                return file
    return None


def _below(tree: Path, folder: Path) -> Iterator[Path]:
    """Folders of a tree that are called as the last ones of another folder; the most specific place first."""
    for depth in range(min(_MOST_DEPTH, len(folder.parts) - 1), -1, -1):
        yield tree.joinpath(*folder.parts[len(folder.parts) - depth :])


def _same_place(folder: Path, pattern: str) -> Iterator[Path]:
    """The place of a folder in trees beside it."""
    for above in list(folder.parents)[:_MOST_DEPTH]:
        for tree in sorted(above.glob(pattern)):
            yield tree.joinpath(*folder.relative_to(above).parts[1:])
