"""What a run is continued from: refused where it is damaged or not whole, told of where it is another run's."""

import json
import shutil

import numpy as np
import pytest
import torch

from meddlr_greedy import eval_net
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.errors import UserError
from meddlr_greedy.train_net import main as train_main
from tests.conftest import COMMON, GREEDY
from tests.helpers.errors import without_progress
from tests.helpers.runs import load, metrics

OPTS = ["SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "3", "MISC.GREEDY.EMA", "0.9"]


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """A finished run of five iterations, and its config."""
    folder = tmp_path_factory.mktemp("trained")
    text = COMMON.format(arch="GreedyUnrolled", data="flat", out=folder / "run")
    config = folder / "config.yaml"
    config.write_text(text + GREEDY.format(arch="GeneralizedUnrolledCNN", modules=2))
    train_main(["--config-file", str(config), *OPTS])
    return config, folder / "run"


@pytest.fixture
def run(trained, tmp_path, capsys):
    """A copy of the finished run, as it was after iteration 3."""
    folder = tmp_path / "run"
    shutil.copytree(trained[1], folder)
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    capsys.readouterr()
    return folder


@pytest.fixture
def resume(trained, run, capsys):
    """Continues the copied run; returns what it printed. With ``words`` it must be refused, with nothing changed."""

    def resume(*opts, words=None):
        arguments = ["--config-file", str(trained[0]), "--resume", "OUTPUT_DIR", str(run), *OPTS, *map(str, opts)]
        if words is None:
            train_main(arguments)
            return capsys.readouterr().out
        before = (run / "metrics.json").read_bytes()
        with pytest.raises(SystemExit) as end:
            train_main(arguments)
        error = without_progress(capsys.readouterr().err)
        assert end.value.code == 2 and error.startswith("error: ") and "\n" not in error, error
        assert words in error, error
        assert (run / "metrics.json").read_bytes() == before
        return error

    return resume


def change(path, edit):
    """Changes what a checkpoint holds."""
    content = load(path)
    changed = edit(content)
    torch.save(content if changed is None else changed, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found ''"),
        (b"\xff\xfe", "not the name of a checkpoint"),
        (b"../other/model.pth", "found '../other/model.pth'"),
        (b"/etc/passwd", "found '/etc/passwd'"),
        (b"..", "found '..'"),
        (b"model_0000009.pth", "names 'model_0000009.pth', which is not there"),
        (b"x" * 5000, "found 'xxx"),
        (b"a\0b", "last_checkpoint"),
        ("folder", "not a regular file"),
        ("dangling", "last_checkpoint"),
    ],
)
def test_the_name_of_the_last_checkpoint(run, resume, content, words):
    tag = run / "last_checkpoint"
    tag.unlink()
    if content == "folder":
        tag.mkdir()
    elif content == "dangling":
        tag.symlink_to(run / "nothing")
    else:
        tag.write_bytes(content)
    assert str(tag) in resume(words=words)


def test_without_that_name_the_newest_checkpoint_is_taken(run, resume, trained):
    (run / "last_checkpoint").unlink()
    resume()
    assert [line["iteration"] for line in metrics(run)] == list(range(5))
    ours, whole = (load(folder / "model_final.pth")["model"] for folder in (run, trained[1]))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_without_that_name_the_final_checkpoint_is_the_newest(run, resume, trained):
    (run / "last_checkpoint").unlink()
    shutil.copy(trained[1] / "model_final.pth", run)
    trained_lines = (run / "metrics.json").read_text()
    resume()
    assert (run / "metrics.json").read_text().startswith(trained_lines)  # times, too: nothing is trained again


def drop(*keys):
    def edit(content):
        for key in keys:
            del content[key]

    return edit


