"""Which weights of a run are taken, and the config beside them."""

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.engine.run_files import config_beside, find_weights, load_network, load_run_config
from meddlr_greedy.errors import UserError


def refused(out, given):
    with pytest.raises(UserError) as error:
        find_weights(out, given=str(given))
    return str(error.value)


def test_which_weights(tmp_path):
    checkpointer = GreedyCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    out = str(tmp_path)
    with pytest.raises(UserError, match="train first"):
        find_weights(out)
    with pytest.raises(UserError, match="no file 'gone.pth'"):
        find_weights(out, given="gone.pth")
    (tmp_path / "wrong").mkdir()
    with pytest.raises(UserError, match="no file '[^;]*'$"):
        find_weights(out, given=str(tmp_path / "wrong" / "gone.pth"))
    checkpointer.save("start", tag=False)
    for gone in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(UserError, match=f"no file '{gone}'; {tmp_path} holds start.pth$"):
            find_weights(out, given=str(gone))
    start = str(tmp_path / "start.pth")
    assert find_weights(out, fallback=start) == start
    checkpointer.save("model_0000007")
    last = str(tmp_path / "model_0000007.pth")
    assert find_weights(out, fallback=start) == last
    checkpointer.save("model_best", tag=False)
    assert find_weights(out, fallback=start) == str(tmp_path / "model_best.pth")
    assert find_weights(out, last=True) == last
    assert find_weights(out, given=start) == start


def test_a_wrong_path_names_the_weights_that_are_there(tmp_path):
    checkpointer = GreedyCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    assert refused("", tmp_path / "no_folder" / "gone.pth").endswith("gone.pth'")
    for name in ("model_best", "model_best_ema", "model_final", "model_final_ema", "a", "b"):
        checkpointer.save(name, tag=False)
    listed = refused("", tmp_path / "gone.pth").split("holds ")[1]
    assert listed == "b.pth, model_best_ema.pth, model_final.pth, model_final_ema.pth, model_best.pth"


def test_config_beside_the_weights(write_config, tmp_path):
    config = write_config()
    folder = tmp_path / "moved"
    folder.mkdir()
    weights = str(folder / "model_best.pth")
    torch.save({}, weights)
    assert config_beside("") == config_beside(weights) == ""
    beside = config.rename(folder / "config.yaml")
    assert config_beside(weights) == str(beside)

    cfg = load_run_config("", weights, ["SEED", "9"])
    assert cfg.SEED == 9 and cfg.OUTPUT_DIR == str(folder)  # and not the folder that the config names
    assert load_run_config("", weights, ["OUTPUT_DIR", "other"]).OUTPUT_DIR == "other"
    assert load_run_config(str(beside), weights).OUTPUT_DIR == str(tmp_path / "run")  # given: taken as it is


@pytest.mark.parametrize("has_config, given", [(True, True), (True, False), (False, True)])
def test_weights_of_another_network_name_the_config_to_use(write_config, tmp_path, has_config, given):
    folder = tmp_path / "of_another"
    folder.mkdir()
    weights = str(folder / "model_best.pth")
    torch.save({"model": {"other": torch.zeros(1)}}, weights)
    if has_config:
        (folder / "config.yaml").touch()
    taken = f", {folder}/config.yaml: with --weights and without --config-file it is taken"
    hint = taken if has_config and given else ""
    with pytest.raises(UserError, match=f"use the config that the checkpoint was trained with{hint}$"):
        load_network(load_config(str(write_config())), weights, "given.yaml" if given else "")


def test_weights_belong_to_their_multiple_of_channels(write_config, tmp_path):
    """Those of a plain network load into a greedy one of the same value, and into no other."""
    plain, greedy = write_config("CineUnrolledCNN", None, "beat"), str(write_config("CineUnrolledCNN", 2, "beat"))
    opts, weights = ["MISC.GREEDY.CHANNEL_MULTIPLE", "8"], str(tmp_path / "model.pth")
    network = build_model(load_config(str(plain), opts))
    torch.save({"model": network.state_dict()}, weights)
    loaded = load_network(load_config(greedy, opts), weights)[0].model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())
    with pytest.raises(UserError, match="blocks.0.conv1.spatial.bias' has shape .16,., the .* has .9,.; use the") as e:
        load_network(load_config(greedy), weights)
    assert "\n" not in str(e.value)


def test_no_config_is_one_line_that_says_what_to_give(tmp_path):
    weights = tmp_path / "model.pth"
    with pytest.raises(UserError, match="^--config-file: missing; give .*--weights FILE with the run's config.yaml"):
        load_run_config("", "")
    with pytest.raises(UserError, match=f"^--weights: no file '{weights}'"):
        load_run_config("", str(weights))
    weights.touch()
    with pytest.raises(UserError, match=f"^--config-file: no config.yaml beside '{weights}'; give the config of"):
        load_run_config("", str(weights))


def test_a_config_beside_weights_may_not_name_code_to_run(write_config, tmp_path, monkeypatch):
    (tmp_path / "someones_code.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = write_config().read_text().replace("RUN: {", "RUN: {IMPORTS: [someones_code], ")
    (tmp_path / "config.yaml").write_text(text)
    weights = tmp_path / "model.pth"
    weights.touch()
    with pytest.raises(UserError, match="found beside the weights, it names packages to import"):
        load_run_config("", str(weights))
    with pytest.raises(UserError, match="cannot be imported: RuntimeError: was run"):
        load_run_config(str(tmp_path / "config.yaml"), str(weights))
