"""Data consistency that makes coil images part by part: image and gradient of the whole, in less memory."""

import pytest
import torch
from meddlr.modeling import build_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.ops.plane_sense import PlaneSenseModel
from tests.helpers.networks import small_config
from tests.helpers.steps import C, H, T, W, assert_same, batch, config, trained

CINE, CG, FLAT, FLAT_CG = "CineUnrolledCNN", "CGCineUnrolledCNN", "GeneralizedUnrolledCNN", "CGUnrolledCNN"
NUM_EXAMPLES = 2
PLANE = NUM_EXAMPLES * H * W * 16  # bytes of a frame of a coil, in double precision
#: A coil, two coils, a frame, two frames of five.
PLANES = [1, 2, 3, 6]


def in_parts(planes):
    def change(model):
        model.largest_part = planes * PLANE

    return change


def check(cfg, inputs, planes, tolerance=1e-12):
    assert_same(trained(cfg, inputs, change=in_parts(planes)), trained(cfg, inputs), tolerance)


KNOBS = [
    (CINE, {"NUM_MODULES": 1}),
    (CINE, {"NUM_MODULES": 4}),
    (CINE, {"NUM_MODULES": 4, "TILE": [8, 7]}),
    (CINE, {"NUM_MODULES": 2, "CHECKPOINT": True, "OVERLAP": 1}),
    (CG, {"NUM_MODULES": 1}),
    (CG, {"NUM_MODULES": 2, "TILE": [8, 7]}),
    (CG, {"NUM_MODULES": 2, "CG_BACKWARD": "implicit"}),
    (FLAT, {"NUM_MODULES": 4}),
    (FLAT_CG, {"NUM_MODULES": 2}),
]


@pytest.mark.parametrize("num_maps", [1, 2])
@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize(("name", "greedy"), KNOBS, ids=str)
def test_networks_and_knobs(name, greedy, planes, num_maps):
    """Masks with weights other than 0 and 1, odd sizes, and frames that parts do not divide."""
    tolerance = 1e-10 if "CG" in name else 1e-12
    check(config(name, num_maps=num_maps, **greedy), batch("Cine" in name, 2, num_maps), planes, tolerance)


@pytest.mark.parametrize("name", ["InvertibleCineUnrolledCNN", "InvertibleCGCineUnrolledCNN"])
def test_training_backwards(name):
    check(config(name, NUM_MODULES=1, TRAINING="invertible"), batch(True, 2), 1, 1e-6)


@pytest.mark.parametrize("name", [CINE, FLAT])
@pytest.mark.parametrize("loss", ["signal_model_corr_k_l1_normalized", "k_l1_sum", "ssim_loss"])
def test_losses(loss, name):
    check(config(name, loss, NUM_MODULES=2), batch(name == CINE, 2), 2)


def test_lines_held_out_for_the_loss():
    inputs = batch(True, 2)
    inputs["loss_kspace"], inputs["loss_mask"] = inputs["kspace"].flip(3), (inputs["mask"].flip(3) > 0).double()
    cfg = config(CINE, "k_l1_l2_sum_normalized", NUM_MODULES=2, CINE={"LOSS_LINES": 0.4})
    check(cfg, inputs, 2)


@pytest.mark.parametrize("name", [CINE, CG, FLAT, FLAT_CG])
def test_evaluation(name):
    cfg, inputs = config(name), batch("Cine" in name, 2)
    torch.manual_seed(1)
    model = build_model(cfg.clone().freeze()).double().eval()
    with torch.no_grad():
        expected = model(inputs)
        in_parts(2)(model)
        found = model(inputs)
    for image in ("pred", "zf_image"):
        torch.testing.assert_close(found[image], expected[image], rtol=1e-9, atol=1e-10)


# ---- what is allocated


