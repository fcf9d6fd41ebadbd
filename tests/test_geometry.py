"""Where pixels lie in the patient: from the headers of scanners through `prepare` and `reconstruct` into NIfTI."""

import itertools
import subprocess

import h5py
import nibabel as nib
import numpy as np
import pytest

from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.readers.formats.images import load_images
from meddlr_greedy.readers.images import ImagesReader
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.scan import header_notes
from tests.helpers.heart import HEIGHT, WIDTH, make_heart, prepared
from tests.helpers.programs import needs, program
from tests.helpers.scanners import Mrd, write_mrd
from tests.helpers.stacks import LPS_TO_RAS, Stack, axes_of, reconstruct_target, write_placed_scan, write_stack

STACKS = {
    "oblique": Stack(),
    "axial": Stack(axes=np.eye(3)),
    "reversed": Stack(places=(19.0, 9.5, 0.0), axes=axes_of(1)),
    "interleaved": Stack(places=(0.0, 9.5, 19.0, 28.5), numbering=(0, 2, 1, 3), axes=axes_of(2)),
    "interleaved and reversed": Stack(places=(28.5, 9.5, 19.0, 0.0), axes=axes_of(3)),
    "one slice": Stack(places=(0.0,), axes=axes_of(4)),
    "one slice, with its spacing": Stack(places=(0.0,), between=10.0),
    "phase encoding along columns": Stack(phase_encoding="COL"),
    "one slice, phase encoding along columns": Stack(places=(0.0,), phase_encoding="COL", axes=axes_of(5)),
}
ROWS, COLUMNS = 32, 27
MATRICES = [None, (25, 24), (24, 23)]


def random_pixels(stack, num_phases=2, rows=ROWS, columns=COLUMNS):
    """(S, T, rows, columns), all different."""
    shape = (len(stack.places), num_phases, rows, columns)
    return np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(np.uint16) + 1


def prepared_nifti(tmp_path, reader, source, **options):
    """The scan file and the NIfTI file that ``reconstruct`` makes of it."""
    (path,) = prepared(tmp_path / "out", reader, source, options=options)
    return path, nib.load(reconstruct_target(path, tmp_path / "recon").nifti)


def corners_of(shape):
    return list(itertools.product(*({0, size - 1} for size in shape[:3])))


def furthest(matrix, world, shape):
    """How far a corner lies at most, by a matrix, from where ``world(h, w, s)`` says it does."""
    return max(np.linalg.norm((matrix @ [*corner, 1])[:3] - world(*corner)) for corner in corners_of(shape))


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", STACKS)
def test_dicom(tmp_path, name, matrix):
    stack = STACKS[name]
    options = {} if matrix is None else {"matrix": matrix}
    folder = write_stack(tmp_path / "S1", random_pixels(stack), stack)
    path, image = prepared_nifti(tmp_path, ImagesReader(), folder, coils=2, noise=0.01, **options)
    full, spacing = np.array([ROWS, COLUMNS]), np.array(stack.spacing)
    if stack.phase_encoding == "COL":
        full, spacing = full[::-1], spacing[::-1]
    size = np.array(matrix or full)

    def world(h, w, s):
        # Points of a smaller matrix are further apart, and the one in the middle, n // 2, stays where it is.
        points = full // 2 + (np.array([h, w]) - size // 2) * full / size
        return stack.world(stack.order[s], *(points[::-1] if stack.phase_encoding == "COL" else points))

    assert image.shape == (*size, len(stack.places), 2)
    assert furthest(image.get_sform(), world, image.shape) < 1e-4
    assert furthest(image.get_qform(), world, image.shape) < 1e-2
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    assert image.header.get_xyzt_units() == ("mm", "msec")
    between = 9.5 if len(stack.places) > 1 else (stack.between or stack.thickness)
    np.testing.assert_allclose(image.header.get_zooms(), (*(spacing * full / size), between, 40), rtol=1e-6)
    np.testing.assert_allclose(AcquiredScan(str(path)).slice_spacing_mm, between)
    assert not header_notes(AcquiredScan(str(path)))


