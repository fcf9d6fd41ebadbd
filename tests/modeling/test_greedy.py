"""GreedyUnrolled against explicit loops, bit for bit, under meddlr's own trainer."""

import copy
import warnings

import pytest
import torch
from meddlr.modeling import build_loss_computer, build_model
from meddlr.utils.events import EventStorage
from torch import nn

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import NetworkTraits
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.problem import UnrolledProblem
from tests.helpers.networks import batches, held_bytes, plain_network, train_stock

BLOCKS = {
    "ResNet": [],
    "UNet": [
        *("MODEL.UNROLLED.BLOCK_ARCHITECTURE", "UnetModel"),
        *("MODEL.UNET.CHANNELS", 4, "MODEL.UNET.NUM_POOL_LAYERS", 2),
    ],
    "CG": ["MODEL.UNROLLED.STEP_SIZES", (0.1,)],
}
ARCH = {"CG": "CGUnrolledCNN"}


def explicit_greedy_loop(cfg, network, modules, start, shared=False, window=1):
    """The definition, written out: one Adam per module, or one Adam and summed gradients for shared weights."""
    from meddlr.forward import SenseModel

    network.load_state_dict({k.replace("model.", "", 1): v for k, v in start.items()})
    loss_computer = build_loss_computer(cfg, "BasicLossComputer")
    ranges = partition_steps(len(network.step_sizes), modules)

    def parameters(steps):
        blocks = [network.resnets] if shared else [network.resnets[i] for i in steps]
        return [p for b in blocks for p in b.parameters()] + [network.step_sizes[i] for i in steps]

    def adam(params):
        # meddlr's build_optimizer gives each parameter a group of its own with the same decay
        return torch.optim.Adam(
            [{"params": [p], "weight_decay": cfg.SOLVER.WEIGHT_DECAY} for p in params], cfg.SOLVER.BASE_LR
        )

    optimizers = [adam(list(network.parameters()))] if shared else [adam(parameters(steps)) for steps in ranges]
    for iteration, batch in enumerate(batches(cfg)):
        A = SenseModel(batch["maps"], weights=batch["mask"])
        kspace = batch["kspace"] * batch["mask"]
        zf_image = A(kspace, adjoint=True)
        x, total = zf_image, {}
        for k, steps in enumerate(ranges):
            x = x.detach()
            for i in steps:
                x = network.step(
                    image=x,
                    model=network.resnets if shared else network.resnets[i],
                    A=A,
                    zf_image=zf_image,
                    step_size=network.step_sizes[i],
                    dims=tuple(kspace.size()),
                )
            outputs = {"pred": x, "target": batch["target"], "signal_model": A}
            loss = loss_computer(batch, outputs)["loss"]
            own = optimizers[0] if shared else optimizers[k]
            if shared or iteration % window == 0:
                own.zero_grad()
            loss.backward()
            if shared:
                for p in network.parameters():
                    if p.grad is not None:
                        total[p] = total[p] + p.grad if p in total else p.grad.clone()
            elif (iteration + 1) % window == 0:
                own.step()
        if shared:
            for p in network.parameters():
                p.grad = total.get(p)
            optimizers[0].step()
    return network.state_dict()


def assert_bit_equal(greedy_state, plain_state):
    plain = {k.replace("model.", "", 1): v for k, v in greedy_state.items()}
    assert plain.keys() == plain_state.keys()
    for key, value in plain.items():
        assert torch.equal(value, plain_state[key]), key


@pytest.mark.parametrize("modules", [2, 4, [1, 3]])
@pytest.mark.parametrize("block", BLOCKS)
def test_stock_trainer_equals_one_adam_per_module(make_cfg, block, modules):
    arch = ARCH.get(block, "GeneralizedUnrolledCNN")
    cfg = make_cfg(BLOCKS[block], arch=arch, modules=modules)
    start, end = train_stock(cfg)
    assert any(not torch.equal(start[k], end[k]) for k in start)
    assert_bit_equal(end, explicit_greedy_loop(cfg, plain_network(cfg, arch), modules, start))


