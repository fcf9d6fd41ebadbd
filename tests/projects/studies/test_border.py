"""The study of the border of the field of view."""

import json
from dataclasses import replace

import numpy as np
import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import register_datasets
from projects.cine.paths import CONFIGS
from projects.cine.studies import border


def test_regions_and_their_errors():
    target = np.ones((12, 11, 2, 1), np.complex64)
    target[6, 5] = 0.01  # no signal
    places = border.regions(target)
    assert places["interior"].sum() == 2 * (4 * 3 - 1) and places["border"].sum() == 2 * (12 * 11 - 4 * 3)
    assert places["readout"][:4, 4:-4].all() and not places["readout"][4:-4].any()
    assert places["phase encode"][4:-4, :4].all() and not places["phase encode"][:4].any()
    image = target.copy()
    image[:4] += 0.5j
    image[4:8, 4:7] *= 1.1
    errors = border.relative_errors([image], [target])
    assert errors["interior"] == pytest.approx(0.1) and errors["phase encode"] == 0
    assert errors["readout"] == pytest.approx(0.5 * 0.5**0.5)  # one of its two ends


def test_trainings_differ_in_their_keys_alone():
    cfgs = [load_config(str(CONFIGS / "border.yaml"), t.opts) for t in border.TRAININGS]
    assert len({(t.name, t.used_with) for t in border.TRAININGS}) == len(cfgs)
    for training, cfg in zip(border.TRAININGS, cfgs):
        assert cfg.MISC.GREEDY.PADDING == training.padding and cfg.MODEL.UNROLLED.NUM_EMAPS == training.maps
        assert cfg.SOLVER == cfgs[0].SOLVER and cfg.AUG_TRAIN == cfgs[0].AUG_TRAIN


def test_study_writes_table_and_picture(tmp_path, monkeypatch, datasets):
    monkeypatch.setenv("MEDDLR_GREEDY_DATASETS", str(tmp_path / "data"))
    monkeypatch.setattr(border, "WHOLE", {"inside": (32, 24), "torso": (52, 36)})
    monkeypatch.setattr(border, "SEEN", (32, 24))
    monkeypatch.setattr(border, "_SUBJECTS", 3)
    both = border.TRAININGS[:2]
    monkeypatch.setattr(border, "TRAININGS", [*both, replace(both[0], used_with="circular")])
    prepare = border.prepare_data
    monkeypatch.setattr(border, "prepare_data", lambda: prepare(frames=4, coils=3, slices=1))
    monkeypatch.setattr(border, "results_folder", lambda page: tmp_path / "results")
    page, picture = tmp_path / "page.md", tmp_path / "border.png"
    page.write_text("<!-- border -->\n<!-- /border -->\n")
    arguments = ["--output", str(tmp_path / "runs"), "--page", str(page), "--picture", str(picture)]
    try:
        border.main([*arguments, "SOLVER.MAX_ITER", "2", "MODEL.UNROLLED.NUM_FEATURES", "4"])
    finally:
        monkeypatch.undo()
        register_datasets(datasets)
    study = json.loads((tmp_path / "results" / "border.json").read_text())
    assert [run["padding"] for run in study["trainings"]] == ["zeros", "circular", "zeros"]
    assert len({run["errors"]["border"] for run in study["trainings"]}) == 3
    assert list(study["zero_filled"]) == ["1"]
    errors = study["trainings"][1]["errors"]
    row = f"| inside | 1 | `circular` |  | {errors['interior']:.3f} | {errors['readout'] / errors['interior']:.2f} |"
    assert row in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