def test_a_thing_stays_where_it_is_in_the_patient(tmp_path):
    """A smooth spot, whose center is found again in the reconstruction of a smaller matrix."""
    for name, matrix in (("oblique", (25, 23)), ("phase encoding along columns", (22, 25)), ("reversed", None)):
        stack = STACKS[name]
        rows, columns = np.mgrid[:40, :37]
        spots = [(18.0 + s, 15.0 + 2 * s) for s in range(len(stack.places))]
        images = [np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 2 / 3**2) for r, c in spots]
        pixels = np.round(20000 * np.array(images))[:, None].repeat(2, 1).astype(np.uint16)
        folder = write_stack(tmp_path / name / "S1", pixels, stack)
        options = {} if matrix is None else {"matrix": matrix}
        _, image = prepared_nifti(tmp_path / name, ImagesReader(), folder, coils=4, noise=0.0, **options)
        for s, number in enumerate(stack.order):
            weights = image.get_fdata()[:, :, s, 0] ** 2  # ringing counts less
            points = np.array(list(np.ndindex(*weights.shape)))
            middle = weights.ravel() @ points / weights.sum()
            found = (image.affine @ [*middle, s, 1])[:3]
            assert np.linalg.norm(found - stack.world(number, *spots[number])) < 0.25, (name, s)


def test_a_single_slice_of_a_stack_is_as_thick_as_slices_are_apart(tmp_path):
    stack = STACKS["oblique"]
    folder = write_stack(tmp_path / "S1", random_pixels(stack), stack)
    options = {"options": {"coils": 2}, "split": ("1", "1", "1")}
    paths = prepared(tmp_path / "out", ImagesReader(), folder, **options)
    assert len(paths) == 3
    for s, name in enumerate(("train", "val", "test")):
        (path,) = [path for path in paths if name in path.name]
        image = nib.load(reconstruct_target(path, tmp_path / "recon").nifti)
        assert furthest(image.affine, lambda h, w, _, s=s: stack.world(s, h, w), image.shape) < 1e-4
        assert image.header.get_zooms()[2] == pytest.approx(9.5)


def test_uneven_slices_have_their_mean_step_and_a_note(tmp_path):
    stack = Stack(places=(0.0, 8.0, 20.0))
    folder = write_stack(tmp_path / "S1", random_pixels(stack), stack)
    path, image = prepared_nifti(tmp_path, ImagesReader(), folder, coils=2)
    ends = [(s, world) for s in (0, 2) for world in [stack.world(s, 0, 0)]]
    for s, world in ends:
        np.testing.assert_allclose((image.affine @ [0, 0, s, 1])[:3], world, atol=1e-4)
    assert image.header.get_zooms()[2] == pytest.approx(10)
    (note,) = header_notes(AcquiredScan(str(path)))
    assert "mean step, by which a slice is up to 2 mm from its place" in note
    assert b"unknown" not in image.header["descrip"].item()


def test_slices_at_one_place_have_no_orientation(tmp_path):
    attributes = {"pixel_spacing_mm": (1.0, 1.0), "position_mm": np.zeros((2, 3))}
    attributes.update(readout_direction=np.array([1.0, 0, 0]), phase_direction=np.array([0, 1.0, 0]))
    path = write_placed_scan(tmp_path / "a.h5", np.ones((2, 4, 5, 2)), attributes)
    image = nib.load(reconstruct_target(path, tmp_path / "recon").nifti)
    assert image.header["sform_code"] == image.header["qform_code"] == 0
    assert any("several slices at one place" in note for note in header_notes(AcquiredScan(str(path))))


# --- NIfTI ---


