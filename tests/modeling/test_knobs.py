"""The keys of MISC.GREEDY that trade memory, time and the reach of the local losses, against explicit loops."""

import copy

import pytest
import torch
from meddlr.checkpoint import Checkpointer
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.safe_yaml import read_yaml
from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.train_net import main as train_main
from projects.cine.support.measuring import make_batch
from tests.helpers.errors import expect_error
from tests.helpers.networks import batches, held_bytes, plain_network, train_stock
from tests.helpers.runs import assert_same_run, metrics

# Kinds of networks: data, architecture, overrides.
DROPOUT = ["MODEL.UNROLLED.DROPOUT", "0.3"]
SHARED = ["MODEL.UNROLLED.SHARE_WEIGHTS", "True"]
CG = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)"]
UNET = ["MODEL.UNROLLED.BLOCK_ARCHITECTURE", "UnetModel", "MODEL.UNET.CHANNELS", "4", "MODEL.UNET.NUM_POOL_LAYERS", "2"]
CIRCULAR = ["MISC.GREEDY.PADDING", "circular"]
PADDED = [*CIRCULAR, "MODEL.UNROLLED.BLOCK_ARCHITECTURE", "PaddedResNet"]
BATCH_NORM = ["MODEL.UNROLLED.CONV_BLOCK.NORM", "batch"]
KINDS = {
    "ResNet": ("flat", "GeneralizedUnrolledCNN", []),
    "U-Net": ("flat", "GeneralizedUnrolledCNN", UNET),
    "dropout": ("flat", "GeneralizedUnrolledCNN", DROPOUT),
    "BatchNorm": ("flat", "GeneralizedUnrolledCNN", BATCH_NORM),
    "shared": ("flat", "GeneralizedUnrolledCNN", SHARED + DROPOUT),
    "shared BatchNorm": ("flat", "GeneralizedUnrolledCNN", SHARED + BATCH_NORM),
    "CG": ("flat", "CGUnrolledCNN", CG),
    "cine": ("beat", "CineUnrolledCNN", DROPOUT),
    "cine CG": ("beat", "CGCineUnrolledCNN", CG),
    "circular": ("flat", "GeneralizedUnrolledCNN", PADDED + DROPOUT),
    "circular cine": ("beat", "CineUnrolledCNN", CIRCULAR + DROPOUT),
}


def knobs(**values):
    """Overrides of MISC.GREEDY."""
    return [text for key, value in values.items() for text in (f"MISC.GREEDY.{key}", str(value))]


@pytest.fixture
def config_of(write_config):
    def load(kind, modules, *opts):
        data, arch, overrides = KINDS[kind]
        return load_config(str(write_config(data=data, arch=arch, modules=modules)), [*overrides, *opts])

    return load


def batch_of(cfg):
    batch = next(iter(GreedyTrainer.build_train_loader(cfg)))
    return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}


def model_of(cfg, like=None):
    torch.manual_seed(0)
    model = build_model(cfg).train()
    if like is not None:
        model.load_state_dict(like.state_dict())
    return model


