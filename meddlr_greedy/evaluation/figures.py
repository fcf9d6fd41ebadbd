"""Pictures of a reconstruction that a person looks at: a PNG with x-t profile, and the beating heart as GIF.

Images come as (H, W, M), series as (H, W, T, M): H readout, W phase encode, T cardiac phases, M map sets; complex,
numpy or torch. Shown is the magnitude (root sum of squares over the map sets). All panels of a picture share one
grey window; the error is the difference of the magnitudes, enlarged by ``ERROR_GAIN``.
"""

from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from meddlr_greedy.files import written_atomically

__all__ = ["Profile", "draw_cine_gif", "draw_recon_figure", "profile_line"]

Images = Union[np.ndarray, torch.Tensor]
Metrics = Mapping[str, Mapping[str, float]]

ERROR_GAIN = 5
ZERO_FILLED, RECONSTRUCTION, TARGET = "zero-filled", "reconstruction", "target"
_ERROR = f"magnitude error \N{MULTIPLICATION SIGN} {ERROR_GAIN}"
_WINDOW_PERCENTILE = 99.5  # of the target: a few bright fat or skin pixels would leave the heart dark
_MARK = "#ffd21f"
_DPI = 100
_MIN_FRAME_TIME_MS = 20  # browsers show anything faster at 100 ms


class Profile(NamedTuple):
    """A line of pixels through a series.

    Attributes:
        axis: 0: a row (all W pixels at one readout position); 1: a column.
        position: Where along ``axis`` the line is.
    """

    axis: int
    position: int

    def of(self, series: np.ndarray) -> np.ndarray:
        """Magnitudes (H, W, T) -> x-t profile (pixels along the line, T)."""
        return np.take(series, self.position, axis=self.axis)


