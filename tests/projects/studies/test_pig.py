"""The studies on the real series: their table, and the configs of a pair."""

import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from projects.cine.studies.pig import STUDIES, table


def results(psnr, zero_filled=20.0):
    def metrics(value):
        return {name: {"mean": value} for name in ("psnr_scan", "ssim (Wang)_scan", "nrmse_scan")}

    scores = {"zero_filled": metrics(zero_filled), "reconstruction": metrics(psnr)}
    return {"datasets": {"some_test": scores}, "versions": {"torch": "2"}, "parameters": 7}


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


def test_networks_of_a_study_differ_in_the_training_alone():
    cfgs = [load_config(str(config)) for config in STUDIES["12x"].networks.values()]
    assert {cfg.DATASETS.TEST for cfg in cfgs} == {("pig12_test",)}
    assert {cfg.MODEL.UNROLLED.NUM_EMAPS for cfg in cfgs} == {2}
    for section in ("SOLVER", "DATASETS", "AUG_TRAIN"):
        assert cfgs[0][section] == cfgs[1][section]
    assert cfgs[0].MODEL.UNROLLED == cfgs[1].MODEL.UNROLLED
    assert cfgs[1].MISC.GREEDY.META_ARCHITECTURE == cfgs[0].MODEL.META_ARCHITECTURE