@pytest.mark.parametrize("modules", [1, 2, 4])
@pytest.mark.parametrize("arch", ["GeneralizedUnrolledCNN", "CGUnrolledCNN"])
def test_shared_weights_sum_gradients_in_module_order(make_cfg, arch, modules):
    overrides = ["MODEL.UNROLLED.SHARE_WEIGHTS", True]
    overrides += ["MODEL.UNROLLED.STEP_SIZES", (0.1,)] if arch == "CGUnrolledCNN" else []
    cfg = make_cfg(overrides, arch=arch, modules=modules)
    start, end = train_stock(cfg)
    reference = explicit_greedy_loop(cfg, plain_network(cfg, arch), modules, start, shared=True)
    assert_bit_equal(end, reference)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_one_module_is_backpropagation(make_cfg, block, share):
    arch = ARCH.get(block, "GeneralizedUnrolledCNN")
    overrides = BLOCKS[block] + ["MODEL.UNROLLED.SHARE_WEIGHTS", share]
    _, greedy = train_stock(make_cfg(overrides, arch=arch, modules=1))
    _, plain = train_stock(make_cfg(overrides, arch=arch, modules=None))
    assert_bit_equal(greedy, plain)


@pytest.mark.parametrize("modules", [1, 3])
def test_gradient_accumulation_under_stock_trainer(make_cfg, modules):
    cfg = make_cfg(["SOLVER.GRAD_ACCUM_ITERS", 2, "SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 6], modules=modules)
    start, end = train_stock(cfg)
    network = plain_network(cfg, "GeneralizedUnrolledCNN")
    assert_bit_equal(end, explicit_greedy_loop(cfg, network, modules, start, window=2))


@pytest.fixture
def batch(make_cfg):
    return next(iter(batches(make_cfg())))


def test_batch_is_left_as_it_is(make_cfg, batch):
    before = copy.deepcopy(batch)
    batch["mask"][:, :, :3] = 0  # a mask that would change the k-space
    before["mask"] = batch["mask"].clone()
    model = build_model(make_cfg())
    model.train()
    model(batch)["pred"].abs().sum().backward()
    model.eval()
    model(batch)
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, batch[key]), key


def test_gradient_of_a_local_loss_stays_in_its_module(make_cfg, batch):
    model = build_model(make_cfg(modules=4)).train()
    problem = UnrolledProblem.prepare(model.model, batch)
    image = problem.zf_image
    for k in range(4):
        image = model.unrolled.run(k, image.detach(), problem)
        model.zero_grad()
        complex_l1(image, problem.target).backward()
        own = {id(p) for p in model.unrolled.own_parameters()[k]}
        for name, p in model.named_parameters():
            assert (p.grad is not None) == (id(p) in own), (k, name)


@pytest.mark.parametrize("modules", [1, 2, 3])
def test_evaluation_is_the_plain_network(make_cfg, batch, modules):
    cfg = make_cfg(modules=modules)
    greedy, plain = build_model(cfg).eval(), plain_network(cfg, "GeneralizedUnrolledCNN").eval()
    plain.load_state_dict({k.replace("model.", "", 1): v for k, v in greedy.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(greedy(batch)["pred"], plain(copy.deepcopy(batch))["pred"])


def test_stopping_early(make_cfg, batch):
    model = build_model(make_cfg(modules=4)).eval()
    with torch.no_grad():
        problem = UnrolledProblem.prepare(model.model, batch)
        image = model.unrolled.run(1, model.unrolled.run(0, problem.zf_image, problem), problem)
        model.num_inference_modules = 2
        assert torch.equal(model(batch)["pred"], image)


def test_held_bytes_count_each_storage_once_while_it_lives():
    x = torch.ones(1000, requires_grad=True)
    with HeldForBackward(exclude=[x]) as held:
        y = x * 2  # the factor is no tensor: nothing is held
        z = (y * y).sum()  # y, twice
        assert held.peak_bytes == 4000
        z.backward()
        (y.detach().requires_grad_() ** 2).sum()  # another view of y's storage, freed at once
    assert held.peak_bytes == 4000


def test_bytes_held_for_backward_fall_with_modules(make_cfg, batch):
    def held(steps, modules):
        overrides = ["MODEL.UNROLLED.NUM_UNROLLED_STEPS", steps, "MODEL.UNROLLED.NUM_FEATURES", 32]
        return held_bytes(build_model(make_cfg(overrides, modules=modules)).train(), batch)

    end_to_end = held(8, 1)
    for k in (2, 4, 8):
        assert end_to_end >= 0.9 * k * held(8, k), k
    assert held(16, 16) == held(8, 8)


def test_checkpoints_load_both_ways(make_cfg, tmp_path):
    from meddlr.checkpoint import Checkpointer

    cfg = make_cfg()
    greedy, plain = build_model(cfg), plain_network(cfg, "GeneralizedUnrolledCNN")
    Checkpointer(plain, str(tmp_path)).save("plain")
    Checkpointer(greedy).load(str(tmp_path / "plain.pth"))
    assert_bit_equal(greedy.state_dict(), plain.state_dict())

    for p in greedy.parameters():
        nn.init.normal_(p)
    Checkpointer(greedy, str(tmp_path)).save("greedy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # meddlr calls the deprecated logger.warn
        Checkpointer(plain).load(str(tmp_path / "greedy.pth"))
    assert_bit_equal(greedy.state_dict(), plain.state_dict())


def test_frozen_modules_pass_their_image_on(make_cfg, batch):
    model, whole = build_model(make_cfg(modules=4)), build_model(make_cfg(modules=4))
    whole.load_state_dict(model.state_dict())
    parameters_by_module = model.unrolled.own_parameters()
    for k in (0, 3):
        for p in parameters_by_module[k]:
            p.requires_grad_(False)
    for m in (model, whole):
        complex_l1(m.train()(batch)["pred"], batch["target"]).backward()
    for a, b in zip(model.parameters(), whole.parameters()):
        assert (a.grad is None) if not a.requires_grad else torch.equal(a.grad, b.grad)


def test_from_python_without_config(make_cfg, batch):
    network = plain_network(make_cfg(), "GeneralizedUnrolledCNN")
    model = GreedyUnrolled(network, num_modules=2, loss=lambda pred, target: (pred - target).abs().pow(2).mean())
    outputs = model.train()(batch)
    assert set(k for k in outputs if "loss" in k) == {"loss_module_1"}
    complex_l1(outputs["pred"], batch["target"]).backward()
    assert all(p.grad is not None for p in model.parameters())


class TestRefusals:
    def test_modules(self, make_cfg):
        for modules in (5, [2, 3], [4, 0]):
            with pytest.raises(UserError, match="MISC.GREEDY.NUM_MODULES"):
                build_model(make_cfg(modules=modules))

    def test_batch_without_target(self, make_cfg, batch):
        batch.pop("target")
        with pytest.raises(UserError, match="no 'target'"):
            build_model(make_cfg()).train()(batch)

    @pytest.mark.parametrize("wrapper", ["N2R", "SSDU", "A2R"])
    def test_inside_a_wrapper_under_meddlrs_trainer(self, make_cfg, batch, wrapper):
        names = {"N2R": "N2RModel", "SSDU": "SSDUModel", "A2R": "VortexModel"}
        masker = ["MODEL.SSDU.MASKER.PARAMS", {"p": 1.0, "rhos": 0.4}]
        inside = ["MODEL.META_ARCHITECTURE", names[wrapper], f"MODEL.{wrapper}.META_ARCHITECTURE", "GreedyUnrolled"]
        model = build_model(make_cfg([*inside, *masker])).train()
        with pytest.raises(UserError, match=f"MODEL.{wrapper}.META_ARCHITECTURE"), EventStorage(0):
            model({"supervised": batch})

    @pytest.mark.parametrize("name", ["UnetModel", "GreedyUnrolled", "GeneralizedUnroledCNN", "N2RModel"])
    def test_network(self, make_cfg, name):
        with pytest.raises(UserError, match="MISC.GREEDY.META_ARCHITECTURE"):
            build_model(make_cfg(arch=name))

    def test_blocks_in_a_plain_list(self, make_cfg):
        network = plain_network(make_cfg(), "GeneralizedUnrolledCNN")
        with pytest.raises(UserError, match="plain list"):
            GreedyUnrolled(type(network)(list(network.resnets)))

    def test_nothing_to_train(self, make_cfg, batch):
        model = build_model(make_cfg()).train().requires_grad_(False)
        with pytest.raises(UserError, match="no trainable parameters"):
            model(batch)

    def test_forward_of_its_own(self, make_cfg):
        network = plain_network(make_cfg(), "GeneralizedUnrolledCNN")

        class Other(type(network)):
            def forward(self, *args, **kwargs):
                return super().forward(*args, **kwargs)

        network.__class__ = Other
        with pytest.raises(UserError, match="forward_runs_steps=True"):
            GreedyUnrolled(network)
        Other.traits = NetworkTraits(forward_runs_steps=True)
        GreedyUnrolled(network)


def test_partition():
    assert [len(r) for r in partition_steps(8, 3)] == [3, 3, 2]
    assert partition_steps(8, [2, 3, 3]) == [range(0, 2), range(2, 5), range(5, 8)]
