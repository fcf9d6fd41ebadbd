"""meddlr's wrappers, around a greedy network and as they are: configs, batches, and trainings by meddlr's own code."""

import copy
from contextlib import contextmanager

import torch
from meddlr.forward import SenseModel
from meddlr.modeling import build_loss_computer as build_stock_loss_computer
from meddlr.modeling import build_model
from meddlr.modeling.meta_arch import vortex
from meddlr.utils.events import EventStorage
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.config.wrappers import wrappers_of
from meddlr_greedy.data.seeding import example_seed, isolated_generators
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.modeling.contract import inner_network
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.modeling.wrappers.draws import is_known, seed_draws
from tests.helpers.networks import small_config

H, W, C = 20, 18, 3

#: Name -> wrapper, its section, and what else it needs.
WRAPPERS = {
    "N2R": ("N2RModel", "N2R", ["MODEL.CONSISTENCY.AUG.NOISE.STD_DEV", (0.05, 0.3)]),
    "M2R": ("M2RModel", "M2R", []),
    "NM2R": ("NM2RModel", "NM2R", ["MODEL.CONSISTENCY.AUG.NOISE.STD_DEV", (0.2,)]),
    "VORTEX": (
        "VortexModel",
        "A2R",
        [
            "MODEL.CONSISTENCY.AUG.MRI_RECON.TRANSFORMS",
            (
                {"name": "RandomAffine", "p": 1.0, "angle": 20.0, "translate": (0.1, 0.1)},
                {"name": "RandomNoise", "p": 1.0, "std_devs": (0.1, 0.2)},
            ),
        ],
    ),
    "SSDU": ("SSDUModel", "SSDU", ["MODEL.SSDU.MASKER.PARAMS", {"p": 1.0, "rhos": 0.4, "per_example": True}]),
    "Denoising": ("DenoisingModel", "DENOISING", ["MODEL.DENOISING.NOISE.STD_DEV", (0.1, 0.2)]),
}
WRAPPERS["N2R around SSDU"] = ("N2RModel", "SSDU", [*WRAPPERS["N2R"][2], *WRAPPERS["SSDU"][2]])


def wrapped_config(name, network="GeneralizedUnrolledCNN", overrides=(), **greedy):
    """A config of a wrapper around a greedy network of four small steps."""
    cfg = small_config(network, **greedy)
    outer, section, opts = WRAPPERS[name]
    cfg.MODEL.META_ARCHITECTURE, cfg.SEED = outer, 0
    if name == "N2R around SSDU":
        cfg.MODEL.N2R.META_ARCHITECTURE = "SSDUModel"
    cfg.MODEL[section].META_ARCHITECTURE = "GreedyUnrolled"
    for key, value in [*zip(opts[::2], opts[1::2]), *zip(overrides[::2], overrides[1::2])]:
        node = cfg.get_recursive(key) if key.endswith("PARAMS") else None
        if node is None:
            cfg.set_recursive(key, value)
        else:
            node.update(value)
    cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
    return cfg


def plain(cfg):
    """The config with the plain network inside."""
    cfg = cfg.clone().defrost()
    cfg.MODEL[wrappers_of(cfg)[-1]].META_ARCHITECTURE = cfg.MISC.GREEDY.META_ARCHITECTURE
    return cfg


