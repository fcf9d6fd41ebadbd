"""The trained networks of the package: their files, their names, and that each does what its card says."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from meddlr.modeling.meta_arch.build import build_model
from meddlr.ops import ifft2c

from meddlr_greedy import cli, eval_net, prepare, reconstruct, train_net, zoo
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer, plain_name
from meddlr_greedy.engine.run_files import config_beside, find_weights, load_network, load_run_config
from meddlr_greedy.errors import UserError
from tests.helpers.runs import ROOT, load
from tests.helpers.viewer_pages import data_of

NAMES = zoo.zoo_names()
PIG = ROOT.parent / "shared" / "data" / "pig_cine_sax" / "pig_cine_sax.npz"


def short(name):
    return name.removeprefix("zoo://")


def said(capsys, command, *argv):
    """What a command that refuses its arguments says, which is one line."""
    with pytest.raises(SystemExit) as end:
        command.main([*map(str, argv)])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


# ---- files


def test_there_are_networks():
    assert "zoo://cine-phantom-8x" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_files_are_small_and_hold_weights_alone(name):
    folder = zoo.FOLDER / short(name)
    assert sorted(path.name for path in folder.iterdir()) == ["card.md", "config.yaml", "weights.pth"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    weights = load(folder / "weights.pth")
    assert all(isinstance(key, str) and value.dtype == torch.float32 for key, value in weights.items())
    stored = sum(value.numel() * 4 for value in weights.values())
    assert (folder / "weights.pth").stat().st_size < 1.2 * stored + 20_000  # no parts of larger tensors


@pytest.mark.parametrize("name", NAMES)
def test_card_tells_the_file(name):
    weights = Path(zoo.local_file(name))
    card = zoo.card(name)
    assert card == zoo.card(short(name)) and card.startswith(f"# {short(name)}\n")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    numbers = sum(value.numel() for value in load(weights).values())
    assert f"sha256 `{digest}`" in card and f", {numbers} parameters, {weights.stat().st_size} bytes" in card
    assert "Not for clinical use." in card
    headings = ["Use", "Data and terms of use", "Recipe", "Figures", "Limits", "File"]
    assert re.findall(r"^## (.*)$", card, re.M) == headings
    assert max(map(len, card.splitlines())) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_what_the_weights_are_of(name):
    cfg = load_run_config("", name)
    assert config_beside(name) == str(zoo.FOLDER / short(name) / "config.yaml")
    weights = load(zoo.local_file(name))
    built = {plain_name(key): value.shape for key, value in build_model(cfg).state_dict().items()}
    assert {key: value.shape for key, value in weights.items()} == built
    model, _ = load_network(cfg, name)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[plain_name(key)]), key


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_the_config_that_it_was_trained_with(name):
    recipe, stored = load_config(f"zoo/{short(name)}.yaml"), load_run_config("", name)
    assert recipe.dump() == stored.dump()
    assert not Path(stored.OUTPUT_DIR).is_absolute()  # eval writes there, and never into the package


# ---- names


@pytest.mark.parametrize(
    "name",
    [
        "zoo://",
        "zoo://../x",
        "zoo://../zoo/cine-phantom-8x",
        "zoo://cine-phantom-8x/",
        "zoo://cine-phantom-8x/weights.pth",
        "zoo://cine-phantom-8x/../cine-phantom-8x",
        "zoo:///etc/passwd",
        "zoo://cine-phantom-8x\n",
        "zoo://CINE-PHANTOM-8X",
    ],
)
def test_other_names_are_refused_and_lead_to_no_file(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo:" / "x").mkdir(parents=True)
    allowed = re.escape(f"allowed are {', '.join(NAMES)}")
    for call in (
        lambda: zoo.local_file(name),
        lambda: zoo.card(name),
        lambda: find_weights("", given=name),
        lambda: load_run_config("", name),
        lambda: load_config("cine/demo.yaml", ["MODEL.WEIGHTS", name]),
        lambda: GreedyCheckpointer(torch.nn.Module(), "").load(name),
    ):
        with pytest.raises(UserError, match=f"no network .*{allowed}"):
            call()
    assert "no network" in said(capsys, reconstruct, "--weights", name, "scan.h5", "--output", "out")
    assert "no network" in said(capsys, eval_net, "--weights", name)
    assert not (tmp_path / "out").exists()


def test_the_nearest_name_is_told():
    for given in ("zoo://cine-phantom-8", "zoo://cine-phantom8x", "zoo://CINE-PHANTOM-8X"):
        with pytest.raises(UserError, match="did you mean 'zoo://cine-phantom-8x'"):
            zoo.local_file(given)


@pytest.mark.parametrize(
    "url", ["ZOO://cine-phantom-8x", "https://zoo://cine-phantom-8x", "download://zoo", "file:///x.pth"]
)
def test_every_other_url_is_refused(url, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    for command in (reconstruct, eval_net):
        more = ["x.h5", "--output", str(tmp_path / "out")] if command is reconstruct else []
        error = said(capsys, command, "--weights", url, *more)
        assert "nothing is downloaded" in error and NAMES[0] in error
    with pytest.raises(UserError, match="MODEL.WEIGHTS: .*allowed is the path of a local file, or one of zoo://cine-"):
        load_config("cine/demo.yaml", ["MODEL.WEIGHTS", url])
    with pytest.raises(UserError, match="OUTPUT_DIR: .*local file or folder"):
        load_config("cine/demo.yaml", ["OUTPUT_DIR", NAMES[0]])


def test_command_lists_the_networks_and_shows_a_card(capsys):
    cli.main(["zoo"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES and all(line.endswith(".") for line in lines)
    for name in (NAMES[0], short(NAMES[0])):
        cli.main(["zoo", name])
        assert capsys.readouterr().out == zoo.card(name) + "\n"


@pytest.mark.parametrize("command", ["reconstruct", "eval"])
def test_help_names_them(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = "".join(capsys.readouterr().out.split())  # lines are wrapped at hyphens, too
    assert all(name in text for name in NAMES)


# ---- use


def undersampled(source, path, factor=8):
    """Writes a cine scan as if acquired with a random mask, without its target: k-space, mask and target of it."""
    rng = np.random.default_rng(5)
    with h5py.File(source) as full, h5py.File(path, "w") as file:
        kspace, maps, target = full["kspace"][()], full["maps"][()], full["target"][()]
        slices, _, width, frames, _ = kspace.shape
        distance = np.abs(np.arange(width) - width // 2) / width
        density = (1 - distance) ** 6
        mask = np.zeros((slices, 1, width, frames, 1), np.uint8)
        for t in range(frames):
            lines = rng.choice(width, width // factor - 2, replace=False, p=density / density.sum())
            mask[:, :, lines, t] = mask[:, :, width // 2 - 1 : width // 2 + 1, t] = 1
        file.update({"kspace": kspace * mask, "mask": mask, "maps": maps})
    return kspace * mask, maps, target


def error(image, target):
    return np.linalg.norm(image - target) / np.linalg.norm(target)


def errors_of_command(name, scan, folder):
    """NRMSE of zero-filled images, which are computed here, and of those that the command writes."""
    kspace, maps, target = undersampled(scan, folder / "scan.h5")
    reconstruct.main(["--weights", name, str(folder / "scan.h5"), "--output", str(folder / "out")])
    with h5py.File(folder / "out" / "scan_recon.h5") as file:
        image = file["image"][()]
        assert file.attrs["weights"] == name and file.attrs["config_file"] == config_beside(name)
    coil_images = ifft2c(torch.from_numpy(kspace).flatten(3), channels_last=True).numpy().reshape(kspace.shape)
    zero_filled = (maps.conj() * coil_images[..., None]).sum(-2)
    return error(zero_filled, target), error(image, target)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """A data set of a phantom that no network was trained on; smaller, and with another seed."""
    folder = tmp_path_factory.mktemp("zoo") / "unseen"
    sizes = ["--subjects", "1", "--slices", "1", "--frames", "12", "--matrix", "72", "64", "--coils", "6"]
    prepare.main(["phantom", *sizes, "--seed", "77", "--split", "0", "0", "1", "--output", str(folder)])
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_phantom_is_reconstructed(name, phantom, tmp_path, capsys):
    (scan,) = phantom.rglob("*.h5")
    before, after = errors_of_command(name, scan, tmp_path)
    assert after < MARGIN[name] * before, (before, after)
    printed = capsys.readouterr().out
    assert f"weights: {name}\n" in printed and f"note: {name}: {SEEN[name]} Not for clinical use.\n" in printed


#: How little they have seen.
SEEN = {
    "zoo://cine-phantom-8x": "It was trained on drawings of 9 hearts, and has seen no anatomy.",
    "zoo://cine-pig-8x": "It was trained on 14 slices of one animal.",
}

#: Error of the network's images over that of zero-filled ones, at most; of the phantom.
MARGIN = {"zoo://cine-phantom-8x": 0.5, "zoo://cine-pig-8x": 0.5}


@pytest.mark.skipif(not PIG.is_file(), reason=f"needs {PIG}")
def test_slice_held_out_of_the_animal(tmp_path, capsys):
    with np.load(PIG) as series:
        np.savez(tmp_path / "slice.npz", magnitude=series["magnitude"][10:11])
    sizes = ["--acquired-matrix", "224", "160", "--matrix", "128", "128", "--coils", "8", "--split", "0", "0", "1"]
    prepare.main(["images", str(tmp_path / "slice.npz"), *sizes, "--output", str(tmp_path / "data")])
    (scan,) = (tmp_path / "data").rglob("*.h5")
    before, after = errors_of_command("zoo://cine-pig-8x", scan, tmp_path)
    assert after < 0.4 * before, (before, after)


@pytest.mark.parametrize("kind", ["2D", "two map sets"])
def test_scan_that_does_not_fit_is_one_line(kind, tmp_path, capsys):
    shape, num_maps = ((1, 16, 12, 3), 1) if kind == "2D" else ((1, 16, 12, 4, 3), 2)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.ones(shape, np.complex64)
        file["maps"] = np.ones((*shape[:3], *([1] if len(shape) == 5 else []), shape[-1], num_maps), np.complex64)
    words = {"2D": "takes cine, 5 axes", "two map sets": "maps holds 2 map sets, but the network takes 1"}[kind]
    for name in NAMES:
        assert words in said(capsys, reconstruct, "--weights", name, tmp_path / "scan.h5", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mine(phantom, tmp_path, monkeypatch):
    """The data sets mine_train and mine_test, which are the same scan, in a folder of one's own."""
    root = tmp_path / "datasets"
    shutil.copytree(phantom, root / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDDLR_GREEDY_DATASETS", str(root))
    register_datasets()
    yield
    monkeypatch.undo()
    register_datasets()


def test_eval_leaves_the_package_alone(mine, tmp_path):
    name, data = "zoo://cine-phantom-8x", ["DATASETS.TEST", "('mine_test',)"]
    before = sorted(zoo.FOLDER.rglob("*"))
    eval_net.main(["--weights", name, "--num-figures", "0", *data])
    assert sorted(zoo.FOLDER.rglob("*")) == before
    results = json.loads((tmp_path / "results/zoo/cine-phantom-8x/test_results/results.json").read_text())
    assert results["weights"] == name
    report = tmp_path / "results/zoo/cine-phantom-8x/test_results/report.html"
    assert data_of(report)["notes"][0] == f"{name}: {SEEN[name]} Not for clinical use."
    scores = {method: results["datasets"]["mine_test"][method]["nrmse"]["mean"] for method in METHODS}
    assert scores["reconstruction"] < 0.5 * scores["zero_filled"]


METHODS = ("zero_filled", "reconstruction")


def test_training_starts_from_a_network_of_the_zoo(mine, tmp_path):
    name = "zoo://cine-phantom-8x"
    data = ["DATASETS.TRAIN", "('mine_test',)", "DATASETS.VAL", "()", "DATASETS.TEST", "()"]
    still = ["SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "1e-30", "OUTPUT_DIR", str(tmp_path / "run")]
    train_net.main(["--config-file", "zoo/cine-phantom-8x.yaml", "MODEL.WEIGHTS", name, *data, *still])
    trained, start = load(tmp_path / "run" / "model_final.pth")["model"], load(zoo.local_file(name))
    assert {plain_name(key) for key in trained} == {*start}
    for key, value in trained.items():
        torch.testing.assert_close(value, start[plain_name(key)], rtol=0, atol=1e-12)