class Largest(TorchDispatchMode):
    """The largest storage of complex numbers that operations make, in bytes; forward and backward."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_flatten(args)[0] if isinstance(x, torch.Tensor)}
        for x in tree_flatten(out)[0]:
            is_new = isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given
            if is_new and x.is_complex():
                self.num_bytes = max(self.num_bytes, x.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize(("name", "greedy"), KNOBS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_coil_images_are_never_there_as_a_whole(name, greedy, training):
    """But for maps and images, nothing in a step is larger than a part."""
    is_cine = "Cine" in name
    frames, coils = (T, C) if is_cine else (1, 8)
    inputs = batch(is_cine, NUM_EXAMPLES)
    if not is_cine:  # with more coils than there is else
        inputs["kspace"] = inputs["kspace"].repeat(1, 1, 1, 3)[..., :coils]
        inputs["maps"] = inputs["maps"].repeat(1, 1, 1, 3, 1)[..., :coils, :]
    found = {}
    for planes in (None, 2):
        torch.manual_seed(1)
        model = build_model(config(name, **greedy).clone().freeze()).double().train(training)
        if planes:
            in_parts(planes)(model)
        with Largest() as largest:
            pred = model(inputs)["pred"]
            if training:
                (pred - inputs["target"]).abs().mean().backward()
        found[planes] = largest.num_bytes / PLANE
    assert found[None] == frames * coils
    assert found[2] <= max(frames, coils)  # images and maps


def test_2d_makes_no_coil_images_beside_the_maps():
    maps, weights = torch.randn(1, 16, 12, 8, 1, dtype=torch.complex64), torch.ones(1, 16, 12, 1)
    A = PlaneSenseModel(maps, weights)
    A.largest_part = 2 * 16 * 12 * 8
    image = torch.randn(1, 16, 12, 1, dtype=torch.complex64)
    A.normal(image)
    with Largest() as largest:
        A.normal(image)
    assert largest.num_bytes == A.largest_part


@pytest.mark.parametrize("name", [FLAT, FLAT_CG])
def test_2d_networks_make_no_kspace(name, monkeypatch):
    monkeypatch.setattr(PlaneSenseModel, "forward", None)
    model = build_model(config(name).clone().freeze()).double()
    in_parts(2)(model)
    (model(batch(False, 2))["pred"]).abs().sum().backward()


def test_kspace_is_not_copied():
    inputs = batch(True, 2)
    model = build_model(config(CINE)).double()
    assert model.problem(inputs).inputs["kspace"] is not inputs["kspace"]
    in_parts(1)(model)
    assert model.problem(inputs).inputs["kspace"] is inputs["kspace"]


# ---- the key


@pytest.mark.parametrize(
    ("greedy", "expected"),
    [
        ({}, None),
        ({"DC_MEMORY": 0, "TILE": [8, 0]}, None),
        ({"TILE": [8, 0]}, 16 * 10**6),
        ({"DC_MEMORY": 5}, 5 * 10**6),
        ({"DC_MEMORY": 5, "TILE": [0, 8]}, 5 * 10**6),
    ],
    ids=str,
)
def test_the_limit(greedy, expected):
    model = build_model(small_config(CINE, **greedy))
    assert model.largest_part == expected
    assert model.problem(batch(dtype=torch.complex64)).A.largest_part == expected


@pytest.mark.parametrize("value", [-1, 1.5, "all", True, [1]])
def test_values_that_are_no_limit_are_refused(value):
    with pytest.raises(UserError, match="MISC.GREEDY.DC_MEMORY: found .*, allowed is 'auto', or a non-negative"):
        build_model(small_config(CINE, DC_MEMORY=value))


def test_without_a_limit_the_operators_are_what_they_were(monkeypatch):
    """The signal model of meddlr's 2D networks is meddlr's, and cine has one part."""
    assert type(build_model(small_config(FLAT)).problem(batch(False)).A).__module__ == "meddlr.forward.mri"
    A = build_model(small_config(CINE)).problem(batch()).A
    monkeypatch.setattr(type(A), "zero_filled", None)
    assert A.largest_part is None and len(A._parts(torch.empty(1, 1, T, H, W))) == 1


def test_batches_of_zero_filled_images_need_no_kspace():
    inputs = batch(True, 2)
    model = build_model(config(CINE)).double().eval()
    problem = model.problem(inputs)
    made = {key: value for key, value in inputs.items() if key != "kspace"}
    with torch.no_grad():
        expected = model(inputs)["pred"]
        found = model({**made, "zf_image": problem.zf_image, "dims": problem.dims})
    assert torch.equal(found["pred"], expected)
    other = UnrolledProblem.prepare(model.model, {**made, "zf_image": problem.zf_image, "dims": problem.dims})
    assert other.image is other.zf_image  # by which a network knows its first step
