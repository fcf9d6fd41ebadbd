"""Which sub-command of ``prepare`` reads an HDF5 file that another one refuses."""

from pathlib import Path

import h5py

from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import reading_hdf5

__all__ = ["FASTMRI_HEADER", "is_ismrmrd_group", "suited_command", "suited_command_of"]

#: The name of the header in files of fastMRI.
FASTMRI_HEADER = "ismrmrd_header"


def is_ismrmrd_group(file: h5py.File, name: str) -> bool:
    """Whether an ISMRMRD data set stands in a file under that name."""
    return isinstance(file.get(name), h5py.Group) and {"data", "xml"} <= {*file[name]}


def suited_command(file: h5py.File) -> str:
    """``"; 'prepare fastmri' reads such files"``, or an empty string where no sub-command does."""
    has_kspace, has_header = (isinstance(file.get(name), h5py.Dataset) for name in ("kspace", FASTMRI_HEADER))
    if has_kspace and has_header:
        command = "fastmri"
    elif any(is_ismrmrd_group(file, name) for name in file):
        command = "ismrmrd"
    elif has_kspace:
        command = "maps"
    else:
        return ""
    return f"; 'prepare {command}' reads such files"


def suited_command_of(path: Path) -> str:
    """:func:`suited_command` of a file that may be none of HDF5."""
    if not h5py.is_hdf5(path):
        return ""
    try:
        with reading_hdf5(path) as file:
            return suited_command(file)
    except UserError:
        return ""
