"""A beating heart in short axis, as balanced SSFP shows it: bright blood, dark muscle, bright fat, dark lungs.

Every structure is given by a signed distance in millimeters (negative inside), so that the phantom can be drawn at any
matrix with edges one pixel wide. Tissue texture and vessels are functions of three-dimensional position: neighboring
slices of one subject resemble each other, and muscle carries its texture along as it moves.

Left out: breathing (the subject holds the breath), atria and valves, through-plane partial volume, off-resonance.
"""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from meddlr_greedy.readers.simulation.canvas import Canvas, Texture, Vessels

__all__ = ["Anatomy", "beating_heart", "left_ventricular_volume"]

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
        shape: Matrix (H, W) over :data:`meddlr_greedy.readers.simulation.canvas.FIELD_OF_VIEW_MM` in both directions.
        num_frames: Number of cardiac phases T, evenly spaced over the beat.
        slice_position: 0 at the base, 1 at the apex.
        rng: Draws the subject (:meth:`Anatomy.random`) and nothing else: generators of equal state give slices of
            the same subject.

    Returns:
        Magnitude, float32, shape (T, H, W), blood about 1.
    """
    anatomy = Anatomy.random(rng)
    canvas = Canvas.over_field_of_view(shape, z=anatomy.lv_length * (0.08 + 0.86 * slice_position))
    structure = np.random.default_rng(anatomy.texture_seed)
    texture, vessels = Texture.random(structure), Vessels.random(structure)
    chest = _draw_chest(canvas, anatomy, slice_position, texture, vessels)
    frames = [
        _draw_heart(canvas, anatomy, phase, _draw_aorta(canvas, phase, chest), texture)
        for phase in np.arange(num_frames) / num_frames
    ]
    return np.stack(frames).astype(np.float32)


def _draw_chest(
    canvas: Canvas,
    anatomy: Anatomy,
    slice_position: float,
    texture: Texture,
    vessels: Vessels,
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


def _draw_ribs(canvas: Canvas, anatomy: Anatomy, cavity: np.ndarray, image: np.ndarray) -> np.ndarray:
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


def _draw_spine(canvas: Canvas, anatomy: Anatomy, grain: np.ndarray, image: np.ndarray) -> np.ndarray:
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


def _draw_aorta(canvas: Canvas, phase: float, chest: np.ndarray) -> np.ndarray:
    """Descending aorta: widens with the pulse wave, and its signal drops with the fast flow of systole."""
    pulse = np.exp(-0.5 * ((phase - 0.25) / 0.12) ** 2)
    aorta = canvas.disc((14, 46), 10.5 + 0.8 * pulse)
    image = canvas.paint(chest, aorta - 1.5, MUSCLE)
    return canvas.paint(image, aorta, BLOOD * (1 - 0.25 * pulse))


@dataclass(frozen=True)
class _HeartState:
    """Where the heart is at one cardiac phase, and how the slice cuts it."""

    contraction: float  # 0 in end diastole, 1 in end systole
    shortening: float  # length over end-diastolic length
    level: float  # of the slice, in the heart: 0 base, 1 apex
    endo_radius: float  # of the left ventricle
    epi_radius: float
    diastolic_radius: float  # the inner one in end diastole
    center: np.ndarray  # of the left ventricle, (2,)
    septum: np.ndarray  # unit vector from the left to the right ventricle, (2,)

    @classmethod
    def at(cls, phase: float, anatomy: Anatomy, z: float) -> "_HeartState":
        volume = float(left_ventricular_volume(np.asarray(phase), anatomy.ejection_fraction))
        contraction = (1 - volume) / anatomy.ejection_fraction

        # The base descends by 15 % of the length towards the resting apex: a fixed slice comes to cut the heart nearer
        # to its base. (Above the base the heart is continued as it is there.)
        shortening = 1 - 0.15 * contraction
        length = anatomy.lv_length * shortening
        level = max(0.0, 1 - (anatomy.lv_length - z) / length)

        # Volume ~ radius^2 length; the muscle is incompressible, so its cross section grows as the heart shortens.
        profile = np.sqrt(max(0.0, 1 - level**2))
        endo_radius = anatomy.lv_radius * profile * np.sqrt(volume / shortening)
        diastolic_radius = anatomy.lv_radius * profile
        wall_section = (diastolic_radius + anatomy.wall_thickness) ** 2 - diastolic_radius**2
        epi_radius = np.sqrt(endo_radius**2 + wall_section / shortening)

        center = np.array(anatomy.heart_center) + level * np.array(anatomy.heart_tilt)
        septum = np.array([np.cos(anatomy.septum_angle), np.sin(anatomy.septum_angle)])
        center = center + 2.0 * contraction * septum
        return cls(contraction, shortening, level, endo_radius, epi_radius, diastolic_radius, center, septum)


def _draw_heart(canvas: Canvas, anatomy: Anatomy, phase: float, image: np.ndarray, texture: Texture) -> np.ndarray:
    """Both ventricles at one cardiac phase, over ``image`` (H, W)."""
    heart = _HeartState.at(phase, anatomy, canvas.z)
    dx, dy = canvas.x - heart.center[0], canvas.y - heart.center[1]
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    # Base and apex turn against each other.
    material_angle = angle - anatomy.twist * heart.contraction * (1 - 2 * heart.level)
    ellipse = 1 + anatomy.lv_ellipticity * np.cos(2 * (angle - anatomy.septum_angle))

    # Texture that moves with the muscle: sampled where the tissue lies in end diastole.
    squared = (radius**2 - heart.endo_radius**2) * heart.shortening + heart.diastolic_radius**2
    material_radius = np.sqrt(np.maximum(0, squared))
    grain = texture(
        material_radius * np.cos(material_angle),
        material_radius * np.sin(material_angle),
        heart.level * anatomy.lv_length,
    )
    endo = radius - heart.endo_radius * ellipse + _trabeculae(heart, material_angle)
    epi = radius - heart.epi_radius * ellipse + 0.4 * grain
    rv_center, free_wall, rv_trabeculae = _right_ventricle(canvas, anatomy, heart)
    rv_wall = 2.5 + 1.2 * heart.contraction

    muscle = MYOCARDIUM * (1 + 0.07 * grain)
    swirl = texture(canvas.x + 25 * np.cos(2 * np.pi * phase), canvas.y, 200 * np.sin(2 * np.pi * phase))
    blood = BLOOD * (1 + 0.03 * swirl - 0.06 * heart.contraction)

    outline = np.minimum(epi, free_wall - rv_wall)
    image = canvas.paint(image, outline - 2.5 + 1.2 * grain, 0.85 * FAT)  # epicardial fat, patchy
    image = canvas.paint(image, free_wall - rv_wall, muscle)
    rv_blood = np.maximum(free_wall + np.maximum(rv_trabeculae, 0), -epi)
    image = canvas.paint(image, rv_blood, 0.96 * blood)
    band = _moderator_band(canvas, rv_center, heart.septum, heart.level)
    image = canvas.paint(image, np.maximum(band, rv_blood), muscle)
    image = canvas.paint(image, epi, muscle)
    image = canvas.paint(image, endo, blood)
    for papillary_angle in (-0.75, 2.0):  # anterolateral, posteromedial
        papillary = _papillary_muscle(
            radius, material_angle - papillary_angle, heart.endo_radius, heart.level, heart.contraction
        )
        image = canvas.paint(image, papillary, muscle)
    return image


def _trabeculae(heart: _HeartState, material_angle: np.ndarray) -> np.ndarray:
    """How far the muscle reaches into the left ventricle, in mm."""
    return (
        (0.5 + 0.5 * heart.contraction)
        * (0.4 + heart.level)
        * min(1.0, heart.endo_radius / 15)
        * (
            np.cos(9 * material_angle + 5 * heart.level)
            + 0.7 * np.cos(14 * material_angle - 9 * heart.level + 1)
            + 0.5 * np.cos(23 * material_angle + 14 * heart.level + 2)
        )
    )


def _right_ventricle(canvas: Canvas, anatomy: Anatomy, heart: _HeartState) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Center (2,), signed distance to the inside of the free wall (H, W), and trabeculae (H, W) in mm."""
    scale = np.sqrt(max(0.0, 1 - (1.08 * heart.level) ** 2))
    radius = anatomy.rv_radius * scale * (1 - 0.16 * heart.contraction)
    distance = anatomy.rv_distance * (0.35 + 0.65 * scale) * (1 - 0.06 * heart.contraction)
    center = heart.center + distance * heart.septum
    dx, dy = canvas.x - center[0], canvas.y - center[1]
    angle = np.arctan2(dy, dx)
    free_wall = np.hypot(dx, dy) - radius * (1 + 0.12 * np.cos(2 * (angle - anatomy.septum_angle) + np.pi))
    trabeculae = (0.6 + 0.6 * heart.contraction) * (
        np.cos(13 * angle + 7 * heart.level) + 0.7 * np.cos(21 * angle - 11 * heart.level)
    )
    return center, free_wall, trabeculae


def _papillary_muscle(
    radius: np.ndarray, angle: np.ndarray, endo_radius: float, level: float, contraction: float
) -> np.ndarray:
    """Signed distance; present from 20 % to 85 % of the length, thickest in the middle, thicker as it shortens."""
    size = 4.6 * np.sqrt(max(0.0, 1 - ((level - 0.52) / 0.33) ** 2)) * (1 + 0.12 * contraction)
    if size < 0.5:
        return np.full(radius.shape, np.inf)
    from_wall = radius * np.cos(angle) - max(endo_radius - 1.15 * size, 0)
    return np.hypot(from_wall / 1.25, radius * np.sin(angle)) - size


def _moderator_band(canvas: Canvas, rv_center, septum, level: float) -> np.ndarray:
    """Signed distance to the muscle band that crosses the right ventricle in its apical half."""
    if not 0.4 < level < 0.75:
        return np.full(canvas.x.shape, np.inf)
    across = (canvas.x - rv_center[0]) * -septum[1] + (canvas.y - rv_center[1]) * septum[0]
    return np.abs(across - 8 * (level - 0.5) * 4) - 1.6