def examples(generator, num_examples, supervised):
    """A batch of examples as meddlr's loader makes them, with or without targets."""

    def random(*shape):
        return torch.randn(shape, dtype=torch.complex64, generator=generator)

    maps = random(num_examples, H, W, C, 1)
    maps = maps / maps.norm(dim=-2, keepdim=True)
    lines = torch.rand(num_examples, 1, W, 1, generator=generator) < 0.6
    lines[:, :, W // 2 - 2 : W // 2 + 2] = True
    target = random(num_examples, H, W, 1)
    mask = lines.float().expand(num_examples, H, W, C).contiguous()
    batch = {
        "kspace": SenseModel(maps, weights=mask)(target),
        "maps": maps,
        "mask": mask,
        "edge_mask": torch.zeros(num_examples, H, W, 1),
        "mean": torch.zeros(num_examples, 1),
        "std": 1 + torch.rand(num_examples, 1, generator=generator),
        "norm": torch.ones(num_examples),
        "is_unsupervised": torch.full((num_examples,), not supervised),
    }
    batch["edge_mask"][:, :2] = 1
    return {**batch, "target": target} if supervised else batch


def wrapped_batches(count, kinds=("supervised", "unsupervised"), seed=0):
    """Batches of meddlr's form for wrappers; the examples of each kind are two."""
    generator = torch.Generator().manual_seed(seed)
    return [{kind: examples(generator, 2, kind == "supervised") for kind in kinds} for _ in range(count)]


def draw_seed(run_seed, iteration):
    """The seed of what wrappers draw in an iteration."""
    return example_seed(run_seed, iteration, "draws of wrappers")


@contextmanager
def on_the_cpu():
    """meddlr's VORTEX, whose device is written in its code."""
    moved = vortex.move_to_device
    vortex.move_to_device = lambda value, device: value  # noqa: ARG005
    try:
        yield
    finally:
        vortex.move_to_device = moved


def block(network, i):
    """The regularizer of step i, which all steps may share."""
    return network.resnets[i] if isinstance(network.resnets, nn.ModuleList) else network.resnets


class UpTo(nn.Module):
    """f_k: the modules 1 to k of a plain network with gradient in k alone; f_K where there is no gradient at all."""

    def __init__(self, network, ranges, k, of_network):
        super().__init__()
        self.network, self.ranges, self.k, self.of_network = network, ranges, k, of_network
        self.vis_period = -1

    def forward(self, inputs, return_pp=False, vis_training=False):  # noqa: ARG002 (meddlr's signature)
        network, mask = self.network, inputs["mask"]
        A = SenseModel(inputs["maps"], weights=mask)
        kspace = inputs["kspace"] * mask
        x = zf_image = A(kspace, adjoint=True)
        whole = self.of_network and not torch.is_grad_enabled()
        for k in range(len(self.ranges) if whole else self.k + 1):
            x = x.detach()
            for i in self.ranges[k]:
                parts = {"model": block(network, i), "step_size": network.step_sizes[i], "dims": tuple(kspace.size())}
                x = network.step(image=x, A=A, zf_image=zf_image, **parts)
        out = {"pred": x, "target": inputs.get("target"), "signal_model": A, "zf_image": zf_image}
        return {**out, **({key: inputs[key] for key in ("mean", "std", "norm")} if return_pp else {})}


def stock_loss_computer(cfg):
    """meddlr's for the wrapper, which it chooses by a name that VORTEX does not have."""
    consistency = {"N2R", "M2R", "NM2R", "A2R"} & set(wrappers_of(cfg))
    return build_stock_loss_computer(cfg, "N2RLossComputer" if consistency else "BasicLossComputer")


def adam(cfg, params):
    groups = [{"params": [p], "weight_decay": cfg.SOLVER.WEIGHT_DECAY} for p in params]
    return torch.optim.Adam(groups, cfg.SOLVER.BASE_LR)


def loss_of(wrapper, batch, computer, seed, iteration):
    """l(inputs, W(inputs)) of meddlr's own wrapper and loss computer, with the draws that a seed decides."""
    with isolated_generators(seed), EventStorage(iteration), on_the_cpu():
        seed_draws(wrapper, seed, torch.device("cpu"))
        batch = copy.deepcopy(batch)
        return computer(batch, wrapper(batch))["loss"]


def train_stock_wrapper(cfg, batches, state, computer=None):
    """Trains meddlr's wrapper by its own ``forward``, as meddlr's trainer does."""
    wrapper = build_model(cfg).train()
    inner_network(wrapper).load_state_dict(state)
    optimizer, computer = adam(cfg, list(wrapper.parameters())), computer or stock_loss_computer(cfg)
    for iteration, batch in enumerate(batches):
        loss = loss_of(wrapper, batch, computer, draw_seed(0, iteration), iteration)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return inner_network(wrapper).state_dict()


def train_by_definition(cfg, batches, state):
    """The definition, written out: W[f_k] for each module, by meddlr's wrapper, with one Adam for each module."""
    greedy, cfg = cfg.MISC.GREEDY, plain(cfg)
    wrapper = build_model(cfg).train()
    network = inner_network(wrapper)
    network.load_state_dict(state)
    innermost = wrapper
    while is_known(innermost.model):
        innermost = innermost.model
    ranges = partition_steps(len(network.step_sizes), greedy.NUM_MODULES)
    of_network = greedy.CONSISTENCY_TARGET == "network"
    shared = not isinstance(network.resnets, nn.ModuleList)
    own = [list(network.parameters())]
    if not shared:
        own = [[p for i in r for p in (*block(network, i).parameters(), network.step_sizes[i])] for r in ranges]
    optimizers = [adam(cfg, parameters) for parameters in own]
    computer = stock_loss_computer(cfg)
    for iteration, batch in enumerate(batches):
        total = {}
        for k in range(len(ranges)):
            innermost.model = UpTo(network, ranges, k, of_network)
            network.zero_grad()
            loss_of(wrapper, batch, computer, draw_seed(0, iteration), iteration).backward()
            for p in network.parameters():  # the gradient of a module is complete before it is added
                if p.grad is not None:
                    total[p] = total[p] + p.grad if p in total else p.grad
        for p in network.parameters():
            p.grad = total.get(p)
        for optimizer in optimizers:
            optimizer.step()
    return network.state_dict()


def train_wrapped(cfg, batches, change=None):
    """The plugin's step on the same batches; returns start and end of the plain network."""
    torch.manual_seed(1)
    step = TrainingStep.from_config(cfg.clone().freeze())
    if change is not None:
        change(step)
    network = inner_network(step.model)
    start = copy.deepcopy(network.state_dict())
    results = []
    for iteration, batch in enumerate(batches):
        with EventStorage(iteration):
            results.append(step(batch, iteration))
    return start, network.state_dict(), results


MASKER = "  SSDU: {MASKER: {PARAMS: {p: 1.0, rhos: 0.4, per_example: true}}}\n"


def with_masker(config, masker=MASKER):
    """The config file with meddlr's masker for SSDU, which no override can set."""
    config.write_text(config.read_text().replace("MODEL:\n", f"MODEL:\n{masker}", 1))
    return config


def wrapped_opts(name, inside="GreedyUnrolled"):
    """The lines of a config, as overrides, that put ``inside`` into a wrapper; one training scan has no target."""
    outer, section, opts = WRAPPERS[name]
    between = ["MODEL.N2R.META_ARCHITECTURE", "SSDUModel"] if name == "N2R around SSDU" else []
    lines = ["MODEL.META_ARCHITECTURE", outer, *between, f"MODEL.{section}.META_ARCHITECTURE", inside, *opts]
    lines = [text for pair in zip(lines[::2], lines[1::2]) if "MASKER" not in pair[0] for text in pair]
    return [str(value) for value in [*lines, "DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", 1]]
