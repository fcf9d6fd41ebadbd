"""Data sets by name: every ``<root>/<name>/annotations/<split>.json`` is the data set ``<name>_<split>``.

``<root>`` is the environment variable MEDDLR_GREEDY_DATASETS, by default ``./datasets``. An annotation is
in meddlr's MRCO style, ``{"images": [{"file_name": "<split>/<scan>.h5", ...}, ...], ...}`` with file names
relative to ``<root>/<name>``.
"""

import functools
import logging
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from meddlr.data import DatasetCatalog, MetadataCatalog
from meddlr.data.datasets.register_mrco import load_mrco_json

from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.files import reading

__all__ = [
    "check_dataset_names",
    "datasets_root",
    "has_targets",
    "is_cine",
    "register_datasets",
]

ROOT_VARIABLE = "MEDDLR_GREEDY_DATASETS"

# What register_datasets put into meddlr's catalog, which is global too: name -> annotation.
_registered: Dict[str, Path] = {}
_searched: List[Path] = []


def datasets_root() -> Path:
    """Returns the folder that holds the data sets."""
    return Path(os.environ.get(ROOT_VARIABLE) or "datasets")


def register_datasets(root: Optional[os.PathLike] = None) -> List[str]:
    """Registers the data sets found in a folder with meddlr; those of an earlier call are forgotten.

    Args:
        root: The folder; by default :func:`datasets_root`. It need not exist.

    Returns:
        List[str]: The names now registered.
    """
    for name in _registered:
        DatasetCatalog.clear(name)
    _registered.clear()
    root = (datasets_root() if root is None else Path(root)).absolute()
    _searched[:] = [root]
    for annotation in sorted(root.glob("*/annotations/*.json")):
        name = f"{annotation.parts[-3]}_{annotation.stem}"
        if name in DatasetCatalog.list():
            logging.getLogger(__name__).warning(
                f"{annotation}: not registered, since meddlr has another data set named '{name}'"
            )
            continue
        DatasetCatalog.register(name, functools.partial(_load_scans, name, annotation))
        MetadataCatalog.get(name).set(metadata_file=None)  # load_mrco_json asks for it
        _registered[name] = annotation
    return list(_registered)


def check_dataset_names(names: Sequence[str]) -> None:
    """Checks that data sets exist and that their annotations can be read.

    Args:
        names: As in ``DATASETS.TRAIN``.

    Raises:
        UserError: A data set is unknown, or its annotation is missing or damaged.
    """
    for name in names:
        if name not in DatasetCatalog.list():
            raise UserError(
                f"DATASETS: no data set '{name}' in '{', '.join(map(str, _searched))}' ({ROOT_VARIABLE}); "
                f"found there: {', '.join(_registered) or 'none'}; it needs <name>/annotations/<split>.json, "
                "which `meddlr-greedy prepare` writes" + did_you_mean(name, DatasetCatalog.list())
            )
        with reading(f"DATASETS: the annotation of '{name}'", "an annotation"):  # meddlr downloads some of its own
            DatasetCatalog.get(name)


def has_targets(name: str, keys: Optional[Mapping[str, str]] = None) -> bool:
    """Returns whether every scan of a data set has a target.

    Args:
        name: The data set.
        keys: Names in the files, see :func:`meddlr_greedy.data.scan_file.read_header`.

    Raises:
        UserError: See :func:`check_dataset_names` and :func:`meddlr_greedy.data.scan_file.read_header`.
    """
    check_dataset_names([name])
    headers = [read_header(scan["file_name"], keys) for scan in DatasetCatalog.get(name)]
    return all("target" in header.contents for header in headers)


def is_cine(name: str, keys: Optional[Mapping[str, str]] = None) -> bool:
    """Returns whether a data set holds cine series, as the first scan that can be used tells; else it is 2D.

    A scan that cannot be used is passed over: ``DATALOADER.FILTER`` may leave it out.

    Args:
        name: The data set.
        keys: Names in the files, see :func:`meddlr_greedy.data.scan_file.read_header`.

    Raises:
        UserError: No scan can be used, see :func:`meddlr_greedy.data.scan_file.read_header`, or the data set cannot,
            see :func:`check_dataset_names`.
    """
    check_dataset_names([name])
    first_error: Optional[UserError] = None
    for scan in DatasetCatalog.get(name):
        try:
            return read_header(scan["file_name"], keys).is_cine
        except UserError as error:
            first_error = first_error or error
    raise first_error or UserError(f"DATASETS: '{name}' lists no scans")


def _load_scans(name: str, annotation: Path) -> List[Dict[str, Any]]:
    """Returns the scans of an annotation in meddlr's format, with the folder's name as "_dataset"."""
    folder = annotation.parents[1]
    try:
        scans = load_mrco_json(str(annotation), str(folder), name)
    except FileNotFoundError as error:
        raise UserError(f"{annotation}: no such file; data set '{name}' needs it") from error
    except Exception as error:  # noqa: BLE001 (no JSON, no UTF-8, no mappings, nested without end)
        raise UserError(
            f"{annotation}: not an annotation ({type(error).__name__}: {error}); allowed is "
            '{"images": [{"file_name": "<split>/<scan>.h5"}, ...]}'
        ) from error
    if not scans:
        raise UserError(f"{annotation}: lists no scans (images is empty); data set '{name}' needs at least one")
    return [{**scan, "_dataset": folder.name} for scan in scans]