def write_oblique_nifti(path, sform=1, qform=0, zooms=None, units="mm", scale=1.0, dim_info=None):
    """A series of oblique slices, left-handed; returns its matrix in mm."""
    affine = np.eye(4)
    affine[:3, :3] = axes_of(7).T @ np.diag([1.5, -1.25, 8.0])
    affine[:3, 3] = [12.5, -80.25, 33.125]
    data = np.random.default_rng(0).integers(1, 1000, (ROWS, COLUMNS, 3, 2)).astype(np.int16)
    image = nib.Nifti1Image(data, None)
    header = image.header
    stored = np.diag([scale, scale, scale, 1]) @ affine
    header.set_zooms((*(zooms or scale * np.array([1.5, 1.25, 8.0])), 40))
    if qform:
        header.set_qform(stored, qform)
    header.set_sform(stored, sform)
    if zooms is not None:
        header.set_zooms((*zooms, 40))
    header.set_xyzt_units(units, "msec")
    if dim_info:
        header.set_dim_info(*dim_info)
    nib.save(nib.Nifti1Image(data, None, header), path)
    return affine, (nib.load(path).header.get_qform() if qform else None)


@pytest.mark.parametrize("codes", [(1, 0), (2, 1), (0, 1), (0, 0)])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("dim_info", [None, (1, 0, 2)])
def test_nifti(tmp_path, codes, matrix, dim_info):
    source = tmp_path / "S1.nii"
    affine, by_qform = write_oblique_nifti(source, *codes, dim_info=dim_info)
    expected = by_qform if codes[0] == 0 else affine
    options = {} if matrix is None else {"matrix": matrix}
    _, image = prepared_nifti(tmp_path, ImagesReader(), source, coils=2, **options)
    full, spacing = np.array([ROWS, COLUMNS]), np.array([1.5, 1.25])
    if dim_info:
        full, spacing = full[::-1], spacing[::-1]
    size = np.array(matrix or full)
    assert image.header.get_xyzt_units() == ("mm", "msec")
    np.testing.assert_allclose(image.header.get_zooms(), (*(spacing * full / size), 8, 40), rtol=1e-6)
    if codes == (0, 0):
        assert image.header["sform_code"] == image.header["qform_code"] == 0
        return

    def world(h, w, s):
        points = full // 2 + (np.array([h, w]) - size // 2) * full / size
        return (expected @ [*(points[::-1] if dim_info else points), s, 1])[:3]

    assert furthest(image.get_sform(), world, image.shape) < 1e-4
    assert furthest(image.get_qform(), world, image.shape) < 1e-2
    assert image.header["sform_code"] == image.header["qform_code"] == 1


