"""Where the slices of a scan lie in the patient: from the headers of a scanner to those of what is written."""

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

import numpy as np

__all__ = ["SAME_PLACE_MM", "Placement", "check_placement", "slice_spacing"]

#: Slices nearer than this are at one place.
SAME_PLACE_MM = 0.1

_NAMES = ("position_mm", "readout_direction", "phase_direction")
#: How far a direction's length may be from 1; headers hold single precision.
_LENGTH_TOLERANCE = 1e-3
#: Cosine of the angle between readout and phase encode, from which they count as one direction.
_PARALLEL = 0.999
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class Placement(NamedTuple):
    """Where slices lie, all of one orientation.

    Coordinates are those of DICOM and ISMRMRD, in mm: x to the patient's left, y to the back, z to the head (LPS).

    Attributes:
        position_mm: (S, 3), the center of pixel (H // 2, W // 2) of each slice. A centered FFT keeps that pixel in its
            place, however it crops k-space or the image.
        readout_direction: (3,), unit vector from one pixel to the next along H.
        phase_direction: (3,), the same along W.
    """

    position_mm: np.ndarray
    readout_direction: np.ndarray
    phase_direction: np.ndarray

    @classmethod
    def of_first_pixel(
        cls, first_mm: np.ndarray, directions: np.ndarray, pixel_spacing_mm: Sequence[float], shape: Sequence[int]
    ) -> "Placement":
        """Of images whose headers tell where the center of pixel (0, 0) lies.

        Args:
            first_mm: (S, 3), of each slice.
            directions: (2, 3), unit vectors along H and W.
            pixel_spacing_mm: Along H and W.
            shape: (H, W).
        """
        steps = np.asarray(directions, float) * np.asarray(pixel_spacing_mm, float)[:, None]
        middle = np.array([shape[0] // 2, shape[1] // 2]) @ steps
        return cls(np.asarray(first_mm, float) + middle, *np.asarray(directions, float))

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Optional["Placement"]:
        """The placement that the attributes of a scan file tell; ``None`` where they do not."""
        if not all(name in attributes for name in _NAMES):
            return None
        return cls(*(np.asarray(attributes[name], float) for name in _NAMES))

    def as_attributes(self) -> Dict[str, np.ndarray]:
        """Returns the attributes that :meth:`of` reads."""
        return self._asdict()

    def of_slices(self, slices: Sequence[int]) -> "Placement":
        """The placement of some of the slices."""
        return self._replace(position_mm=self.position_mm[list(slices)])

    @property
    def normal(self) -> np.ndarray:
        """(3,), unit vector across the slices, towards the last one; of one slice, that of a right-handed system."""
        normal = np.cross(self.readout_direction, self.phase_direction)
        normal /= np.linalg.norm(normal)
        return -normal if normal @ (self.position_mm[-1] - self.position_mm[0]) < 0 else normal

    @property
    def step_mm(self) -> Optional[float]:
        """From a slice to the next, the mean along the line from the first slice to the last; ``None`` of one slice."""
        count = len(self.position_mm)
        return float(np.linalg.norm(self.position_mm[-1] - self.position_mm[0])) / (count - 1) if count > 1 else None

    @property
    def are_apart(self) -> bool:
        """Whether no two slices are at one place."""
        return bool((np.diff(np.sort(self.position_mm @ self.normal)) > SAME_PLACE_MM).all())

    @property
    def unevenness_mm(self) -> float:
        """How far a slice lies at most from where it would if all were evenly spaced from the first to the last."""
        even = np.linspace(self.position_mm[0], self.position_mm[-1], len(self.position_mm))
        return float(np.linalg.norm(self.position_mm - even, axis=1).max())

    def first_mm(self, pixel_spacing_mm: Sequence[float], shape: Sequence[int]) -> np.ndarray:
        """(S, 3): the center of pixel (0, 0) of each slice of (H, W) pixels."""
        steps = np.stack(self[1:]) * np.asarray(pixel_spacing_mm, float)[:, None]
        return self.position_mm - np.array([shape[0] // 2, shape[1] // 2]) @ steps

    def affine(
        self, pixel_spacing_mm: Sequence[float], slice_spacing_mm: Optional[float], shape: Sequence[int]
    ) -> np.ndarray:
        """NIfTI's matrix (4, 4) from voxels (h, w, slice) to mm, x to the patient's right, y to the front (RAS).

        Slices that are not evenly spaced have their mean distance.

        Args:
            pixel_spacing_mm: Along H and W.
            slice_spacing_mm: Of a single slice, its thickness; ``None`` stands for 1 mm.
            shape: (H, W).
        """
        first = self.first_mm(pixel_spacing_mm, shape)
        step = self.normal * (slice_spacing_mm or 1.0)
        if len(first) > 1:
            step = (first[-1] - first[0]) / (len(first) - 1)
        matrix = np.eye(4)
        matrix[:3, 0] = self.readout_direction * pixel_spacing_mm[0]
        matrix[:3, 1] = self.phase_direction * pixel_spacing_mm[1]
        matrix[:3, 2], matrix[:3, 3] = step, first[0]
        matrix[:3] = _LPS_TO_RAS @ matrix[:3]
        return matrix


def check_placement(attributes: Mapping[str, Any], num_slices: int) -> Optional[str]:
    """What is wrong with the attributes that tell a placement; ``None`` where nothing is, or there are none."""
    present = [name for name in _NAMES if name in attributes]
    if not present:
        return None
    absent = [name for name in _NAMES if name not in attributes]
    if absent:
        return f"attribute {present[0]} without {absent[0]}; allowed all of {', '.join(_NAMES)}, or none"
    for name, shape in zip(_NAMES, ((num_slices, 3), (3,), (3,))):
        values = np.asarray(attributes[name])
        if values.shape != shape or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            return (
                f"attribute {name} is {values.dtype} of shape {values.shape}; allowed finite numbers of shape {shape}"
            )
    directions = np.stack([np.asarray(attributes[name], float) for name in _NAMES[1:]])
    lengths = np.linalg.norm(directions, axis=1)
    if (np.abs(lengths - 1) > _LENGTH_TOLERANCE).any() or abs(directions[0] @ directions[1]) > _PARALLEL:
        return f"attributes {' and '.join(_NAMES[1:])} are no two unit vectors of different directions"
    return None


def slice_spacing(places: np.ndarray) -> Optional[float]:
    """Distance of slices from one to the next, from their places along the normal in mm; ``None`` where it varies.

    Args:
        places: Of slices in order of their places, up or down.
    """
    distances = np.diff(places)
    distances = -distances if distances.size and distances[0] < 0 else distances
    # Written so that NaN has no spacing.
    if distances.size and distances.min() > SAME_PLACE_MM and np.ptp(distances) <= SAME_PLACE_MM:
        return float(distances.mean())
    return None
