"""The trees of CMRxRecon: subjects, kinds of scans, and the tables beside them."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.cmrxrecon import CmrxreconReader
from meddlr_greedy.readers.formats.cmrxrecon_folders import info_file, other_kind, subject
from meddlr_greedy.readers.formats.cmrxrecon_info import pixel_spacing
from tests.helpers.heart import prepared, read
from tests.helpers.scanners import matlab_axes, write_mat, write_mat5

CINE = [
    "Cine/TrainingSet/FullSample/P001/cine_sax.mat",
    "Cine/TrainingSet/FullSample/P001/cine_lvot.mat",
    "Cine/TrainingSet/FullSample/Center001/UIH_30T_umr780/P001/cine_lax_3ch.mat",
    "Cine/TrainingSet/FullSample/Center002/Siemens_30T_CIMA.X/P012/cine_rvot.mat",
    "Cine/ValidationSet/UnderSample_TaskR1/Center001/UIH_30T_umr780/P022/cine_ot_kus_ktRadial8.mat",
    "Aorta/TrainingSet/FullSample/P001/aorta_sag.mat",
    "Tagging/TrainingSet/FullSample/P001/tagging.mat",
    "Cine/P001/scan7.mat",
    "mine/scan.mat",
    "LGE/Cine/scan.mat",
    "Mapping/cine_sax.mat",
    "Flow/kspace.mat",
]
OTHERS = {
    "Mapping/TrainingSet/FullSample/P001/T1map.mat": "t1map, weightings",
    "Mapping/ValidationSet/UnderSample_TaskR1/Center004/Siemens_15T_Aera/P005/T2smap_kus_ktGaussian8.mat": "t2smap",
    "Mapping/TrainingSet/FullSample/Center001/UIH_30T_umr780/P001/T1mappost.mat": "t1map",
    "BlackBlood/TrainingSet/FullSample/Center006/Siemens_30T_Prisma/P002/blackblood.mat": "blackblood, still",
    "LGE/TrainingSet/FullSample/Center006/Siemens_30T_Prisma/P002/lge_lax_2ch.mat": "lge, still",
    "Perfusion/TrainingSet/FullSample/Center001/UIH_30T_umr780/P022/perfusion.mat": "perfusion, the passage",
    "Flow2d/ValidationSet/UnderSample_Task1/P001/flow2d_kus_Uniform4.mat": "flow2d, velocities",
    "T1rho/TrainingSet/FullSample/Center001/UIH_30T_umr780/P022/T1rho.mat": "t1rho",
    "T1w/FullSample/P022/T1w.mat": "t1w",
    "T2w/FullSample/P022/T2w.mat": "t2w",
    "Cine/Mapping/P001/scan7.mat": "mapping, weightings",
}


def test_kinds():
    assert [other_kind(path(name)) for name in CINE] == [None] * len(CINE)
    for name, words in OTHERS.items():
        assert str(other_kind(path(name))).startswith(words)


def path(name):
    return Path("/data/MultiCoil") / name


def test_a_person_is_one_subject_in_all_folders(tmp_path):
    place = "Center001/UIH_30T_umr780/P001"
    names = [
        f"Cine/TrainingSet/FullSample/{place}/cine_sax.mat",
        f"Cine/TrainingSet/FullSample/{place}/cine_lax_3ch.mat",
        f"Cine/ValidationSet/UnderSample_TaskR1/{place}/cine_sax_kus_Uniform8.mat",
        f"Aorta/TrainingSet/FullSample/{place}/aorta_sag.mat",
    ]
    assert {subject(path(name)) for name in names} == {"Center001_UIH_30T_umr780_P001"}
    assert subject(path("Cine/TrainingSet/FullSample/P001/cine_sax.mat")) == "P001"
    others = [place, "Center002/UIH_30T_umr780/P001", "Center001/UIH_15T_umr670/P001", "Center001/UIH_30T_umr780/P002"]
    assert len({subject(path(f"{other}/cine_sax.mat")) for other in others}) == 4


def small(heart):
    return matlab_axes(heart.kspace[:1, :2, :2, 20:44, 14:34])


def test_other_kinds_in_the_tree_are_left_out_and_told(heart, tmp_path, capsys):
    tree = tmp_path / "MultiCoil"
    place = "TrainingSet/FullSample/Center001/UIH_30T_umr780"
    for i, patient in enumerate(("P001", "P002", "P003")):
        write = write_mat5 if i else write_mat
        write(tree / "Cine" / place / patient / "cine_sax.mat", small(heart), "kspace")
        write(tree / "Cine" / place / patient / "cine_lax_3ch.mat", small(heart), "kspace")
        write(tree / "Mapping" / place / patient / "T1map.mat", small(heart), "kspace")
        write(tree / "LGE" / place / patient / "lge_sax.mat", small(heart), "kspace")
    write_mat(tree / "T1w" / place / "P001" / "T1w.mat", small(heart)[..., 0], "kspace")
    (tree / "disease_info.xlsx").write_bytes(b"PK\x03\x04")
    paths = prepared(
        tmp_path / "out", CmrxreconReader(), tree, split=("1", "1", "1"), options={}, progress=True, jobs=1
    )
    assert len(paths) == 6
    assert f"note: {tree}: left out, no cine: 3 of lge, still images; 3 of t1map, weightings" in (
        output := capsys.readouterr().out
    )
    assert "1 of t1w, still images" in output
    folder = tmp_path / "out" / "annotations"
    sides = [(folder / f"{side}.json").read_text() for side in ("train", "val", "test")]
    for patient in ("P001", "P002", "P003"):
        assert sum(f"umr780_{patient}" in side for side in sides) == 1
    (only,) = CmrxreconReader().find([str(tree / "Cine" / place / "P001" / "cine_sax.mat")])
    assert not CmrxreconReader().left_out([str(only)], [only])


# --- Tables ---

# After the tables of the challenges: field of view and reconstructed matrix, points and lines in the file, and what the
# pixels measure. Those of the second and third kind tell the field of view of the oversampled readout.
SCANNERS = {
    "Siemens": ((340, 276.25, 256, 208), (512, 208), (340 / 256, 276.25 / 208)),
    "UIH": ((720, 320, 336, 298), (448, 198), (720 / 448, 320 / 198)),
    "Sola": ((760, 289, 338, 288), (338, 130), (760 / 338, 289 / 130)),
    "Philips": ((299, 299, 256, 256), (304, 114), (299 / 152, 299 / 114)),
    "a wide view": ((400, 230.8, 256, 148), (512, 148), (400 / 256, 230.8 / 148)),
    "more lines than are shown": ((340, 255, 256, 192), (512, 240), (340 / 256, 255 / 192)),
}


def table(file, fov_x, fov_y, matrix_x, matrix_y, unit="", value="Value", oversampling="2"):
    rows = [
        ("Parameter", value),
        ("FieldStrength(T)", "3"),
        (f"FOVx{unit}", fov_x),
        (f"FOVy{unit}", fov_y),
        ("ReconMatrix_X", matrix_x),
        ("ReconMatrix_Y", matrix_y),
        ("SliceThickness(mm)", ""),
        ("TI(ms)", "NaN"),
        ("ReadOutOversample", oversampling),
        ("Sequence", "TrueFISP, retro"),
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(f'{name},"{found}"' for name, found in rows))
    return file


@pytest.mark.parametrize("scanner", SCANNERS)
@pytest.mark.parametrize("unit", ["", "(mm)", " (mm)"])
def test_pixel_spacing_of_scanners(tmp_path, scanner, unit):
    told, (num_readout, num_lines), expected = SCANNERS[scanner]
    file = table(tmp_path / "cine_sax_info.csv", *told, unit=unit, value="Value_1" if unit else "Value")
    for removed in (1, 2):
        spacing, notes = pixel_spacing(file, num_readout, num_lines, removed)
        assert spacing == pytest.approx(expected)
        assert "pixel spacing" in notes[0] and f"{told[0]:g} x {told[1]:g} mm" in notes[0]
        assert len(notes) == 3 - removed and ("--readout-oversampling" in notes[-1]) == (removed == 1)


UNKNOWN = {
    "no match": ({"fov_x": 150}, "fits no pixels of 512 x 208; pixel spacing is not known"),
    "no view": ({"fov_x": ""}, "tells no field of view"),
    "NaN": ({"fov_y": "nan"}, "tells no field of view"),
    "negative": ({"fov_y": "-276"}, "tells no field of view"),
    "infinite": ({"fov_x": "1e400"}, "tells no field of view"),
    "odd oversampling": ({"oversampling": "1e300"}, "fits no pixels"),
    "negative matrix": ({"matrix_y": "-208"}, "fits no pixels"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_pixel_spacing_that_no_table_tells(tmp_path, case):
    changes, words = UNKNOWN[case]
    told = {**dict(zip(("fov_x", "fov_y", "matrix_x", "matrix_y"), SCANNERS["Siemens"][0])), **changes}
    spacing, (note,) = pixel_spacing(table(tmp_path / "a_info.csv", **told), 512, 208, 1)
    assert spacing is None and words in note


@pytest.mark.parametrize(
    "content", [b"", b"\0\1\2" * 100, b"a" * 200_000, "FOVx;340".encode("utf-16"), b'"', b"1,2\n" * 9]
)
def test_tables_that_are_none(tmp_path, content):
    (tmp_path / "a_info.csv").write_bytes(content)
    spacing, (note,) = pixel_spacing(tmp_path / "a_info.csv", 512, 208, 1)
    assert spacing is None and "a_info.csv: " in note


TABLES = {
    "2024": ("FullSample/P001/cine_sax.mat", "ImgSnapshot/P001/cine_sax_info.csv"),
    "2025": ("FullSample/Center001/UIH/P001/cine_sax.mat", "FullSample/Center001/UIH/P001/cine_sax_info.csv"),
    "2025, of one scanner": ("FullSample/Center007/F/P001/cine_sax.mat", "FullSample/Center007/F/P001/cine_sax.csv"),
    "2025, undersampled": (
        "UnderSample_TaskR1/C/U/P1/cine_sax_kus_Uniform8.mat",
        "FullSample/C/U/P1/cine_sax_info.csv",
    ),
    "of mine": ("a/kus.mat", None),
}


@pytest.mark.parametrize("year", TABLES)
def test_where_tables_lie(tmp_path, year):
    scan, place = TABLES[year]
    (tmp_path / scan).parent.mkdir(parents=True)
    assert info_file(tmp_path / scan) is None
    for other in ("ImgSnapshot/P002/cine_sax_info.csv", "ImgSnapshot/P001/cine_lax_info.csv"):
        table(tmp_path / other, 1, 1, 1, 1)
    assert info_file(tmp_path / scan) is None
    if place is not None:
        table(tmp_path / place, 1, 1, 1, 1)
        assert info_file(tmp_path / scan) == (tmp_path / place).resolve()


def test_pixel_spacing_of_a_table_is_that_of_the_scan(heart, tmp_path, capsys):
    folder = tmp_path / "P001"
    source = write_mat(folder / "cine_sax.mat", matlab_axes(heart.kspace))
    file = table(folder / "cine_sax_info.csv", 48, 66, 32, 48)  # pixels of 1.5 x 1.375 mm
    (scan,) = prepared(tmp_path / "out", CmrxreconReader(), source, progress=True)
    np.testing.assert_allclose(read(scan)[1]["pixel_spacing_mm"], [1.5, 1.375])
    assert f"note: {file.resolve()}: pixel spacing 1.5 x 1.375 mm by the field of view" in capsys.readouterr().out
    table(file, 48, 60, 32, 48)
    with pytest.raises(UserError, match="made of another file or with other options"):
        prepared(tmp_path / "out", CmrxreconReader(), source)


# --- How k-space is stored ---


@pytest.mark.parametrize("chunks", [(2, 3, 2, 1, 1), (2, 1, 1, 20, 24), (1, 2, 2, 4, 24), None, (2, 5, 2, 3, 24)])
def test_chunks_of_any_shape(tmp_path, chunks):
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((2, 5, 2, 20, 24)) + 1j * rng.standard_normal((2, 5, 2, 20, 24))
    stored = np.rec.fromarrays([kspace.real, kspace.imag], names="real,imag")
    with h5py.File(tmp_path / "cine.mat", "w") as file:
        file.create_dataset("kspace", data=stored, chunks=chunks, compression=None if chunks is None else "gzip")
    scan = CmrxreconReader().open_scan(tmp_path / "cine.mat")
    for i in (3, 0, 4):
        expected = kspace[:, i].transpose(3, 2, 0, 1).astype(np.complex64)
        np.testing.assert_array_equal(scan.load_slice(i).kspace, expected)