def profile_line(target: np.ndarray) -> Profile:
    """Finds a row or column through the middle of what moves: the heart.

    Of the row and the column through the centre of mass of the temporal variance, the one that changes more. (The line
    with the largest variance of all often only grazes a wall, and then shows no motion across it.)

    Args:
        target: Magnitudes (H, W, T).
    """
    variance = target.var(axis=-1)
    moving = np.maximum(variance - np.percentile(variance, 90), 0)  # what is left of noise at rest weighs nothing
    total = moving.sum()
    if total == 0:
        return Profile(0, target.shape[0] // 2)
    lines = []
    for axis in (0, 1):
        along = moving.sum(axis=1 - axis)
        position = round(float((along * np.arange(len(along))).sum() / total))
        lines.append((along[position], Profile(axis, position)))
    return max(lines)[1]


def draw_recon_figure(
    zero_filled: Images,
    recon: Images,
    target: Images,
    path: Union[str, Path],
    title_metrics: Optional[Metrics] = None,
    *,
    title: str = "",
    frame: Optional[int] = None,
    pixel_spacing_mm: Optional[Sequence[float]] = None,
    frame_time_ms: Optional[float] = None,
) -> Profile:
    """Draws zero-filled | reconstruction | target | error, and for a series the x-t profile of each below.

    Args:
        zero_filled: (H, W, M) or (H, W, T, M), complex.
        recon: As ``zero_filled``.
        target: As ``zero_filled``.
        path: PNG file to write.
        title_metrics: "zero-filled" and "reconstruction" -> name -> value, e.g. ``{"PSNR": 31.2, "SSIM": 0.91}``;
            written above the column.
        title: Line above everything, e.g. data set, scan and slice.
        frame: Cardiac phase in the upper row. Default: the one that differs most from the first (end systole).
        pixel_spacing_mm: Pixel size (readout, phase encode) in mm.
        frame_time_ms: Time between cardiac phases in ms.

    Returns:
        Profile: The line of the x-t profile (of no meaning for a single image).
    """
    panels = _panels(zero_filled, recon, target)
    white = _white_level(panels[TARGET])
    height, width, num_frames = panels[TARGET].shape
    aspect = _aspect(pixel_spacing_mm)
    line = profile_line(panels[TARGET])
    if frame is None:
        frame = _end_systole(panels[TARGET])

    is_series = num_frames > 1
    column = 3.0  # inches
    image_height = float(np.clip(column * height * aspect / width, 1.0, 6.0))
    heights = [image_height, 2.0] if is_series else [image_height]
    figure = Figure(figsize=(4 * column + 0.8, sum(heights) + 1.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 4, squeeze=False, height_ratios=heights)
    for axis, (name, series) in zip(axes[0], panels.items()):
        axis.imshow(series[..., frame], cmap="gray", vmin=0, vmax=white, aspect=aspect)
        axis.set_title(_heading(name, title_metrics), fontsize=11)
        axis.set_xticks([])
        axis.set_yticks([])
        if is_series:
            _mark_line(axis, line, height, width, dotted=name == TARGET)
    if is_series:
        axes[0, 0].set_ylabel(f"frame {frame + 1} of {num_frames}", labelpad=10)
        _draw_profiles(axes[1], panels, line, white, pixel_spacing_mm, frame_time_ms)
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(
        "magnitude, one grey window for all panels" + ("; yellow: the line of the x-t profile" if is_series else ""),
        fontsize=9,
        color="0.35",
    )
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
    return line


def draw_cine_gif(
    zero_filled: Images,
    recon: Images,
    target: Images,
    path: Union[str, Path],
    title_metrics: Optional[Metrics] = None,
    *,
    title: str = "",
    pixel_spacing_mm: Optional[Sequence[float]] = None,
    frame_time_ms: Optional[float] = None,
) -> None:
    """Draws the series as an endless GIF, zero-filled | reconstruction | target | error side by side.

    Args:
        zero_filled: (H, W, T, M), complex.
        recon: As ``zero_filled``.
        target: As ``zero_filled``.
        path: GIF file to write, with T frames.
        title_metrics: As in :func:`draw_recon_figure`.
        title: Line above everything.
        pixel_spacing_mm: Pixel size (readout, phase encode) in mm.
        frame_time_ms: Time between cardiac phases in ms; 50 if not known.
    """
    panels = _panels(zero_filled, recon, target)
    white = _white_level(panels[TARGET])
    height, width, num_frames = panels[TARGET].shape
    aspect = _aspect(pixel_spacing_mm)
    scale = max(1, round(250 / width))
    panel_width = width * scale
    panel_height = round(height * scale * aspect)
    gap, header, footer = 6, 62, 22  # pixels
    total = (4 * panel_width + 5 * gap, header + panel_height + footer)

    figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    drawn = []
    for column, (name, series) in enumerate(panels.items()):
        left = gap + column * (panel_width + gap)
        axis = figure.add_axes(
            (
                left / total[0],
                footer / total[1],
                panel_width / total[0],
                panel_height / total[1],
            )
        )
        axis.set_axis_off()
        # Nearest neighbour, at a whole number of screen pixels: the pixels are shown as they are.
        drawn.append(
            axis.imshow(series[..., 0], cmap="gray", vmin=0, vmax=white, aspect="auto", interpolation="nearest")
        )
        axis.set_title(_heading(name, title_metrics), fontsize=9, color="white", pad=3)
    figure.text(0.5, 1 - 4 / total[1], title, color="white", fontsize=9, ha="center", va="top")
    clock = figure.text(0.5, 5 / total[1], "", color="white", fontsize=8, ha="center", va="bottom")

    pictures: List[Image.Image] = []
    for frame in range(num_frames):
        for image, series in zip(drawn, panels.values()):
            image.set_data(series[..., frame])
        time = f", {frame * frame_time_ms:.0f} ms" if frame_time_ms else ""
        clock.set_text(f"frame {frame + 1} of {num_frames}{time}")
        canvas.draw()
        # A copy: the canvas draws the next frame into the same memory.
        pictures.append(Image.fromarray(np.array(canvas.buffer_rgba())).convert("L"))
    with written_atomically(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=max(_MIN_FRAME_TIME_MS, round(frame_time_ms or 50)),
            loop=0,
        )


def _panels(zero_filled: Images, recon: Images, target: Images) -> Dict[str, np.ndarray]:
    """The four panels by name, each magnitudes (H, W, T); T is 1 for a single image."""
    panels = {
        ZERO_FILLED: _magnitude(zero_filled),
        RECONSTRUCTION: _magnitude(recon),
        TARGET: _magnitude(target),
    }
    shapes = {name: series.shape for name, series in panels.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"the images must have one shape, found {shapes}")
    panels[_ERROR] = ERROR_GAIN * np.abs(panels[RECONSTRUCTION] - panels[TARGET])
    return panels


def _magnitude(images: Images) -> np.ndarray:
    """(H, W, M) or (H, W, T, M) -> (H, W, T)."""
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else images
    if array.ndim not in (3, 4):
        raise ValueError(f"an image has axes (H, W, M) or (H, W, T, M), found shape {array.shape}")
    magnitude = np.linalg.norm(array, axis=-1)
    return magnitude if magnitude.ndim == 3 else magnitude[..., np.newaxis]


def _white_level(target: np.ndarray) -> float:
    """Top of the grey window, which starts at zero."""
    return float(np.percentile(target, _WINDOW_PERCENTILE) or target.max() or 1.0)


def _aspect(pixel_spacing_mm: Optional[Sequence[float]]) -> float:
    """Height of a pixel over its width."""
    return 1.0 if pixel_spacing_mm is None else float(pixel_spacing_mm[0] / pixel_spacing_mm[1])


def _end_systole(target: np.ndarray) -> int:
    """The frame that differs most from the first: a cine series starts at the R wave, with the heart full."""
    return int(np.square(target - target[..., :1]).sum(axis=(0, 1)).argmax())


def _heading(name: str, metrics: Optional[Metrics]) -> str:
    values = (metrics or {}).get(name, {})
    return name + "\n" + "   ".join(f"{key} {_format(key, value)}" for key, value in values.items())


def _format(metric: str, value: float) -> str:
    return f"{value:.2f} dB" if metric.startswith("PSNR") else f"{value:.3f}"


def _mark_line(axis: Axes, line: Profile, height: int, width: int, dotted: bool) -> None:
    """Marks a row or column by arrowheads at the edges, and a dotted line if asked."""
    first, last = (width if line.axis == 0 else height) * np.array([0, 1]) - 0.5
    for edge, marker in ((first, ">v"), (last, "<^")):
        x, y = (edge, line.position) if line.axis == 0 else (line.position, edge)
        axis.plot(x, y, marker=marker[line.axis], color=_MARK, markersize=7, clip_on=False, linestyle="none")
    if dotted:
        draw = axis.axhline if line.axis == 0 else axis.axvline
        draw(line.position, color=_MARK, linewidth=0.8, linestyle=":")


def _draw_profiles(
    axes: Sequence[Axes],
    panels: Mapping[str, np.ndarray],
    line: Profile,
    white: float,
    pixel_spacing_mm: Optional[Sequence[float]],
    frame_time_ms: Optional[float],
) -> None:
    direction = "phase encode" if line.axis == 0 else "readout"
    pixel, length_unit = (1.0, "pixels") if pixel_spacing_mm is None else (pixel_spacing_mm[1 - line.axis], "mm")
    step, time_label = (frame_time_ms, "time (ms)") if frame_time_ms else (1, "frame")
    for axis, series in zip(axes, panels.values()):
        profile = line.of(series)
        extent: Tuple[float, float, float, float] = (
            0.0,
            profile.shape[1] * step,
            profile.shape[0] * pixel,
            0.0,
        )
        axis.imshow(profile, cmap="gray", vmin=0, vmax=white, aspect="auto", extent=extent, interpolation="nearest")
        axis.set_xlabel(time_label)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel(f"{direction} ({length_unit})")
    for axis in axes[1:]:
        axis.set_yticklabels([])
