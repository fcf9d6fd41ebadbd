"""Pictures of reconstructions that a person looks at: a PNG with x-t profiles, and the beating heart as GIF.

Images come as (H, W, M), series as (H, W, T, M): H readout, W phase encode, T cardiac phases, M map sets; complex,
numpy or torch. Shown is the magnitude (root sum of squares over the map sets). A picture has one column for the
target, where there is one, and one for each named reconstruction. All panels share one gray window; the error is the
difference of the magnitudes, enlarged by ``ERROR_GAIN``.
"""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from meddlr_greedy.errors import OneLineError, first_line, keep_cause, no_room
from meddlr_greedy.evaluation.heart import HeartRegion, Profile, heart_region
from meddlr_greedy.files import printable, written_atomically

__all__ = [
    "TARGET",
    "draw_cine_gif",
    "draw_recon_figure",
    "drawn_or_told",
    "magnitude",
    "score_text",
    "white_level",
]

Images = Union[np.ndarray, torch.Tensor]
Metrics = Mapping[str, Mapping[str, float]]

ERROR_GAIN = 5
TARGET = "target"  #: What the target is called in pictures.
_ERROR = f"magnitude error \N{MULTIPLICATION SIGN} {ERROR_GAIN}"
_WINDOW_PERCENTILE = 99.5  # of the reference: a few bright fat or skin pixels would leave the heart dark
_MARK = "#ffd21f"
_DPI = 100
_MIN_FRAME_TIME_MS = 20  # browsers show anything faster at 100 ms


