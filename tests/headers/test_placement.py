"""Where slices lie: by the formulas of DICOM and NIfTI, and what is wrong with attributes."""

import numpy as np
import pytest

from meddlr_greedy.headers.placement import Placement, check_placement, slice_spacing

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def oblique(num_slices=3, seed=0):
    """Corners (S, 3), directions (2, 3) and the distance of the slices, at no right angle to any axis."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0].T
    corner = 100 * rng.standard_normal(3)
    return corner + 9.5 * np.arange(num_slices)[:, None] * axes[2], axes[:2], 9.5


@pytest.mark.parametrize("shape", [(12, 9), (7, 10)])
@pytest.mark.parametrize("step", [1, -1])
def test_affine_takes_voxels_where_dicom_says(shape, step):
    corners, directions, distance = oblique()
    corners, spacing = corners[::step], (1.5, 1.25)
    placement = Placement.of_first_pixel(corners, directions, spacing, shape)
    affine = placement.affine(spacing, distance, shape)
    for h, w, s in np.ndindex(*shape, len(corners)):
        # DICOM PS3.3 C.7.6.2.1.1
        expected = corners[s] + h * spacing[0] * directions[0] + w * spacing[1] * directions[1]
        np.testing.assert_allclose((affine @ [h, w, s, 1])[:3], LPS_TO_RAS @ expected, atol=1e-9)
    np.testing.assert_allclose(placement.first_mm(spacing, shape), corners, atol=1e-9)
    np.testing.assert_allclose(placement.normal, (corners[1] - corners[0]) / distance, atol=1e-9)


def test_one_slice_is_as_thick_as_is_said():
    corners, directions, _ = oblique(1)
    affine = Placement.of_first_pixel(corners, directions, (1, 1), (4, 4)).affine((1, 1), 8.0, (4, 4))
    np.testing.assert_allclose(affine[:3, 2], 8 * LPS_TO_RAS @ np.cross(*directions), atol=1e-9)


def test_the_middle_pixel_stays_where_the_matrix_is_reduced():
    corners, directions, _ = oblique()
    fine = Placement.of_first_pixel(corners, directions, (1.0, 1.5), (20, 15))
    affine = fine.affine((2.0, 2.5), 9.5, (10, 9))  # the same field of view
    np.testing.assert_allclose((affine @ [5, 4, 1, 1])[:3], LPS_TO_RAS @ fine.position_mm[1], atol=1e-9)


def test_how_slices_are_spaced():
    corners, directions, distance = oblique(4)
    even = Placement(corners, *directions)
    assert even.step_mm == pytest.approx(distance) and even.unevenness_mm < 1e-9 and even.are_apart
    gap = even.of_slices([0, 1, 3])
    assert gap.step_mm == pytest.approx(1.5 * distance) and gap.unevenness_mm == pytest.approx(distance / 2)
    one, twice = even.of_slices([2]), even.of_slices([0, 2, 0])
    assert one.step_mm is None and one.unevenness_mm == 0 and one.are_apart
    assert not twice.are_apart
    beside = Placement(corners[0] + 9 * np.arange(3)[:, None] * directions[0], *directions)  # in one plane
    assert not beside.are_apart


def test_attributes_and_slices():
    corners, directions, _ = oblique()
    placement = Placement(corners, *directions)
    again = Placement.of(placement.of_slices([2, 0]).as_attributes())
    np.testing.assert_array_equal(again.position_mm, corners[[2, 0]])
    np.testing.assert_array_equal(again.phase_direction, directions[1])
    assert Placement.of({}) is None and check_placement({}, 3) is None
    assert check_placement(placement.as_attributes(), 3) is None


@pytest.mark.parametrize(
    "name,value,words",
    [
        ("position_mm", np.zeros((2, 3)), "is float64 of shape (2, 3); allowed finite numbers of shape (3, 3)"),
        ("position_mm", np.full((3, 3), np.nan), "finite"),
        ("readout_direction", np.array([1.0, 0.1, 0]), "no two unit vectors"),
        ("phase_direction", np.array([1.0, 0, 0]), "no two unit vectors"),
        ("phase_direction", np.array(["a", "b", "c"]), "phase_direction is <U1"),
        ("phase_direction", None, "attribute position_mm without phase_direction"),
    ],
)
def test_what_is_no_placement(name, value, words):
    attributes = {**Placement(np.zeros((3, 3)), np.array([1.0, 0, 0]), np.array([0, 1.0, 0])).as_attributes()}
    if value is None:
        del attributes[name]
    else:
        attributes[name] = value
    assert words in check_placement(attributes, 3)


@pytest.mark.parametrize(
    "places,expected",
    [
        ([0, -8, -16.04], 8.02),
        ([3.0], None),
        ([0, 8, 24], None),
        ([0, 0], None),
        ([5, 13], 8),
        ([0, 8, 0, 8], None),
        ([0, np.nan, 8], None),
    ],
)
def test_slices_have_a_spacing_where_it_is_one(places, expected):
    assert slice_spacing(np.array(places, float)) == (expected and pytest.approx(expected))
