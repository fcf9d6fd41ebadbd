"""Pictures: their frames, sizes and columns."""

import numpy as np
import pytest
import torch
from PIL import Image

from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure
from tests.helpers.evaluation import beating_disc


@pytest.mark.parametrize("num_maps,spacing,frame_time", [(1, None, None), (2, (1.5, 2.0), 40.0)])
def test_pictures_of_a_series(tmp_path, num_maps, spacing, frame_time):
    target = np.stack([beating_disc()] * num_maps, axis=-1).astype(np.complex64)
    recons = {"zero-filled": target * 0.5, "greedy": torch.from_numpy(target * 0.9)}
    kwargs = {"target": target, "title": "disc", "pixel_spacing_mm": spacing, "frame_time_ms": frame_time}
    metrics = {"zero-filled": {"PSNR": 20.0, "SSIM": 0.5}, "greedy": {"PSNR": 30.0, "SSIM": 0.9}}
    png, gif = tmp_path / "disc.png", tmp_path / "disc.gif"
    draw_recon_figure(recons, png, metrics, **kwargs)
    draw_cine_gif(recons, gif, metrics, **kwargs)
    with Image.open(png) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    with Image.open(gif) as picture:
        assert picture.n_frames == target.shape[2]
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == (frame_time or 50)
        frames = []
        for t in range(picture.n_frames):
            picture.seek(t)
            frames.append(np.asarray(picture.convert("L")).astype(int))
        assert all(np.abs(frames[0] - frame).max() > 50 for frame in frames[1:])
    assert sorted(path.name for path in png.parent.iterdir()) == ["disc.gif", "disc.png"]


def test_picture_of_one_image(tmp_path):
    image = beating_disc()[..., :1].astype(np.complex64)  # (H, W, M)
    draw_recon_figure({"a": image * 0, "b": image}, tmp_path / "a.png", {}, target=image)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 500
    for recons, message in (
        ({"a": image, "b": image[1:]}, "one shape"),
        ({}, "at least one"),
        ({"target": image}, "none of them named"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_recon_figure(recons, tmp_path / "b.png", target=image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_any_number_of_columns_and_no_target(tmp_path):
    series = beating_disc()[..., np.newaxis].astype(np.complex64)
    sizes = {}
    for count in (1, 2, 4):
        recons = {f"run {i}": series for i in range(count)}
        for target in (None, series):
            for draw, suffix in ((draw_recon_figure, "png"), (draw_cine_gif, "gif")):
                path = tmp_path / f"a.{suffix}"
                draw(recons, path, target=target)
                with Image.open(path) as picture:
                    sizes[suffix, count + (target is not None), target is not None] = picture.size
    for suffix in ("png", "gif"):
        widths = {columns: size[0] for (kind, columns, _), size in sizes.items() if kind == suffix}
        assert sorted(widths) == [1, 2, 3, 4, 5]
        assert widths[5] - widths[4] == pytest.approx(widths[2] - widths[1], abs=1)
        assert widths[2] - widths[1] > 200
        assert sizes[suffix, 2, True][1] > sizes[suffix, 2, False][1]  # a row of errors


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "name", ["a$_$b", "$\\frac{", "x^{y_{$", "50% of_{1}", "two\nlines", "\u4e2d", "\x1b[0m", "\udcff", "$" * 300]
)
def test_names_are_drawn_as_they_are(tmp_path, name):
    """A scan, a data set or a run may be called anything; to matplotlib, dollars are formulas."""
    target = beating_disc(20, 16, 2)[..., None].astype(np.complex64)
    metrics = {name: {"PSNR": np.nan, "SSIM": np.inf}}
    for draw, file in ((draw_recon_figure, "a.png"), (draw_cine_gif, "a.gif")):
        draw({name: target}, tmp_path / file, metrics, target=target, title=f"d: {name}, slice 1")
        assert (tmp_path / file).stat().st_size