@contextmanager
def drawn_or_told(path: Path, what: str = "picture") -> Iterator[List[Path]]:
    """Inside the block a picture is drawn; where that fails, one line tells so: a picture never costs the results.

    Gives a list, which holds the path of the picture at the end, where it was drawn. What is no fault of the picture
    (a full disk, say) is raised.
    """
    drawn: List[Path] = []
    try:
        yield drawn
    except (OneLineError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 (of matplotlib, PIL, or of numbers that nobody thought of)
        if no_room(error):
            raise
        line = f"{path}: no {what} ({type(error).__name__}: {first_line(error)})"
        keep_cause(line, error)
        print(f"note: {line}")
    else:
        drawn.append(path)


class _Columns(NamedTuple):
    """What a picture shows: name -> magnitudes (H, W, T), T is 1 for a single image.

    Attributes:
        images: The target first, where there is one, then the reconstructions.
        errors: Of the reconstructions, enlarged; empty without a target.
        reference: Of the images, the one that decides window, x-t line and frame: the target, or the last one.
    """

    images: Dict[str, np.ndarray]
    errors: Dict[str, np.ndarray]
    reference: np.ndarray

    @classmethod
    def arranged(cls, recons: Mapping[str, Images], target: Optional[Images]) -> "_Columns":
        """From what :func:`draw_recon_figure` is given."""
        images = {name: magnitude(recon) for name, recon in recons.items()}
        if not images or TARGET in images:
            raise ValueError(f"at least one reconstruction is needed, none of them named '{TARGET}'")
        errors = {}
        if target is not None:
            images = {TARGET: magnitude(target), **images}
        shapes = {name: series.shape for name, series in images.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"the images must have one shape, found {shapes}")
        if target is not None:
            errors = {name: ERROR_GAIN * np.abs(images[name] - images[TARGET]) for name in recons}
        return cls(images, errors, images[TARGET] if target is not None else list(images.values())[-1])


def draw_recon_figure(
    recons: Mapping[str, Images],
    path: Union[str, Path],
    title_metrics: Optional[Metrics] = None,
    *,
    target: Optional[Images] = None,
    title: str = "",
    frame: Optional[int] = None,
    pixel_spacing_mm: Optional[Sequence[float]] = None,
    frame_time_ms: Optional[float] = None,
) -> None:
    """Draws target and reconstructions side by side; below each its error, and for a series its x-t profile.

    Args:
        recons: Name -> (H, W, M) or (H, W, T, M), complex; any number, all of one shape.
        path: PNG file to write.
        title_metrics: Name of a reconstruction -> name -> value, e.g. ``{"PSNR, complex": 31.2}``; written above its
            column.
        target: As one of ``recons``; without it no errors are drawn.
        title: Line above everything, e.g. data set, scan and slice.
        frame: Cardiac phase of images and errors. Default: the one that differs most from the first (end systole).
        pixel_spacing_mm: Pixel size (readout, phase encode) in mm.
        frame_time_ms: Time between cardiac phases in ms.

    Raises:
        ValueError: Shapes differ, or there is nothing to draw.
    """
    columns = _Columns.arranged(recons, target)
    white = white_level(columns.reference)
    height, width, num_frames = columns.reference.shape
    is_series = num_frames > 1
    aspect = _aspect(pixel_spacing_mm)
    heart = heart_region(columns.reference)
    if frame is None:
        frame = _end_systole(columns.reference)

    column = 3.0  # inches
    image_height = float(np.clip(column * height * aspect / width, 1.0, 6.0))
    heights = [image_height, *([image_height] if columns.errors else []), *([2.0] if is_series else [])]
    figure = Figure(figsize=(len(columns.images) * column + 0.8, sum(heights) + 1.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), len(columns.images), squeeze=False, height_ratios=heights)
    for axis, (name, series) in zip(axes[0], columns.images.items()):
        _show(axis, series[..., frame], white, aspect)
        axis.set_title(_heading(name, title_metrics), fontsize=11, parse_math=False)
    if is_series:
        _mark_heart(axes[0], heart, height, width)
    if columns.errors:
        _draw_errors(axes[1], columns, frame, white, aspect)
    if is_series:
        axes[0, 0].set_ylabel(f"frame {frame + 1} of {num_frames}", labelpad=10)
        _draw_profiles(axes[-1], columns.images, heart.line, white, pixel_spacing_mm, frame_time_ms)
    figure.suptitle(printable(title), fontsize=12, parse_math=False)  # names may hold a "$"
    legend = "; yellow: heart region and line of the x-t profile" if is_series else ""
    figure.supxlabel(f"magnitude, one gray window for all panels{legend}", fontsize=9, color="0.35")
    with written_atomically(path) as partial:
        figure.savefig(partial, format="png")


def draw_cine_gif(
    recons: Mapping[str, Images],
    path: Union[str, Path],
    title_metrics: Optional[Metrics] = None,
    *,
    target: Optional[Images] = None,
    title: str = "",
    pixel_spacing_mm: Optional[Sequence[float]] = None,
    frame_time_ms: Optional[float] = None,
) -> None:
    """Draws series as an endless GIF: target and reconstructions side by side, the errors below.

    Args:
        recons: Name -> (H, W, T, M), complex; any number, all of one shape.
        path: GIF file to write, with T frames.
        title_metrics: As in :func:`draw_recon_figure`.
        target: As one of ``recons``; without it no errors are drawn.
        title: Line above everything.
        pixel_spacing_mm: Pixel size (readout, phase encode) in mm.
        frame_time_ms: Time between cardiac phases in ms; 50 if not known.

    Raises:
        ValueError: Shapes differ, or there is nothing to draw.
    """
    columns = _Columns.arranged(recons, target)
    layout = _GifLayout.fitted(columns, _aspect(pixel_spacing_mm))
    figure = Figure(figsize=(layout.width / _DPI, layout.height / _DPI), dpi=_DPI, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    drawn = _draw_panels(figure, columns, layout, title_metrics)
    heading: Dict[str, Any] = {"color": "white", "fontsize": 9, "ha": "center", "va": "top", "parse_math": False}
    figure.text(0.5, 1 - 4 / layout.height, printable(title), **heading)
    clock = figure.text(0.5, 5 / layout.height, "", color="white", fontsize=8, ha="center", va="bottom")

    num_frames = columns.reference.shape[2]
    pictures: List[Image.Image] = []
    for frame in range(num_frames):
        for image, series in drawn:
            image.set_data(series[..., frame])
        time = f", {frame * frame_time_ms:.0f} ms" if frame_time_ms else ""
        clock.set_text(f"frame {frame + 1} of {num_frames}{time}")
        canvas.draw()
        # A copy: the canvas draws the next frame into the same memory.
        pictures.append(Image.fromarray(np.array(canvas.buffer_rgba())).convert("L"))
    with written_atomically(path) as partial:
        pictures[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=max(_MIN_FRAME_TIME_MS, round(frame_time_ms or 50)),
            loop=0,
        )


class _GifLayout(NamedTuple):
    """Where the panels of a GIF are, in pixels: one column per image, a second row for the errors."""

    panel_width: int
    panel_height: int
    num_columns: int
    num_rows: int
    gap: int = 6
    header: int = 76
    footer: int = 22

    @classmethod
    def fitted(cls, columns: _Columns, aspect: float) -> "_GifLayout":
        """For panels about 250 pixels wide, at a whole number of screen pixels."""
        height, width, _ = columns.reference.shape
        scale = max(1, round(250 / width))
        num_rows = 2 if columns.errors else 1
        return cls(width * scale, round(height * scale * aspect), len(columns.images), num_rows)

    @property
    def width(self) -> int:
        return self.num_columns * (self.panel_width + self.gap) + self.gap

    @property
    def height(self) -> int:
        return self.header + self.num_rows * (self.panel_height + self.gap) - self.gap + self.footer

    def box(self, row: int, column: int) -> Tuple[float, float, float, float]:
        """A panel as matplotlib wants it: left, bottom, width and height, relative to the figure."""
        left = self.gap + column * (self.panel_width + self.gap)
        bottom = self.footer + (self.num_rows - 1 - row) * (self.panel_height + self.gap)
        return (
            left / self.width,
            bottom / self.height,
            self.panel_width / self.width,
            self.panel_height / self.height,
        )


def _draw_panels(
    figure: Figure, columns: _Columns, layout: _GifLayout, metrics: Optional[Metrics]
) -> List[Tuple[AxesImage, np.ndarray]]:
    """Draws the first frame; returns each image with its series (H, W, T)."""
    white = white_level(columns.reference)
    drawn = []
    for row, panels in enumerate([columns.images, columns.errors][: layout.num_rows]):
        for column, name in enumerate(columns.images):
            axis = figure.add_axes(layout.box(row, column))
            axis.set_axis_off()
            if row == 0:
                axis.set_title(_heading(name, metrics), fontsize=9, color="white", pad=3, parse_math=False)
            if name not in panels:
                axis.text(0.5, 0.5, _ERROR, color="0.6", fontsize=9, ha="center", va="center")
                continue
            # Nearest neighbor, at a whole number of screen pixels: the pixels are shown as they are.
            image = axis.imshow(
                panels[name][..., 0], cmap="gray", vmin=0, vmax=white, aspect="auto", interpolation="nearest"
            )
            drawn.append((image, panels[name]))
    return drawn


def _show(axis: Axes, image: np.ndarray, white: float, aspect: float) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=white, aspect=aspect)
    axis.set_xticks([])
    axis.set_yticks([])


def magnitude(images: Images) -> np.ndarray:
    """The root sum of squares over the map sets: (H, W, M) or (H, W, T, M) -> (H, W, T), T is 1 for a single image.

    Raises:
        ValueError: The images have other axes.
    """
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else images
    if array.ndim not in (3, 4):
        raise ValueError(f"an image has axes (H, W, M) or (H, W, T, M), found shape {array.shape}")
    combined = np.linalg.norm(array, axis=-1)
    return combined if combined.ndim == 3 else combined[..., np.newaxis]


def white_level(reference: np.ndarray) -> float:
    """Top of the gray window, which starts at zero."""
    return float(np.percentile(reference, _WINDOW_PERCENTILE) or reference.max() or 1.0)


def _aspect(pixel_spacing_mm: Optional[Sequence[float]]) -> float:
    """Height of a pixel over its width."""
    return 1.0 if pixel_spacing_mm is None else float(pixel_spacing_mm[0] / pixel_spacing_mm[1])


def _end_systole(series: np.ndarray) -> int:
    """The frame that differs most from the first: a cine series starts at the R wave, with the heart full."""
    return int(np.square(series - series[..., :1]).sum(axis=(0, 1)).argmax())


def _heading(name: str, metrics: Optional[Metrics]) -> str:
    values = (metrics or {}).get(name, {})
    return "\n".join([printable(name), *(f"{key} {score_text(key, value)}" for key, value in values.items())])


def score_text(metric: str, value: float) -> str:
    """A score as it stands above an image."""
    return f"{value:.2f} dB" if metric.startswith("PSNR") else f"{value:.3f}"


def _mark_heart(axes: Sequence[Axes], heart: HeartRegion, height: int, width: int) -> None:
    """Marks the line of the x-t profile in all images, and the heart region in the first."""
    for axis in axes:
        _mark_line(axis, heart.line, height, width, dotted=axis is axes[0])
    if not heart.is_empty:
        corner = (heart.columns.start - 0.5, heart.rows.start - 0.5)
        size = (heart.columns.stop - heart.columns.start, heart.rows.stop - heart.rows.start)
        axes[0].add_patch(Rectangle(corner, *size, fill=False, color=_MARK, linewidth=0.8))


def _draw_errors(axes: Sequence[Axes], columns: _Columns, frame: int, white: float, aspect: float) -> None:
    for axis, name in zip(axes, columns.images):
        if name in columns.errors:
            _show(axis, columns.errors[name][..., frame], white, aspect)
        else:
            axis.set_axis_off()
    axes[1].set_ylabel(_ERROR, labelpad=10)


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
        profile = line.take(series)
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
