"""The studies on the real series: their table, and the configs of a pair."""

import json

import numpy as np
import pytest
from PIL import Image

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from projects.cine.studies.pig import STUDIES, table
from projects.cine.support.tables import publish_picture
from projects.cine.support.trials import training_minutes


def results(psnr, zero_filled=20.0):
    def metrics(value):
        return {name: {"mean": value} for name in ("psnr_scan", "ssim (Wang)_scan", "nrmse_scan")}

    of_dataset = {"zero_filled": metrics(zero_filled), "reconstruction": metrics(psnr)}
    return {"datasets": {"some_test": of_dataset}, "versions": {"torch": "2"}, "parameters": 7}


def test_table_has_a_row_per_method_and_the_gains_of_greedy():
    runs = {"compressed sensing": results(30.0), "backprop": results(32.0), "greedy": results(31.5)}
    lines = table(runs, "some_test", {"backprop": 3.0, "greedy": 2.5}).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == ["zero-filled", *runs]
    assert lines[3].endswith("|  |") and lines[5].endswith("| 2.5 |")
    for gain in ("+11.50 dB over zero-filled", "+1.50 dB over compressed sensing", "-0.50 dB over backprop"):
        assert gain in lines[-1]


def test_rows_of_different_data_are_refused():
    runs = {"compressed sensing": results(30.0), "backprop": results(32.0), "greedy": results(31.5, 20.001)}
    assert "greedy" in table(runs, "some_test", {})
    runs["greedy"] = results(31.5, zero_filled=20.1)
    with pytest.raises(UserError, match="greedy: zero-filled PSNR .* found 20.1, allowed 20 as for compressed sensing"):
        table(runs, "some_test", {})


def test_minutes_are_those_of_all_iterations(tmp_path):
    rows = [{"iteration": 9, "time": 6.0}, {"iteration": 14, "time": 12.0}, {"iteration": 14, "val": 1.0}]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_minutes(tmp_path / "metrics.json") == pytest.approx(2.0)


def test_networks_of_a_study_differ_in_the_training_alone():
    cfgs = [load_config(str(config)) for config in STUDIES["12x"].networks.values()]
    assert {cfg.DATASETS.TEST for cfg in cfgs} == {("pig12_test",)}
    assert {cfg.MODEL.UNROLLED.NUM_EMAPS for cfg in cfgs} == {2}
    for section in ("SOLVER", "DATASETS", "AUG_TRAIN"):
        assert cfgs[0][section] == cfgs[1][section]
    assert cfgs[0].MODEL.UNROLLED == cfgs[1].MODEL.UNROLLED
    assert cfgs[1].MISC.GREEDY.META_ARCHITECTURE == cfgs[0].MODEL.META_ARCHITECTURE


def test_a_large_gif_is_published_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 80), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40, loop=0)
    publish_picture(tmp_path / "a.gif", tmp_path / "same.gif")
    assert (tmp_path / "same.gif").read_bytes() == (tmp_path / "a.gif").read_bytes()
    publish_picture(tmp_path / "a.gif", tmp_path / "small.gif", max_bytes=5000)
    assert (tmp_path / "small.gif").stat().st_size <= 5000
    with Image.open(tmp_path / "small.gif") as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 40
