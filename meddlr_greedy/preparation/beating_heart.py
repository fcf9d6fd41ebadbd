"""A beating heart in short axis, as balanced SSFP shows it: bright blood, dark muscle, bright fat, dark lungs.

Every structure is given by a signed distance in millimetres (negative inside), so that the phantom can be drawn at any
matrix with edges one pixel wide. Tissue texture and vessels are functions of three-dimensional position: neighboring
slices of one subject resemble each other, and muscle carries its texture along as it moves.

Left out: breathing (the subject holds the breath), atria and valves, through-plane partial volume, off-resonance.
"""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

__all__ = ["FIELD_OF_VIEW_MM", "Anatomy", "beating_heart", "left_ventricular_volume"]

# Square, in readout and phase encode; larger than any body drawn here, so that nothing aliases.
FIELD_OF_VIEW_MM = 300.0

# Signal of balanced SSFP at 1.5 T relative to blood, to the eye's accuracy.
BLOOD, MYOCARDIUM, FAT, MUSCLE, LUNG = 1.0, 0.34, 0.8, 0.22, 0.04
LIVER, MARROW, CORTICAL_BONE, CEREBROSPINAL_FLUID, SPINAL_CORD = 0.38, 0.42, 0.08, 0.95, 0.4

END_SYSTOLE, END_RAPID_FILLING, ATRIAL_CONTRACTION = 0.35, 0.60, 0.84  # fractions of the cycle
_ISOVOLUMIC_RELAXATION = 0.05
_RAPID_FILLING_SHARE = 0.7  # of the stroke volume; the atrial contraction adds the rest


@dataclass(frozen=True)
class Anatomy:
    """One subject; lengths in mm, angles in rad, image axes x to the right and y down, z from base to apex."""

    body_half_axes: Tuple[float, float]
    fat_thickness: float
    muscle_thickness: float
    heart_center: Tuple[float, float]
    heart_tilt: Tuple[float, float]  # in-plane shift of the long axis from base to apex
    lv_radius: float  # of the blood pool, at the base in end diastole
    lv_length: float
    lv_ellipticity: float
    wall_thickness: float
    ejection_fraction: float
    twist: float
    septum_angle: float  # direction from the left to the right ventricle
    rv_radius: float
    rv_distance: float
    heart_rate_bpm: float
    texture_seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Anatomy":
        """Draws an adult: healthy to moderately reduced function, slim to stout."""
        lv_radius = rng.uniform(21, 27)
        return cls(
            body_half_axes=(rng.uniform(122, 140), rng.uniform(96, 114)),
            fat_thickness=rng.uniform(5, 18),
            muscle_thickness=rng.uniform(9, 15),
            heart_center=(rng.uniform(18, 34), rng.uniform(-24, -10)),
            heart_tilt=(rng.uniform(4, 16), rng.uniform(-2, 10)),
            lv_radius=lv_radius,
            lv_length=rng.uniform(78, 95),
            lv_ellipticity=rng.uniform(-0.06, 0.06),
            wall_thickness=rng.uniform(7.5, 11),
            ejection_fraction=rng.uniform(0.48, 0.68),
            twist=rng.uniform(0.1, 0.2),
            septum_angle=np.pi + rng.uniform(0.1, 0.6),
            rv_radius=lv_radius * rng.uniform(1.35, 1.6),
            rv_distance=lv_radius * rng.uniform(0.95, 1.15),
            heart_rate_bpm=rng.uniform(52, 88),
            texture_seed=int(rng.integers(2**31)),
        )


def left_ventricular_volume(phase: np.ndarray, ejection_fraction: float) -> np.ndarray:
    """Left-ventricular volume over end-diastolic volume.

    Ejection ends at 35 % of the cycle; rapid filling, diastasis (constant) and the atrial contraction follow.

    Args:
        phase: Cardiac phase in [0, 1), 0 at the R wave.
        ejection_fraction: Stroke volume over end-diastolic volume.
    """

    def rise(start: float, end: float) -> np.ndarray:
        return 0.5 - 0.5 * np.cos(np.pi * np.clip((phase - start) / (end - start), 0, 1))

    early = rise(END_SYSTOLE + _ISOVOLUMIC_RELAXATION, END_RAPID_FILLING)
    late = rise(ATRIAL_CONTRACTION, 1.0)
    emptied = rise(0.0, END_SYSTOLE) - _RAPID_FILLING_SHARE * early - (1 - _RAPID_FILLING_SHARE) * late
    return 1 - ejection_fraction * emptied


