"""What the phantom is drawn with: signed distances in millimeters, texture, and vessels."""

from dataclasses import dataclass
from typing import Tuple, Union

import numpy as np

__all__ = ["FIELD_OF_VIEW_MM", "Canvas", "Texture", "Vessels"]

#: Square, in readout and phase encode; larger than any body drawn here, so that nothing aliases.
FIELD_OF_VIEW_MM = 300.0


@dataclass(frozen=True)
class Canvas:
    """Positions of the pixels of one slice in mm from the isocenter, and the pixel size that edges are smoothed to."""

    x: np.ndarray
    y: np.ndarray
    z: float
    pixel: float

    @classmethod
    def over_field_of_view(cls, shape: Tuple[int, int], z: float) -> "Canvas":
        """A matrix (H, W) over :data:`FIELD_OF_VIEW_MM` in both directions, ``z`` mm from the base of the heart."""
        spacing = FIELD_OF_VIEW_MM / np.asarray(shape)
        y, x = ((np.arange(n) - n // 2) * d for n, d in zip(shape, spacing))
        y, x = np.meshgrid(y, x, indexing="ij")
        return cls(x=x, y=y, z=z, pixel=float(spacing.mean()))

    def paint(self, image: np.ndarray, distance: np.ndarray, value: Union[float, np.ndarray]) -> np.ndarray:
        """``value`` where the signed distance is negative, over an edge one pixel wide."""
        inside = np.clip(0.5 - distance / self.pixel, 0, 1)
        return image + inside * (value - image)

    def disc(self, center: Tuple[float, float], radius: float) -> np.ndarray:
        """Signed distance to a circle."""
        return np.hypot(self.x - center[0], self.y - center[1]) - radius

    def ellipse(self, center: Tuple[float, float], half_axes: Tuple[float, float], exponent: float = 2.0) -> np.ndarray:
        """Signed distance to a (super)ellipse, exact on its edge and to first order near it."""
        u = np.abs(self.x - center[0]) / half_axes[0]
        v = np.abs(self.y - center[1]) / half_axes[1]
        level = (u**exponent + v**exponent) ** (1 / exponent)
        slope = np.hypot(u / half_axes[0], v / half_axes[1]) / np.maximum(np.hypot(u, v), 1e-6)
        return (level - 1) / np.maximum(slope, 1e-6)


@dataclass(frozen=True)
class Texture:
    """A sum of plane waves of random direction and 5 to 40 mm wavelength: standard deviation 1, mean 0."""

    wave_vectors: np.ndarray  # (waves, 3), rad / mm
    phases: np.ndarray
    amplitudes: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, num_waves: int = 32) -> "Texture":
        """Draws directions and phases."""
        wavelength = np.geomspace(5, 40, num_waves)
        direction = rng.standard_normal((num_waves, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        amplitude = np.sqrt(wavelength)
        return cls(
            wave_vectors=2 * np.pi * direction / wavelength[:, None],
            phases=rng.uniform(0, 2 * np.pi, num_waves),
            amplitudes=amplitude * np.sqrt(2 / np.sum(amplitude**2)),
        )

    def __call__(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        """The texture at positions in mm, float32."""
        total = np.zeros(x.shape, np.float32)
        for (kx, ky, kz), phase, amplitude in zip(self.wave_vectors, self.phases, self.amplitudes):
            argument = (kx * x + ky * y + (kz * z + phase)).astype(np.float32)
            total += np.float32(amplitude) * np.cos(argument)
        return total


@dataclass(frozen=True)
class Vessels:
    """Straight tapered pieces of vessel in three dimensions, spread over the whole thorax."""

    starts: np.ndarray  # (vessels, 3) mm
    ends: np.ndarray
    radii: np.ndarray  # mm

    @classmethod
    def random(cls, rng: np.random.Generator, num_vessels: int = 320) -> "Vessels":
        """Draws places, directions, lengths and radii."""
        starts = rng.uniform((-125, -95, -25), (125, 95, 115), (num_vessels, 3))
        # Away from the hila, as vessels of the lung and liver run.
        outward = starts * (1, 1, 0.3) + rng.normal(0, 35, (num_vessels, 3))
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        lengths = rng.uniform(10, 40, (num_vessels, 1))
        return cls(starts, starts + lengths * outward, rng.uniform(0.8, 2.8, num_vessels))

    def distance(self, canvas: Canvas) -> np.ndarray:
        """Signed distance to the nearest vessel that the slice cuts; infinite where there is none."""
        nearest = np.full(canvas.x.shape, np.inf)
        for start, end, radius in zip(self.starts, self.ends, self.radii):
            low, high = sorted((start[2], end[2]))
            if not low - radius < canvas.z < high + radius:
                continue
            along = end - start
            dx, dy, dz = canvas.x - start[0], canvas.y - start[1], canvas.z - start[2]
            s = (dx * along[0] + dy * along[1] + dz * along[2]) / (along @ along)
            s = np.clip(s, 0, 1)
            gap = np.sqrt((dx - s * along[0]) ** 2 + (dy - s * along[1]) ** 2 + (dz - s * along[2]) ** 2)
            np.minimum(nearest, gap - radius * (1 - 0.5 * s), out=nearest)
        return nearest