@pytest.mark.parametrize("units, scale", [("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_units_of_nifti(tmp_path, units, scale):
    affine, _ = write_oblique_nifti(tmp_path / "a.nii", units=units, scale=scale)
    series = load_images(tmp_path / "a.nii")
    np.testing.assert_allclose((*series.pixel_spacing_mm, series.slice_spacing_mm), (1.5, 1.25, 8), rtol=1e-6)
    expected = LPS_TO_RAS @ (affine @ [ROWS // 2, COLUMNS // 2, 2, 1])[:3]
    np.testing.assert_allclose(series.placement.position_mm[2], expected, atol=1e-4)
    assert not series.notes


def test_pixdim_that_disagrees_gives_way_to_the_matrix(tmp_path):
    write_oblique_nifti(tmp_path / "a.nii", zooms=(1.5, 1.3, 8))
    series = load_images(tmp_path / "a.nii")
    np.testing.assert_allclose((*series.pixel_spacing_mm, series.slice_spacing_mm), (1.5, 1.25, 8), rtol=1e-6)
    (note,) = series.notes
    assert note.endswith(
        "pixdim 1.5 x 1.3 x 8 does not agree with sform or qform, whose voxels of 1.5 x 1.25 x 8 mm are used"
    )
    write_oblique_nifti(tmp_path / "b.nii", zooms=(1.5, 1.2505, 8))
    assert not load_images(tmp_path / "b.nii").notes
    assert load_images(tmp_path / "b.nii").pixel_spacing_mm[1] == pytest.approx(1.2505, rel=1e-6)


# --- ISMRMRD ---


def place(path, axes, positions, encoded_fov=None):
    """Sets directions and positions in the headers of all acquisitions."""
    with h5py.File(path, "r+") as file:
        data = file["dataset/data"][()]
        for name, axis in zip(("read_dir", "phase_dir", "slice_dir"), axes):
            data["head"][name] = axis
        data["head"]["position"] = positions[data["head"]["idx"]["slice"]]
        file["dataset/data"][...] = data
        if encoded_fov:
            xml = file["dataset/xml"][0].decode()
            assert "<x>640.0</x>" in xml
            file["dataset/xml"][0] = xml.replace("<x>640.0</x>", f"<x>{encoded_fov}</x>")


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,)])
@pytest.mark.parametrize("encoded_fov", [None, 641.5])
def test_ismrmrd(tmp_path, order, encoded_fov):
    axes = axes_of(9)
    positions = np.array([-20.5, 33.25, 410.0]) + 9.5 * np.array(order)[:, None] * axes[2]
    heart = make_heart(0)
    source = write_mrd(tmp_path / "a.h5", heart.coil_images[: len(order), :2, :2], Mrd(subject="P7"))
    place(source, axes, positions, encoded_fov)
    path, image = prepared_nifti(tmp_path, IsmrmrdReader(), source)
    spacing = (encoded_fov or 640) / (2 * HEIGHT), 240 / WIDTH

    def world(h, w, s):
        offset = (h - HEIGHT // 2) * spacing[0] * axes[0] + (w - WIDTH // 2) * spacing[1] * axes[1]
        return LPS_TO_RAS @ (positions[s] + offset)

    assert furthest(image.get_sform(), world, image.shape) < 1e-4
    assert furthest(image.get_qform(), world, image.shape) < 1e-2
    between = 9.5 if len(order) > 1 else 8  # the field of view across the slice
    np.testing.assert_allclose(image.header.get_zooms()[:3], (*spacing, between), rtol=1e-5)
    assert image.header["sform_code"] == 1 and image.header.get_xyzt_units()[0] == "mm"
    assert Geometry.of(AcquiredScan(str(path)).attributes).pixel_spacing_mm == pytest.approx(spacing)


# --- Against dcm2niix ---


def dcm2niix_matrix(stack, num_rows):
    """What dcm2niix writes, which flips rows: columns, rows from the last to the first, slices in our order."""
    down, across = stack.axes[1] * stack.spacing[0], stack.axes[0] * stack.spacing[1]
    first = stack.corners[stack.order[0]]
    step = stack.axes[2] * (stack.between or stack.thickness)
    if len(stack.places) > 1:
        step = (stack.corners[stack.order[-1]] - first) / (len(stack.places) - 1)
    matrix = np.eye(4)
    matrix[:3] = LPS_TO_RAS @ np.stack([across, -down, step, first + (num_rows - 1) * down], axis=1)
    return matrix


def our_scan(tmp_path, folder):
    """The NIfTI file of a series whose pixels are left as they are."""
    series = load_images(folder)
    attributes = {
        "pixel_spacing_mm": series.pixel_spacing_mm,
        "slice_spacing_mm": series.slice_spacing_mm,
        "frame_time_ms": series.frame_time_ms,
        **series.placement.as_attributes(),
    }
    path = write_placed_scan(tmp_path / "scan.h5", series.magnitude.transpose(0, 2, 3, 1), attributes)
    return nib.load(reconstruct_target(path, tmp_path / "recon").nifti)


@pytest.mark.parametrize("name", STACKS)
def test_as_dcm2niix_by_formula(tmp_path, name):
    stack = STACKS[name]
    image = our_scan(tmp_path, write_stack(tmp_path / "S1", random_pixels(stack), stack))
    # From voxels of dcm2niix (column, row from the last one, slice) to ours (readout, phase encode, slice).
    flip = np.array([[0, -1, 0, ROWS - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    if stack.phase_encoding == "COL":
        flip = flip[[1, 0, 2, 3]]
    found, expected = image.affine @ flip, dcm2niix_matrix(stack, ROWS)
    if len(stack.places) == 1 and found[:3, 2] @ expected[:3, 2] < 0:  # one slice has no direction across itself
        found[:3, 2] *= -1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def dcm2niix(folder, output, *options):
    """The one NIfTI file that dcm2niix makes of a folder."""
    output.mkdir()
    command = [program("dcm2niix"), "-z", "n", "-b", "n", *options, "-o", str(output), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = output.glob("*.nii")
    return nib.load(path)


def assert_same_in_the_patient(ours, theirs, atol=0):
    """Every voxel of ours (x, y, slice) has, where it lies, the intensity that theirs has there."""
    voxels = np.array(list(np.ndindex(*ours.shape[:3])))
    there = nib.affines.apply_affine(np.linalg.inv(theirs.affine) @ ours.affine, voxels)
    assert np.abs(there - np.rint(there)).max() < 1e-4
    there = np.rint(there).astype(int)
    assert sorted(map(tuple, there)) == list(np.ndindex(*theirs.shape[:3]))
    np.testing.assert_allclose(ours.get_fdata()[tuple(voxels.T)], theirs.get_fdata()[tuple(there.T)], rtol=0, atol=atol)


needs_dcm2niix = needs("dcm2niix", "dcm2niix")


@needs_dcm2niix
@pytest.mark.parametrize("name", STACKS)
def test_as_dcm2niix(tmp_path, name):
    """Phase by phase: in a folder of several, dcm2niix takes the order of numbers for that of places."""
    stack = STACKS[name]
    pixels = random_pixels(stack)
    ours = our_scan(tmp_path, write_stack(tmp_path / "S1", pixels, stack))
    for t in range(pixels.shape[1]):
        folder = write_stack(tmp_path / f"phase{t}", pixels[:, t : t + 1], stack)
        theirs = dcm2niix(folder, tmp_path / f"converted{t}")
        assert_same_in_the_patient(ours.slicer[..., t], theirs)
        matrix = dcm2niix_matrix(stack, ROWS)
        if (theirs.affine[:3, 2] @ matrix[:3, 2]) < 0:  # it numbers the slices the other way round
            matrix[:3, 3] += (len(stack.places) - 1) * matrix[:3, 2]
            matrix[:3, 2] *= -1
        np.testing.assert_allclose(theirs.affine, matrix, atol=1e-4)


@needs_dcm2niix
def test_as_dcm2niix_with_all_phases(tmp_path):
    stack = STACKS["oblique"]
    folder = write_stack(tmp_path / "S1", random_pixels(stack, num_phases=4), stack)
    ours, theirs = our_scan(tmp_path, folder), dcm2niix(folder, tmp_path / "converted")
    assert_same_in_the_patient(ours, theirs)
    assert theirs.header.get_zooms()[3] == pytest.approx(0.04) and ours.header.get_zooms()[3] == pytest.approx(40)


@needs_dcm2niix
@pytest.mark.parametrize("name", ["oblique", "reversed", "one slice", "phase encoding along columns"])
def test_dcm2niix_finds_our_dicom_where_our_nifti_is(tmp_path, name):
    stack = STACKS[name]
    folder = write_stack(tmp_path / "S1", random_pixels(stack, num_phases=3), stack)
    (path,) = prepared(tmp_path / "out", ImagesReader(), folder, options={"coils": 2, "matrix": (25, 24)})
    files = reconstruct_target(path, tmp_path / "recon", dicom=True)
    ours, theirs = nib.load(files.nifti), dcm2niix(files.dicom, tmp_path / "converted")
    assert_same_in_the_patient(ours, theirs, atol=ours.get_fdata().max() / 65535)
