"""The phantom in a field of view that is smaller than its body."""

import numpy as np
import pytest

from meddlr_greedy.readers.formats.sampled import remove_oversampling
from projects.cine.studies.border import SEEN, WHOLE
from projects.cine.support.torso import TorsoReader, seen_by_scanner


def kspace_of(shape):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("width, times", [(5, 3), (4, 3), (6, 2)])
def test_phase_encode_folds_as_fewer_lines_of_the_same_k_space_do(width, times):
    """A field of view a third as wide is every third line, and intensities add up."""
    whole = kspace_of((7, times * width, 2, 3))
    seen = seen_by_scanner(whole, (7, width))
    lines = times * width // 2 + times * (np.arange(width) - width // 2)
    np.testing.assert_allclose(seen, np.sqrt(times) * whole[:, lines], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height", [5, 6, 9])
def test_readout_is_cut_as_oversampling_is_removed(height):
    whole = kspace_of((9, 4, 2, 3))
    expected = np.moveaxis(remove_oversampling(np.moveaxis(whole, 0, -1), height), -1, 0)
    np.testing.assert_allclose(seen_by_scanner(whole, (height, 4)), expected, rtol=1e-4, atol=1e-5)


def test_a_field_of_view_that_holds_everything_changes_nothing():
    whole = kspace_of((7, 6, 2, 3))
    np.testing.assert_allclose(seen_by_scanner(whole, (7, 6)), whole, rtol=1e-4, atol=1e-5)


def test_its_body_reaches_all_edges():
    options = {"slices": 1, "frames": 2, "coils": 3, "seen": SEEN}
    reader = TorsoReader()
    (path,) = reader.find(["subject000"])
    edges = {}
    for name, matrix in WHOLE.items():
        reader.check_options(**options, matrix=matrix)
        raw = reader.open_scan(path, **options, matrix=matrix).load_slice(0)
        assert raw.kspace.shape == (*SEEN, 2, 3) and raw.sampled.shape == (1, SEEN[1], 2)
        image = np.linalg.norm(np.fft.ifft2(raw.kspace, axes=(0, 1)), axis=-1)[..., 0]
        image = np.fft.fftshift(image) / image.max()
        edges[name] = [image[:2].mean(), image[-2:].mean(), image[:, :2].mean(), image[:, -2:].mean()]
    assert max(edges["inside"]) < 0.5 * min(edges["torso"]), edges