def put(*path, value):
    def edit(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


def weights(edit, *path):
    def apply(content):
        for key in path:
            content = content[key]
        name = next(iter(content["model"]))
        content["model"][name] = edit(content["model"][name])

    return apply


ODD = {
    "no optimizer": (drop("optimizer"), "holds no optimizer,"),
    "no scheduler and no run": (drop("scheduler", "run"), "holds no run, scheduler,"),
    "no iteration": (drop("iteration"), "iteration is None"),
    "negative iteration": (put("iteration", value=-7), "iteration is -7"),
    "iteration as text": (put("iteration", value="3"), "iteration is '3'"),
    "iteration as True": (put("iteration", value=True), "iteration is True"),
    "iteration of a longer run": (put("iteration", value=5), "iteration is 5, allowed is 0 to 4"),
    "weights NaN": (weights(lambda w: w * float("nan")), "holds NaN or infinity"),
    "averages NaN": (weights(lambda w: w * float("nan"), "ema"), "model_0000003.pth: ema: 'resnets"),
    "averages of another network": (weights(lambda w: w[:1], "ema"), "model_0000003.pth: ema: 'resnets"),
    "averages of fewer parameters": (
        lambda c: c["ema"]["model"].popitem() and None,
        "ema: 'step_sizes.3' has shape none",
    ),
    "averages without weights": (put("ema", value={"updates": 4}), "KeyError: 'model'"),
    "averages as a list": (put("ema", value=[1, 2]), "damaged or not a checkpoint of a training"),
    "averages as text": (put("ema", "model", "model.step_sizes.0", value="x"), "damaged or not a checkpoint"),
    "updates negative": (put("ema", "updates", value=-1), "ema: updates is -1, allowed is an integer from 0"),
    "other moments": (
        put("optimizer", "state", 0, "exp_avg", value=torch.zeros(3)),
        "optimizer: 'exp_avg' of parameter 0 has shape (3,)",
    ),
    "moments infinite": (
        put("optimizer", "state", 1, "step", value=torch.tensor(float("inf"))),
        "'step' of parameter 1 holds NaN or infinity",
    ),
    "moments as text": (put("optimizer", "state", 0, "step", value="x"), "'step' of parameter 0 is 'x'"),
    "fewer parameters": (lambda c: c["optimizer"]["param_groups"].pop() and None, "holds the state of"),
    "learning rate NaN": (put("optimizer", "param_groups", 0, "lr", value=float("nan")), "optimizer: lr is nan"),
    "no learning rate": (lambda c: c["optimizer"]["param_groups"][1].pop("lr") and None, "optimizer: lr is None"),
    "optimizer is a list": (put("optimizer", value=[1, 2]), "damaged or not a checkpoint of a training"),
    "rates of another network": (put("scheduler", "base_lrs", value=[0.1]), "scheduler: base_lrs has 1 values"),
    "a method of the scheduler": (put("scheduler", "get_lr", value=5), "scheduler: 'get_lr' is no value"),
    "schedule NaN": (put("scheduler", "last_epoch", value=float("nan")), "scheduler: last_epoch is nan"),
    "run without its seed": (lambda c: c["run"].pop("seed") and None, "KeyError: 'seed'"),
    "no state of a generator": (put("run", "torch_rng", value=torch.zeros(3)), "damaged or not a checkpoint"),
    "a damaged state of numpy": (put("run", "numpy_rng", value=["MT19937", torch.zeros(2)]), "damaged or not"),
    "a damaged state of Python": (put("run", "python_rng", value=None), "damaged or not a checkpoint"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_checkpoint_that_is_not_whole(run, resume, name):
    edit, words = ODD[name]
    change(run / "model_0000003.pth", edit)
    assert "model_0000003.pth" in resume(words=words)


def test_other_batches_are_told_of_with_both_values(run, resume):
    printed = resume(
        *(
            "SOLVER.TRAIN_BATCH_SIZE",
            1,
            "AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS",
            "(3,)",
            "DATASETS.TRAIN",
            "('flat_val',)",
        ),
        *("SOLVER.WEIGHT_DECAY", "0.5", "MISC.GREEDY.NUM_MODULES", "4"),
    )
    for words in (
        "SOLVER.TRAIN_BATCH_SIZE: found 1, but the checkpoint's run has 2",
        "AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS: found (3,), but the checkpoint's run has (2,)",
        "DATASETS.TRAIN: found ('flat_val',), but the checkpoint's run has ('flat_train',)",
        "training scans: found 1 scans with 2 examples",
        "but the checkpoint's run has 2 scans with 4 examples",
        "SOLVER.WEIGHT_DECAY: found 0.5",
        "MISC.GREEDY.NUM_MODULES: found 4, but the checkpoint's run has 2",
    ):
        assert words in printed, words


def test_the_same_run_and_one_of_an_earlier_version_are_continued_without_a_word(run, resume):
    def edit(content):
        del content["run"]["data"]
        for key in set(content["run"]["solver"]) - {"OPTIMIZER", "GRAD_ACCUM_ITERS", "BASE_LR"}:
            del content["run"]["solver"][key]

    change(run / "model_0000003.pth", edit)
    assert "but the checkpoint's run" not in resume()
    assert "but the checkpoint's run" not in resume()  # finished, with all of the present version
    assert load(run / "model_final.pth")["run"]["data"]["SOLVER.TRAIN_BATCH_SIZE"] == "2"


def test_lines_of_metrics_that_are_none(run, resume):
    lines = (run / "metrics.json").read_bytes().splitlines(keepends=True)
    others = [b"5\n", b"[]\n", b"{\n", b"\xff\xfe\n", b'{"iteration": "x"}\n', b"[" * 5000 + b"\n"]
    (run / "metrics.json").write_bytes(b"".join([*others, *lines]) + b'{"iteration": 4, "lo')
    resume()
    after = (run / "metrics.json").read_bytes().splitlines(keepends=True)
    assert after[: len(others)] == others  # not the trainer's to drop; what was torn by a kill is gone
    assert [json.loads(line)["iteration"] for line in after[len(others) :]] == list(range(5))


def test_the_best_value_so_far(run, resume):
    best = run / "model_best.pth"
    for value, beaten in ((float("nan"), True), (float("inf"), True), (1e9, False), ("x", None)):
        change(best, put("value", value=value))
        if beaten is None:
            assert "model_best.pth" in resume(words="remove it to go on without")
            continue
        (run / "last_checkpoint").write_text("model_0000003.pth")
        resume()
        assert (load(best)["value"] < 1e9) == beaten
    change(best, put("metric", value="val_nrmse"))
    change(best, put("value", value=1e9))
    (run / "last_checkpoint").write_text("model_0000003.pth")
    assert "its value is not compared" in resume()
    assert load(best)["metric"] == "val_psnr"


class Opaque:
    pass


def save_text(path):
    path.write_text("these are no weights\n" * 100)


def save_pickle(path):
    torch.save({"model": Opaque()}, path)


def save_numbers_as_names(path):
    torch.save({"model": {3: torch.zeros(2)}}, path)


def save_integers(path):
    change(path, weights(lambda w: w.to(torch.int64)))


def save_infinity(path):
    change(path, weights(lambda w: w.to(torch.float64) + 1e300))  # finite, until it is the network's float32


def save_sparse(path):
    change(path, weights(lambda w: w.to_sparse()))


def save_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_flipped(path):
    content = bytearray(path.read_bytes())
    for i in np.random.RandomState(0).randint(0, len(content), 50):
        content[i] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (save_text, "damaged, or not a file of tensors"),
        (save_pickle, "damaged, or not a file of tensors"),
        (save_numbers_as_names, "holds no weights"),
        (save_integers, "is torch.int64"),
        (save_infinity, "holds NaN or infinity"),
        pytest.param(save_sparse, "torch.sparse_coo", marks=pytest.mark.filterwarnings("ignore:Sparse invariant")),
        (save_half, "damaged, or not a file of tensors"),
        (save_flipped, "model_best.pth"),
    ],
)
def test_weights_to_evaluate(run, trained, capsys, damage, words):
    damage(run / "model_best.pth")
    with pytest.raises(SystemExit) as end:
        eval_net.main(["--config-file", str(trained[0]), "--weights", str(run / "model_best.pth")])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and error.startswith("error: ") and words in error, error


@pytest.mark.parametrize("url", ["https://example.org/model.pth", "github://model.pth", "download://x.org/model.pth"])
def test_nothing_is_downloaded(trained, capsys, monkeypatch, url):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    for option in (["--weights", url], ["MODEL.WEIGHTS", url], ["OUTPUT_DIR", url]):
        with pytest.raises(SystemExit) as end:
            eval_net.main(["--config-file", str(trained[0]), *option])
        assert end.value.code == 2 and "local file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        eval_net.main(["--weights", url])
    assert end.value.code == 2 and "local file" in capsys.readouterr().err


def test_a_fresh_run_leaves_checkpoints_without_their_tag_alone(run, trained, capsys):
    (run / "last_checkpoint").unlink()
    with pytest.raises(SystemExit):
        train_main(["--config-file", str(trained[0]), "OUTPUT_DIR", str(run)])
    assert "holds the checkpoints of an earlier run" in capsys.readouterr().err


def test_batch_norm_counts_with_integers(tmp_path):
    model = torch.nn.BatchNorm2d(2)
    GreedyCheckpointer(model, str(tmp_path)).save("model")
    GreedyCheckpointer(model, str(tmp_path)).load(str(tmp_path / "model.pth"))
    state = {**model.state_dict(), "num_batches_tracked": torch.tensor(1.0)}
    torch.save({"model": state}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="'num_batches_tracked' is torch.float32"):
        GreedyCheckpointer(model, str(tmp_path)).load(str(tmp_path / "odd.pth"))
