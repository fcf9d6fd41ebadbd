"""A file of another format than the one asked for: the line names the sub-command that reads it."""

import h5py
import numpy as np
import pytest

from meddlr_greedy.readers.formats.suited import suited_command_of
from tests.helpers.errors import expect_prepare_error
from tests.helpers.fastmri import fastmri_kspace, write_fastmri
from tests.helpers.scanners import write_mrd


@pytest.fixture(scope="module")
def files(heart, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    write_fastmri(folder / "fastmri.h5", fastmri_kspace(heart.coil_images[:, 0]))
    write_mrd(folder / "ismrmrd.h5", heart.coil_images)
    with h5py.File(folder / "maps.h5", "w") as file:
        file["kspace"] = np.ones((1, 8, 8, 2, 2), np.complex64)
    with h5py.File(folder / "none.h5", "w") as file:
        file["ismrmrd_header"] = "of nothing"
        file.create_group("kspace")
    (folder / "text.h5").write_text("no HDF5")
    return folder


@pytest.mark.parametrize(
    "name,asked",
    [
        ("fastmri", "images"),
        ("fastmri", "ismrmrd"),
        ("fastmri", "maps"),
        ("ismrmrd", "images"),
        ("ismrmrd", "fastmri"),
        ("ismrmrd", "maps"),
        ("maps", "images"),
        ("maps", "ismrmrd"),
        ("maps", "fastmri"),
    ],
)
def test_the_line_names_the_sub_command(name, asked, files, tmp_path, capsys):
    words = f"; 'prepare {name}' reads such files"
    expect_prepare_error(f"{asked} {{dir}}/{name}.h5 --split 1 0 0", words, files, tmp_path, capsys)


def test_a_folder_of_other_files_names_the_sub_command_too(files, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    (files / "fastmri.h5").rename(folder / "a.h5")
    words = "or MAT file in this folder; 'prepare fastmri' reads such files"
    expect_prepare_error("images {dir} --split 1 0 0", words, folder, tmp_path, capsys)
    (folder / "a.h5").rename(files / "fastmri.h5")
    (folder / "a.dcm").touch()
    words = "found no .h5 file in this folder; for images, DICOM among them, use 'prepare images'"
    expect_prepare_error("fastmri {dir} --split 1 0 0", words, folder, tmp_path, capsys)


@pytest.mark.parametrize("name", ["none", "text"])
def test_a_file_that_none_reads_gets_no_hint(name, files):
    assert suited_command_of(files / f"{name}.h5") == ""
