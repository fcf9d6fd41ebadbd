"""Cards are made of what eval measured; what is published of a training is its weights and its config."""

import json

import pytest
import torch
from meddlr.modeling.meta_arch.build import build_model

from meddlr_greedy import zoo as networks
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.engine.setup import save_config
from meddlr_greedy.errors import UserError
from projects.cine import zoo
from tests.helpers.runs import load

NAMES = [name.removeprefix("zoo://") for name in networks.zoo_names()]


def test_every_network_can_be_trained_again():
    assert {*NAMES} <= {*zoo.NETWORKS}
    for name, network in zoo.NETWORKS.items():
        assert load_config(f"zoo/{name}.yaml").DATASETS.TEST == (f"{network.dataset}_test",)


@pytest.mark.parametrize("name", NAMES)
def test_card_is_what_the_command_wrote(name):
    results = json.loads(zoo.raw_results(name).read_text())
    assert networks.card(name) == zoo.card_text(name, results)
    scores = results["datasets"][f"{zoo.NETWORKS[name].dataset}_test"]
    psnr = {method: scores[method]["psnr_scan"]["mean"] for method in ("zero_filled", "reconstruction")}
    assert f"| network | {psnr['reconstruction']:.2f} |" in networks.card(name)
    assert psnr["reconstruction"] > psnr["zero_filled"] + 3
    assert results["weights"] == f"zoo://{name}"


@pytest.fixture
def run(tmp_path, monkeypatch, write_config):
    """The folder of a training: a checkpoint with the state of an optimizer, and its config."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = load_config(str(write_config("CineUnrolledCNN", modules=2, data="beat")), ["OUTPUT_DIR", str(folder)])
    model = build_model(config)
    optimizer = torch.optim.Adam(model.parameters())
    sum(value.sum() for value in model.parameters()).backward()
    optimizer.step()
    GreedyCheckpointer(model, str(folder), optimizer=optimizer).save("model_best", iteration=7)
    save_config(config)
    monkeypatch.setattr(networks, "FOLDER", tmp_path / "zoo")
    networks.FOLDER.mkdir()
    return folder, model


def test_weights_alone_are_published(run):
    folder, model = run
    zoo.publish("some-net", folder)
    weights = load(networks.FOLDER / "some-net" / "weights.pth")
    expected = {key.removeprefix("model."): value for key, value in model.state_dict().items()}
    assert weights.keys() == expected.keys() and all(torch.equal(weights[key], expected[key]) for key in weights)
    assert networks.zoo_names() == ["zoo://some-net"]
    assert load_config(str(networks.FOLDER / "some-net" / "config.yaml")).OUTPUT_DIR == "results/zoo/some-net"


def test_large_weights_are_refused(run, monkeypatch):
    monkeypatch.setattr(zoo, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="some-net: found .* bytes, allowed are 1000"):
        zoo.publish("some-net", run[0])
    assert networks.zoo_names() == []


def test_series_must_be_given(capsys):
    with pytest.raises(SystemExit) as end:
        zoo.main(["--network", "cine-pig-8x"])
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: --images: missing; cine-pig-8x")