def beating_heart(
    shape: Tuple[int, int],
    num_frames: int,
    slice_position: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """One short-axis slice through one heart beat.

    Args:
        shape: Matrix (H, W) over :data:`FIELD_OF_VIEW_MM` in both directions.
        num_frames: Number of cardiac phases T, evenly spaced over the beat.
        slice_position: 0 at the base, 1 at the apex.
        rng: Draws the subject (:meth:`Anatomy.random`) and nothing else: generators of equal state give slices of
            the same subject.

    Returns:
        Magnitude, float32, shape (T, H, W), blood about 1.
    """
    anatomy = Anatomy.random(rng)
    canvas = _Canvas.of_shape(shape, z=anatomy.lv_length * (0.08 + 0.86 * slice_position))
    structure = np.random.default_rng(anatomy.texture_seed)
    texture, vessels = _Texture.random(structure), _Vessels.random(structure)
    chest = _draw_chest(canvas, anatomy, slice_position, texture, vessels)
    frames = [
        _draw_heart(canvas, anatomy, phase, _draw_aorta(canvas, phase, chest), texture)
        for phase in np.arange(num_frames) / num_frames
    ]
    return np.stack(frames).astype(np.float32)


@dataclass(frozen=True)
class _Canvas:
    """Positions of the pixels of one slice in mm from the isocenter, and the pixel size that edges are smoothed to."""

    x: np.ndarray
    y: np.ndarray
    z: float
    pixel: float

    @classmethod
    def of_shape(cls, shape: Tuple[int, int], z: float) -> "_Canvas":
        spacing = FIELD_OF_VIEW_MM / np.asarray(shape)
        y, x = ((np.arange(n) - n // 2) * d for n, d in zip(shape, spacing))
        y, x = np.meshgrid(y, x, indexing="ij")
        return cls(x=x, y=y, z=z, pixel=float(spacing.mean()))

    def paint(self, image: np.ndarray, distance: np.ndarray, value) -> np.ndarray:
        """``value`` where the signed distance is negative, over an edge one pixel wide."""
        inside = np.clip(0.5 - distance / self.pixel, 0, 1)
        return image + inside * (value - image)

    def disc(self, center: Tuple[float, float], radius: float) -> np.ndarray:
        return np.hypot(self.x - center[0], self.y - center[1]) - radius

    def ellipse(self, center, half_axes, exponent: float = 2.0) -> np.ndarray:
        """Signed distance to a (super)ellipse, exact on its edge and to first order near it."""
        u = np.abs(self.x - center[0]) / half_axes[0]
        v = np.abs(self.y - center[1]) / half_axes[1]
        level = (u**exponent + v**exponent) ** (1 / exponent)
        slope = np.hypot(u / half_axes[0], v / half_axes[1]) / np.maximum(np.hypot(u, v), 1e-6)
        return (level - 1) / np.maximum(slope, 1e-6)


@dataclass(frozen=True)
class _Texture:
    """A sum of plane waves of random direction and 5 to 40 mm wavelength: standard deviation 1, mean 0."""

    wave_vectors: np.ndarray  # (waves, 3), rad / mm
    phases: np.ndarray
    amplitudes: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, num_waves: int = 32) -> "_Texture":
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
        total = np.zeros(x.shape, np.float32)
        for (kx, ky, kz), phase, amplitude in zip(self.wave_vectors, self.phases, self.amplitudes):
            argument = (kx * x + ky * y + (kz * z + phase)).astype(np.float32)
            total += np.float32(amplitude) * np.cos(argument)
        return total


@dataclass(frozen=True)
class _Vessels:
    """Straight tapered pieces of vessel in three dimensions, spread over the whole thorax."""

    starts: np.ndarray  # (vessels, 3) mm
    ends: np.ndarray
    radii: np.ndarray  # mm

    @classmethod
    def random(cls, rng: np.random.Generator, num_vessels: int = 320) -> "_Vessels":
        starts = rng.uniform((-125, -95, -25), (125, 95, 115), (num_vessels, 3))
        # Away from the hila, as vessels of the lung and liver run.
        outward = starts * (1, 1, 0.3) + rng.normal(0, 35, (num_vessels, 3))
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        lengths = rng.uniform(10, 40, (num_vessels, 1))
        return cls(starts, starts + lengths * outward, rng.uniform(0.8, 2.8, num_vessels))

    def distance(self, canvas: _Canvas) -> np.ndarray:
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


def _draw_chest(
    canvas: _Canvas,
    anatomy: Anatomy,
    slice_position: float,
    texture: _Texture,
    vessels: _Vessels,
) -> np.ndarray:
    """Everything that stands still: chest wall, lungs, liver, spine. Shape (H, W)."""
    grain = texture(canvas.x, canvas.y, canvas.z)
    vessel = vessels.distance(canvas)
    # Displacing the contours by the long-wave texture makes them less of an ellipse.
    body = canvas.ellipse((0, 4), anatomy.body_half_axes, exponent=2.4) + 1.2 * grain
    muscle = body + anatomy.fat_thickness * (1 + 0.4 * np.sin(canvas.x / 40 + canvas.y / 60))
    cavity = muscle + anatomy.muscle_thickness

    image = np.zeros(canvas.x.shape)
    image = canvas.paint(image, body, MUSCLE)  # skin
    image = canvas.paint(image, body + 2, FAT * (1 + 0.06 * grain))
    image = canvas.paint(image, muscle, MUSCLE * (1 + 0.2 * grain))
    # Fasciae: thin sheets of fat between the muscles.
    image = canvas.paint(image, np.maximum(muscle + 2, np.abs(grain) - 0.12), 0.6 * FAT)
    image = canvas.paint(image, cavity, LUNG * (1 + 0.3 * grain))
    image = canvas.paint(image, np.maximum(cavity + 2, vessel), 0.7 * BLOOD)
    image = _draw_ribs(canvas, anatomy, cavity, image)

    # The dome of the diaphragm rises into the picture from base to apex.
    liver_axes = (66 + 30 * slice_position, 40 + 30 * slice_position)
    liver = np.maximum(canvas.ellipse((-56, 76), liver_axes) + 1.5 * grain, cavity + 1)
    image = canvas.paint(image, liver, LIVER * (1 + 0.08 * grain))
    image = canvas.paint(image, np.maximum(liver + 4, vessel), 0.75 * BLOOD)
    mediastinum = np.maximum(canvas.ellipse((2, 34), (24, 44)) + 3 * grain, cavity)
    image = canvas.paint(image, mediastinum, FAT * (0.55 + 0.12 * grain))
    return _draw_spine(canvas, anatomy, grain, image)


def _draw_ribs(canvas: _Canvas, anatomy: Anatomy, cavity: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Ribs and sternum: marrow in a dark shell, in the wall around the cavity."""
    angle = np.arctan2(canvas.y, canvas.x)
    depth = np.abs(cavity - 0.45 * anatomy.muscle_thickness)
    half_thickness = 0.3 * anatomy.muscle_thickness
    # Ribs cross the slice obliquely, so their position along the wall moves from slice to slice.
    along = 11 * angle + canvas.z / 12
    arc = np.abs(np.arctan2(np.sin(along), np.cos(along))) * np.hypot(canvas.x, canvas.y) / 11
    ribs = np.maximum(depth - half_thickness, arc - 11)
    image = canvas.paint(image, ribs, CORTICAL_BONE)
    image = canvas.paint(image, ribs + 1.5, MARROW)
    sternum = np.maximum(depth - half_thickness - 1, np.maximum(np.abs(canvas.x + 6) - 17, canvas.y))
    image = canvas.paint(image, sternum, CORTICAL_BONE)
    return canvas.paint(image, sternum + 1.8, 1.3 * MARROW)


def _draw_spine(canvas: _Canvas, anatomy: Anatomy, grain: np.ndarray, image: np.ndarray) -> np.ndarray:
    x = -12.0
    y = 4 + anatomy.body_half_axes[1] - anatomy.fat_thickness - 46
    back_muscles = np.minimum(canvas.ellipse((x - 27, y + 28), (25, 17)), canvas.ellipse((x + 27, y + 28), (25, 17)))
    image = canvas.paint(image, back_muscles, MUSCLE * (1.1 + 0.2 * grain))
    arch = canvas.ellipse((x, y + 24), (20, 12))
    image = canvas.paint(image, arch, 1.5 * CORTICAL_BONE)
    vertebra = canvas.ellipse((x, y), (20, 15), exponent=2.6)
    image = canvas.paint(image, vertebra, CORTICAL_BONE)
    image = canvas.paint(image, vertebra + 1.8, MARROW * (1 + 0.12 * grain))
    canal = canvas.ellipse((x, y + 24), (10, 8))
    image = canvas.paint(image, canal, CEREBROSPINAL_FLUID)
    return canvas.paint(image, canvas.ellipse((x, y + 24.5), (5, 3.6)), SPINAL_CORD)


def _draw_aorta(canvas: _Canvas, phase: float, chest: np.ndarray) -> np.ndarray:
    """Descending aorta: widens with the pulse wave, and its signal drops with the fast flow of systole."""
    pulse = np.exp(-0.5 * ((phase - 0.25) / 0.12) ** 2)
    aorta = canvas.disc((14, 46), 10.5 + 0.8 * pulse)
    image = canvas.paint(chest, aorta - 1.5, MUSCLE)
    return canvas.paint(image, aorta, BLOOD * (1 - 0.25 * pulse))


def _draw_heart(canvas: _Canvas, anatomy: Anatomy, phase: float, image: np.ndarray, texture: _Texture) -> np.ndarray:
    """Both ventricles at one cardiac phase, over ``image`` (H, W)."""
    volume = float(left_ventricular_volume(np.asarray(phase), anatomy.ejection_fraction))
    contraction = (1 - volume) / anatomy.ejection_fraction  # 0 in end diastole, 1 in end systole

    # The base descends by 15 % of the length towards the resting apex: a fixed slice comes to cut the heart nearer to
    # its base. (Above the base the heart is continued as it is there.)
    shortening = 1 - 0.15 * contraction
    length = anatomy.lv_length * shortening
    level = max(0.0, 1 - (anatomy.lv_length - canvas.z) / length)  # 0 base, 1 apex

    # Volume ~ radius^2 length; the muscle is incompressible, so its cross section grows as the heart shortens.
    profile = np.sqrt(max(0.0, 1 - level**2))
    endo_radius = anatomy.lv_radius * profile * np.sqrt(volume / shortening)
    diastolic_radius = anatomy.lv_radius * profile
    wall_section = (diastolic_radius + anatomy.wall_thickness) ** 2 - diastolic_radius**2
    epi_radius = np.sqrt(endo_radius**2 + wall_section / shortening)

    center = np.array(anatomy.heart_center) + level * np.array(anatomy.heart_tilt)
    septum = np.array([np.cos(anatomy.septum_angle), np.sin(anatomy.septum_angle)])
    center = center + 2.0 * contraction * septum
    dx, dy = canvas.x - center[0], canvas.y - center[1]
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    # Base and apex turn against each other.
    material_angle = angle - anatomy.twist * contraction * (1 - 2 * level)
    ellipse = 1 + anatomy.lv_ellipticity * np.cos(2 * (angle - anatomy.septum_angle))

    # Texture that moves with the muscle: sampled where the tissue lies in end diastole.
    material_radius = np.sqrt(np.maximum(0, (radius**2 - endo_radius**2) * shortening + diastolic_radius**2))
    grain = texture(
        material_radius * np.cos(material_angle),
        material_radius * np.sin(material_angle),
        level * anatomy.lv_length,
    )
    trabeculae = (
        (0.5 + 0.5 * contraction)
        * (0.4 + level)
        * min(1.0, endo_radius / 15)
        * (
            np.cos(9 * material_angle + 5 * level)
            + 0.7 * np.cos(14 * material_angle - 9 * level + 1)
            + 0.5 * np.cos(23 * material_angle + 14 * level + 2)
        )
    )
    endo = radius - endo_radius * ellipse + trabeculae
    epi = radius - epi_radius * ellipse + 0.4 * grain

    rv_scale = np.sqrt(max(0.0, 1 - (1.08 * level) ** 2))
    rv_radius = anatomy.rv_radius * rv_scale * (1 - 0.16 * contraction)
    rv_distance = anatomy.rv_distance * (0.35 + 0.65 * rv_scale) * (1 - 0.06 * contraction)
    rv_center = center + rv_distance * septum
    rv_x, rv_y = canvas.x - rv_center[0], canvas.y - rv_center[1]
    rv_angle = np.arctan2(rv_y, rv_x)
    free_wall = np.hypot(rv_x, rv_y) - rv_radius * (1 + 0.12 * np.cos(2 * (rv_angle - anatomy.septum_angle) + np.pi))
    rv_trabeculae = (0.6 + 0.6 * contraction) * (
        np.cos(13 * rv_angle + 7 * level) + 0.7 * np.cos(21 * rv_angle - 11 * level)
    )
    rv_wall = 2.5 + 1.2 * contraction

    muscle = MYOCARDIUM * (1 + 0.07 * grain)
    swirl = texture(canvas.x + 25 * np.cos(2 * np.pi * phase), canvas.y, 200 * np.sin(2 * np.pi * phase))
    blood = BLOOD * (1 + 0.03 * swirl - 0.06 * contraction)

    heart = np.minimum(epi, free_wall - rv_wall)
    image = canvas.paint(image, heart - 2.5 + 1.2 * grain, 0.85 * FAT)  # epicardial fat, patchy
    image = canvas.paint(image, free_wall - rv_wall, muscle)
    rv_blood = np.maximum(free_wall + np.maximum(rv_trabeculae, 0), -epi)
    image = canvas.paint(image, rv_blood, 0.96 * blood)
    image = canvas.paint(image, np.maximum(_moderator_band(canvas, rv_center, septum, level), rv_blood), muscle)
    image = canvas.paint(image, epi, muscle)
    image = canvas.paint(image, endo, blood)
    for papillary_angle in (-0.75, 2.0):  # anterolateral, posteromedial
        image = canvas.paint(
            image,
            _papillary_muscle(radius, material_angle - papillary_angle, endo_radius, level, contraction),
            muscle,
        )
    return image


def _papillary_muscle(
    radius: np.ndarray, angle: np.ndarray, endo_radius: float, level: float, contraction: float
) -> np.ndarray:
    """Signed distance; present from 20 % to 85 % of the length, thickest in the middle, thicker as it shortens."""
    size = 4.6 * np.sqrt(max(0.0, 1 - ((level - 0.52) / 0.33) ** 2)) * (1 + 0.12 * contraction)
    if size < 0.5:
        return np.full(radius.shape, np.inf)
    from_wall = radius * np.cos(angle) - max(endo_radius - 1.15 * size, 0)
    return np.hypot(from_wall / 1.25, radius * np.sin(angle)) - size


def _moderator_band(canvas: _Canvas, rv_center, septum, level: float) -> np.ndarray:
    """Signed distance to the muscle band that crosses the right ventricle in its apical half."""
    if not 0.4 < level < 0.75:
        return np.full(canvas.x.shape, np.inf)
    across = (canvas.x - rv_center[0]) * -septum[1] + (canvas.y - rv_center[1]) * septum[0]
    return np.abs(across - 8 * (level - 0.5) * 4) - 1.6