def gradients(model, batch, seed=None, batches=2):
    """Of the sum over some forward and backward passes, which draw random numbers one after the other."""
    torch.manual_seed(1)
    for _ in range(batches):
        model.losses.loss(batch, model(batch, seed=seed)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def loss_of_image(model, batch, image):
    return model.losses.loss(batch, {"pred": image, "target": batch["target"]})


def assert_equal(a, b, rtol=0.0):
    assert a.keys() == b.keys() and any(value is not None and value.abs().max() > 0 for value in a.values())
    for name, value in a.items():
        if rtol:
            assert (value - b[name]).norm() <= rtol * b[name].norm(), name
        else:
            assert (value is None and b[name] is None) or torch.equal(value, b[name]), name


# ---- CHECKPOINT


def seeds_of(kind, modules):
    """Both where something is drawn."""
    return [None, 5] if "MODEL.UNROLLED.DROPOUT" in KINDS[kind][2] else [5 if modules == 2 else None]


@pytest.mark.parametrize(
    ("kind", "modules", "seed"),
    [(kind, modules, seed) for kind in KINDS for modules in (1, 2, 4) for seed in seeds_of(kind, modules)],
)
@pytest.mark.parametrize("checkpoint", [True, "block"])
def test_checkpointing_changes_no_bit(config_of, kind, modules, seed, checkpoint):
    cfg = config_of(kind, modules)
    plain, checkpointed = model_of(cfg), model_of(config_of(kind, modules, *knobs(CHECKPOINT=checkpoint)))
    assert checkpointed.unrolled.mode.recompute == ("step" if checkpoint is True else "block")
    assert not plain.unrolled.mode.recompute
    batch = batch_of(cfg)
    assert_equal(gradients(checkpointed, batch, seed), gradients(plain, batch, seed))
    for (name, a), b in zip(checkpointed.named_buffers(), plain.buffers()):
        assert torch.equal(a, b), name


def test_a_block_that_stands_in_a_list_twice_is_recomputed_as_often(config_of):
    def gradients_of(checkpoint):
        model = model_of(config_of("cine", 2, *knobs(CHECKPOINT=checkpoint)))
        for regularizer in model.model.resnets:
            regularizer.blocks.append(regularizer.blocks[0])
        return gradients(model, batch_of(config_of("cine", 2)), seed=5)

    assert_equal(gradients_of("block"), gradients_of(""))


def allocated_peak(step):
    """Most bytes that a step has allocated at one time; also those of a recomputation, which no hook sees."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    peak = now = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.fixture
def peak_of(config_of):
    def peak(kind, steps, modules, **values):
        features = ["MODEL.UNROLLED.NUM_FEATURES", "32", "MODEL.UNROLLED.NUM_UNROLLED_STEPS", str(steps)]
        model = model_of(config_of(kind, modules, *features, *knobs(**values)))
        batch = make_batch("cpu", (64, 64), num_coils=2)

        def step():
            complex_l1(model(batch)["pred"], batch["target"]).backward()

        step()  # the gradients are there already
        return allocated_peak(step)

    return peak


def test_checkpointing_holds_images_and_one_step(peak_of):
    one_step, eight_steps = (peak_of("ResNet", steps, 1) for steps in (1, 8))
    checkpointed = peak_of("ResNet", 8, 1, CHECKPOINT=True)
    images = 8 * 64 * 64 * 8
    assert eight_steps > 4 * one_step, "the test shows nothing"
    assert checkpointed < 1.1 * one_step + 2 * images


# ---- OVERLAP


def explicit_gradients(model, batch, loss_of, seed=None):
    """The definition, written out: ``loss_of(run, images, k)`` is the loss of module k, whose graph begins anywhere.

    ``run(image, first, end)`` runs unrolled steps, ``images[i]`` is the detached image before step i.
    """
    network, problem = model.model, UnrolledProblem.prepare(model.model, batch)

    def run(image, first, end):
        for i in range(first, end):
            if seed is not None:
                torch.manual_seed(seed + i)
            block = network.resnets if network.num_repeat_steps else network.resnets[i]
            fixed = {"A": problem.A, "zf_image": problem.zf_image, "dims": problem.dims}
            image = network.step(image=image, model=block, step_size=network.step_sizes[i], **fixed)
        return image

    images = [problem.image]
    with torch.no_grad():
        for i in range(len(network.step_sizes)):
            images.append(run(images[-1], i, i + 1))
    total = dict.fromkeys(dict(model.named_parameters()))
    for k in range(model.num_modules):
        parameters = list(model.parameters())
        found = torch.autograd.grad(loss_of(run, images, k), parameters, allow_unused=True)
        for name, g in zip(total, found):
            total[name] = g if total[name] is None else total[name] if g is None else total[name] + g
    return total


def overlapping_loss(model, batch, m):
    def loss_of(run, images, k):
        steps = model.unrolled.steps[k]
        first = max(0, steps.start - m)
        return loss_of_image(model, batch, run(images[first], first, steps.stop))

    return loss_of


#: Modules and the steps that they share, with each kind of network; every other one is checkpointed.
SHARING = [(2, 1), (2, 2), ([1, 2, 1], 1), (4, 1), ([2, 1], None), (1, 3)]
OVERLAPPING = [
    (kind, modules, m, (i + j) % 2 == 1)
    for i, kind in enumerate(["ResNet", "U-Net", "dropout", "shared", "CG", "cine", "cine CG"])
    for j, (modules, m) in enumerate(SHARING)
]


@pytest.mark.parametrize(("kind", "modules", "m", "checkpoint"), OVERLAPPING)
def test_overlap_is_the_sum_of_the_losses_that_reach_a_step(config_of, kind, modules, m, checkpoint):
    steps = ["MODEL.UNROLLED.NUM_UNROLLED_STEPS", "3"] if m is None else []
    m = m or 1
    model = model_of(config_of(kind, modules, *steps, *knobs(OVERLAP=m, CHECKPOINT=checkpoint)))
    batch = batch_of(config_of(kind, modules))
    expected = explicit_gradients(model, batch, overlapping_loss(model, batch, m), seed=7)
    assert_equal(gradients(model, batch, seed=7, batches=1), expected, rtol=2e-6)


@pytest.mark.parametrize("kind", ["ResNet", "cine"])
def test_overlap_with_all_of_the_first_module_is_a_loss_in_the_middle(config_of, kind):
    model = model_of(config_of(kind, 2, *knobs(OVERLAP=2)))
    batch = batch_of(config_of(kind, 2))
    found = gradients(model, batch, seed=3, batches=1)
    problem = UnrolledProblem.prepare(model.model, batch)
    middle = model.unrolled.run(0, problem.image, problem, seed=3)
    end = model.unrolled.run(1, middle, problem, seed=3)
    model.zero_grad()
    (loss_of_image(model, batch, middle) + loss_of_image(model, batch, end)).backward()
    assert_equal(found, {name: p.grad for name, p in model.named_parameters()}, rtol=2e-6)


def test_overlap_holds_its_steps_more(config_of):
    def held(modules, **values):
        steps = ["MODEL.UNROLLED.NUM_UNROLLED_STEPS", "8", "MODEL.UNROLLED.NUM_FEATURES", "32"]
        return held_bytes(model_of(config_of("ResNet", modules, *steps, *knobs(**values))), batch)

    batch = batch_of(config_of("ResNet", 2))
    for m, modules_of_sum in ((1, [3, 3, 2]), (2, [4, 4])):
        held_by_sum = held(modules_of_sum)
        assert 0.99 * held_by_sum < held(4, OVERLAP=m) < 1.01 * held_by_sum


def test_overlap_with_frozen_steps(config_of):
    cfg = config_of("ResNet", 2, *knobs(OVERLAP=1))
    model, whole, batch = model_of(cfg), model_of(cfg), batch_of(cfg)
    for frozen in (0, 1, 2):
        model.model.requires_grad_(True)
        for i in range(frozen, frozen + 2):
            model.model.resnets[i].requires_grad_(False)
            model.model.step_sizes[i].requires_grad_(False)
        for m in (model, whole):
            m.zero_grad(set_to_none=True)
        expected = gradients(whole, batch, batches=1)
        for name, g in gradients(model, batch, batches=1).items():
            assert (
                g is None if not dict(model.named_parameters())[name].requires_grad else torch.equal(g, expected[name])
            )


def test_overlap_and_accumulation_under_the_stock_trainer(make_cfg):
    overrides = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.BASE_LR", 0.1]
    cfg = make_cfg([*overrides, "SOLVER.GRAD_ACCUM_ITERS", 2, "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 4])
    cfg.MISC.GREEDY.OVERLAP = 1
    start, end = train_stock(cfg)
    model = build_model(cfg).train()
    model.load_state_dict(start)
    total = None
    for iteration, batch in enumerate(batches(cfg)):
        found = explicit_gradients(model, batch, overlapping_loss(model, batch, 1))
        total = found if total is None else {name: total[name] + g for name, g in found.items()}
        if iteration % 2:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p -= 0.1 * total[name]
            total = None
    moved = {name: end[name] - value for name, value in start.items()}
    expected = {name: value - start[name] for name, value in model.state_dict().items()}
    assert_equal(moved, expected, rtol=1e-3)  # of a difference of weights


def test_overlap_larger_than_a_module_is_refused(config_of):
    model_of(config_of("ResNet", [3, 1], *knobs(OVERLAP=3)))
    with pytest.raises(UserError, match="MISC.GREEDY.OVERLAP: found 2, allowed is 0 to 1"):
        model_of(config_of("ResNet", [1, 3], *knobs(OVERLAP=2)))


# ---- AMP


@pytest.mark.parametrize("kind", ["ResNet", "U-Net", "dropout", "BatchNorm", "shared", "CG", "cine", "cine CG"])
def test_bfloat16_is_of_the_regularizer_alone(config_of, kind, monkeypatch):
    cfg = config_of(kind, 2, *knobs(AMP="bf16"))
    model, full, batch = model_of(cfg), model_of(config_of(kind, 2)), batch_of(cfg)
    assert list(model.state_dict()) == list(full.state_dict())
    dtypes = set()
    convolution = torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional,
        "conv2d",
        lambda *args, **kwargs: dtypes.add((out := convolution(*args, **kwargs)).dtype) or out,
    )
    found, expected = gradients(model, batch, seed=1), gradients(full, batch, seed=1)
    assert dtypes == {torch.bfloat16, torch.float32}  # of the one network, and of the other
    assert {g.dtype for g in found.values()} == {p.dtype for p in model.parameters()} == {torch.float32}
    assert any(not torch.equal(found[name], g) for name, g in expected.items())
    images = []
    for m in (model.eval(), full.eval()):
        with torch.no_grad():
            images.append(m(batch)["pred"])
    assert images[0].dtype == torch.complex64 and not torch.equal(*images)
    assert (images[0] - images[1]).norm() < 0.02 * images[1].norm()


@pytest.mark.parametrize("kind", ["ResNet", "cine", "cine CG"])
def test_bfloat16_rounds_no_image(config_of, kind):
    """With zeros in its last layer a regularizer is the identity, also in bfloat16."""
    cfg = config_of(kind, 2, *knobs(AMP="bf16"))
    model, full, batch = model_of(cfg), model_of(config_of(kind, 2)), batch_of(cfg)
    images = []
    for m in (model, full):
        for name, p in m.named_parameters():
            if "final" in name:
                torch.nn.init.zeros_(p)
        images.append(m(batch)["pred"])
    assert torch.equal(*images)


@pytest.mark.parametrize("kind", ["ResNet", "dropout", "BatchNorm", "cine", "circular", "circular cine"])
def test_bfloat16_with_the_other_keys(config_of, kind):
    cfg = config_of(kind, 2, *knobs(AMP="bf16", OVERLAP=1))
    batch = batch_of(cfg)
    checkpointed = model_of(config_of(kind, 2, *knobs(AMP="bf16", OVERLAP=1, CHECKPOINT=True)))
    assert_equal(gradients(checkpointed, batch, 3), gradients(model_of(cfg), batch, 3))


def test_values_are_checked_from_python_too(config_of):
    network = model_of(config_of("ResNet", 2)).model
    with pytest.raises(UserError, match=r"MISC.GREEDY.AMP: found 'fp16', allowed is '' \(float32\) or 'bf16'"):
        GreedyUnrolled(network, amp="fp16")
    with pytest.raises(UserError, match="MISC.GREEDY.OVERLAP: found -1"):
        GreedyUnrolled(network, overlap=-1)
    with pytest.raises(UserError, match="MISC.GREEDY.LOSS_WEIGHTS: found 0.5, allowed is a list"):
        GreedyUnrolled(network, num_modules=2, loss_weights=0.5)


def test_numbers_in_lists_may_be_written_with_an_exponent(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "MISC:\n  GREEDY:\n    LR_FACTORS: [1e-2, 1]\n    RUN: {HOOKS: [ModuleMonitor]}\n"
    )
    values = read_yaml(str(tmp_path / "config.yaml"))["MISC"]["GREEDY"]
    assert GreedyConfig.from_mapping(values).LR_FACTORS == (0.01, 1)


# ---- LOSS_WEIGHTS


@pytest.mark.parametrize(("modules", "m", "weights"), [(2, 2, [0.1, 1.0]), (4, 1, [0.01, 0.1, 1, 3]), (2, 0, [2, 5.0])])
@pytest.mark.parametrize("kind", ["ResNet", "shared", "cine CG"])
def test_weights_are_of_the_local_losses(config_of, kind, modules, m, weights):
    model = model_of(config_of(kind, modules, *knobs(OVERLAP=m, LOSS_WEIGHTS=weights)))
    batch = batch_of(config_of(kind, modules))
    unweighted = overlapping_loss(model, batch, m)
    expected = explicit_gradients(model, batch, lambda run, images, k: weights[k] * unweighted(run, images, k), seed=7)
    assert_equal(gradients(model, batch, seed=7, batches=1), expected, rtol=2e-6)


def test_logged_losses_are_without_their_weights(config_of):
    plain, weighted = (config_of("ResNet", 2, *knobs(LOSS_WEIGHTS=weights)) for weights in ([], [0.1, 1]))
    batch = batch_of(plain)
    assert torch.equal(model_of(weighted)(batch)["loss_module_1"], model_of(plain)(batch)["loss_module_1"])


# ---- CLIP_NORM and LR_FACTORS


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("modules", [1, 2, 4, None])
def test_each_module_is_clipped_on_its_own_once(config_of, modules, window):
    opts = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.GRAD_ACCUM_ITERS", str(window), *knobs(CLIP_NORM=0.01)]
    cfg = config_of("ResNet", modules, *opts)
    model, batch = GreedyTrainer.build_model(cfg).train(), batch_of(cfg)
    optimizer, copied = GreedyTrainer.build_optimizer(cfg, model), copy.deepcopy(model)
    parameters_by_module = copied.unrolled.own_parameters() if modules else [list(copied.parameters())]
    plain = torch.optim.SGD(
        copied.parameters(), cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, weight_decay=cfg.SOLVER.WEIGHT_DECAY
    )
    norms = []
    for iteration in range(2 * window):
        optimizer.zero_grad()
        for network in (model, copied):
            complex_l1(network({**batch, "kspace": batch["kspace"].clone()})["pred"], batch["target"]).backward()
        optimizer.step()
        if (iteration + 1) % window == 0:
            for parameters in parameters_by_module:
                norms.append(torch.stack([p.grad.norm() for p in parameters]).norm())
                for p in parameters:
                    p.grad *= min(1.0, 0.01 / norms[-1])
            plain.step()
            plain.zero_grad()
    assert max(norms) > 0.01, "the test clips nothing"
    for (name, a), b in zip(model.named_parameters(), copied.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8, msg=name)


def test_learning_rates_of_modules(config_of):
    cfg = config_of("ResNet", 2, *knobs(LR_FACTORS="[0.5, 2.0]"))
    plain = config_of("ResNet", 2)
    model = GreedyTrainer.build_model(cfg)
    rates = [group["lr"] for group in GreedyTrainer.build_optimizer(cfg, model).param_groups]
    without = [group["lr"] for group in GreedyTrainer.build_optimizer(plain, model).param_groups]
    first = {id(p) for p in model.unrolled.own_parameters()[0]}
    for p, rate, before in zip(model.parameters(), rates, without):
        assert rate == before * (0.5 if id(p) in first else 2.0)


def test_learning_rates_of_modules_survive_an_interruption(config_of, write_config, tmp_path):
    opts = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "4"]
    opts += ["SOLVER.GRAD_ACCUM_ITERS", "3", *knobs(LR_FACTORS="[0.5, 2.0]", CLIP_NORM=0.02, CHECKPOINT=True)]
    for name in ("whole", "resumed"):
        train_main(["--config-file", str(write_config(out=tmp_path / name)), *opts])
    run = tmp_path / "resumed"
    (run / "model_final.pth").unlink()
    (run / "last_checkpoint").write_text("model_0000003.pth")
    train_main(["--config-file", str(write_config(out=run)), "--resume", *opts])
    assert_same_run(tmp_path / "whole" / "model_final.pth", run / "model_final.pth")
    for line in metrics(run):
        assert line["module_1/lr"] == pytest.approx(line["module_2/lr"] / 4) and line["lr"] == line["module_2/lr"]
        assert line["module_1/grad_norm"] > 0
    # As weights of the plain network, under meddlr's own checkpointer.
    Checkpointer(plain_network(config_of("ResNet", 2), "GeneralizedUnrolledCNN")).load(str(run / "model_final.pth"))


@pytest.mark.parametrize("values", [{"CLIP_NORM": 1.0}, {"LR_FACTORS": "[1, 2]"}, {"EMA": 0.9}])
def test_a_trainer_that_does_not_act_is_refused(config_of, values):
    cfg = config_of("ResNet", 2, *knobs(**values))
    (key,) = values
    with pytest.raises(UserError, match=f"MISC.GREEDY.{key}.*meddlr_greedy.train_net"):
        train_stock(cfg)
    model = build_model(cfg).eval()
    model(batch_of(cfg))  # of no concern in evaluation


def test_weights_shared_by_modules_have_no_update_of_a_module(config_of):
    for values in ({"CLIP_NORM": 1.0}, {"LR_FACTORS": "[1, 2]"}):
        cfg = config_of("shared", 2, *knobs(**values))
        with pytest.raises(UserError, match="MISC.GREEDY.*modules share 'resnets"):
            GreedyTrainer.build_optimizer(cfg, GreedyTrainer.build_model(cfg))
    cfg = config_of("shared", 1, *knobs(CLIP_NORM=1.0, LR_FACTORS="[2]"))
    GreedyTrainer.build_optimizer(cfg, GreedyTrainer.build_model(cfg))


def test_a_weight_of_a_local_loss_cancels_under_adam(config_of):
    """Without overlap; powers of two, so that rounding is the same; eps must not be felt."""
    trained = []
    for weights in ([], [0.25, 4, 0.5, 2]):
        cfg = config_of("ResNet", 4, *knobs(LOSS_WEIGHTS=weights))
        model = model_of(cfg)
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-30)
        batch = batch_of(cfg)
        for _ in range(3):
            optimizer.zero_grad()
            model.losses.loss(batch, model(batch)).backward()
            optimizer.step()
        trained.append(model.state_dict())
    assert any(not torch.equal(trained[0][key], before[key]) for key in before), "nothing was trained"
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in before)


@pytest.mark.parametrize(
    ("modules", "opts", "words"),
    [
        (2, knobs(CHECKPOINT=1), ["MISC.GREEDY.CHECKPOINT: found 1", "'step' or 'block'"]),
        (2, knobs(OVERLAP=3), ["MISC.GREEDY.OVERLAP: found 3", "0 to 2"]),
        (2, knobs(AMP="fp16"), ["MISC.GREEDY.AMP: found 'fp16'", "'bf16'"]),
        (2, knobs(CLIP_NORM=-1), ["MISC.GREEDY.CLIP_NORM: found -1", "non-negative"]),
        (2, knobs(LR_FACTORS="[1, 0]"), ["MISC.GREEDY.LR_FACTORS", "positive numbers"]),
        (2, knobs(LR_FACTORS="[1, 2, 3]"), ["MISC.GREEDY.LR_FACTORS: found 3 numbers", "allowed are 2"]),
        (2, knobs(LOSS_WEIGHTS="[1, 0]"), ["MISC.GREEDY.LOSS_WEIGHTS", "positive numbers"]),
        (2, knobs(LOSS_WEIGHTS="[1]"), ["MISC.GREEDY.LOSS_WEIGHTS: found 1 numbers", "allowed are 2"]),
        (2, knobs(CG_BACKWARD="implicit"), ["MISC.GREEDY.CG_BACKWARD: found 'implicit'", "CGCineUnrolledCNN"]),
        (None, ["MISC.GREEDY.CG_BACKWARD", "implicit"], ["MISC.GREEDY.CG_BACKWARD", "GeneralizedUnrolledCNN"]),
        (2, knobs(PADDING="reflect"), ["MISC.GREEDY.PADDING: found 'reflect'", "'circular' or 'phase_encode'"]),
        (2, knobs(PADDING="circular"), ["MISC.GREEDY.PADDING: found 'circular'", "'ResNet'", "PaddedResNet"]),
        (2, knobs(CHANNEL_MULTIPLE=0), ["MISC.GREEDY.CHANNEL_MULTIPLE: found 0", "an integer from 1 to 10000"]),
        (2, knobs(CHANNEL_MULTIPLE=8), ["MISC.GREEDY.CHANNEL_MULTIPLE: found 8", "'ResNet'", "allowed is 1"]),
        (None, ["MISC.GREEDY.CHANNEL_MULTIPLE", "8"], ["MISC.GREEDY.CHANNEL_MULTIPLE: found 8", "allowed is 1"]),
        (None, ["MISC.GREEDY.AMP", "bf16"], ["MISC.GREEDY.AMP: found 'bf16'", "'GreedyUnrolled'"]),
        (None, ["MISC.GREEDY.CHECKPOINT", "True"], ["MISC.GREEDY.CHECKPOINT: found 'step'", "'GreedyUnrolled'"]),
    ],
)
def test_mistakes_are_told_in_one_line(write_config, capsys, tmp_path, modules, opts, words):
    expect_error(capsys, write_config(modules=modules), *opts, words=words, out=tmp_path / "run")
