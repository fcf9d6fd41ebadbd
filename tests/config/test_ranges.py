"""What the keys of meddlr allow, and texts that name keys."""

import pytest
import yaml
from meddlr.config import get_cfg

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.ranges import RANGES, check_ranges
from meddlr_greedy.config.shipped import shipped_configs
from meddlr_greedy.errors import UserError
from tests.helpers.errors import expect_error

NOT_ALLOWED = [
    ("MODEL.UNROLLED.KERNEL_SIZE", [(3,) * 5, (0,), (4,), (3, -3), (), (2.5,), ("3",)]),
    ("MODEL.UNROLLED.NUM_RESBLOCKS", [0, -2, 10**9]),
    ("MODEL.UNROLLED.NUM_UNROLLED_STEPS", [0, -1]),
    ("MODEL.UNROLLED.NUM_FEATURES", [0, 2**40]),
    ("MODEL.UNROLLED.DROPOUT", [-0.1, 1.0, float("nan")]),
    ("MODEL.UNROLLED.STEP_SIZES", [(), (float("inf"),), ("a",)]),
    ("MODEL.UNROLLED.DC.MAX_ITER", [-1, 0]),
    ("MODEL.UNROLLED.DC.EPS", [-1e-4, float("nan")]),
    ("MODEL.UNROLLED.CONV_BLOCK.NORM", ["layer"]),
    ("MODEL.RESNET.CONV_BLOCK.ORDER", [(1,), ({"factor": 0.1},), ({"name": 3},)]),
    ("DATALOADER.NUM_WORKERS", [-1, 10**6]),
    ("DATASETS.TEST", [(5,), ("a", None)]),
    ("AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS", [(), (0,), (0.5,), (float("nan"),), (2, float("inf")), ("2",), (2, 3, 4)]),
    ("AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE", [-1]),
    ("AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS", [(1.5,), (-0.1,)]),
    ("SOLVER.MAX_ITER", [0, -1, None]),
    ("SOLVER.BASE_LR", [-1e-3, float("nan"), float("inf")]),
    ("SOLVER.MOMENTUM", [1.0, -0.5]),
    ("SOLVER.STEPS", [(-1,), (0,), (1.5,)]),
    ("SOLVER.WARMUP_METHOD", ["cosine"]),
    ("SOLVER.GRAD_ACCUM_ITERS", [0]),
    ("SOLVER.CHECKPOINT_PERIOD", [-1]),
    ("SOLVER.TRAIN_BATCH_SIZE", [0, -3]),
    ("SOLVER.TEST_BATCH_SIZE", [0]),
    ("TEST.EVAL_PERIOD", [-5]),
    ("SEED", [2**32, None]),
    ("OUTPUT_DIR", ["https://example.org/run", "HTTP://example.org", "github://x", "gdrive://x", "a\0b", None]),
    ("MODEL.WEIGHTS", ["http://example.org/model.pth", "download://example.org/model.pth"]),
    ("MISC.MINE", [{1, 2}, b"x", 1j, ({"a": b"x"},), 10**100]),
    ("DESCRIPTION.BRIEF", [None]),
]


@pytest.mark.parametrize(("key", "values"), NOT_ALLOWED, ids=[key for key, _ in NOT_ALLOWED])
def test_out_of_range(key, values):
    for value in values:
        cfg = get_cfg()
        cfg.set_recursive(key, 1) if key == "MISC.MINE" else cfg.get_recursive(key)
        section, last = cfg.get_recursive(key.rpartition(".")[0]) if "." in key else cfg, key.split(".")[-1]
        section[last] = value
        with pytest.raises(UserError) as error:
            check_ranges(cfg)
        assert str(error.value).startswith(f"{key}: found ") and "allowed" in str(error.value)


def test_layers_with_options():
    """As in meddlr's config of the SSDU paper."""
    cfg = get_cfg()
    cfg.MODEL.RESNET.CONV_BLOCK.ORDER = ("conv", "act", {"name": "scale", "factor": 0.1, "trainable": False})
    check_ranges(cfg)


def test_defaults_and_the_configs_of_the_package_are_allowed():
    cfg = get_cfg()
    check_ranges(cfg)
    for key in RANGES:
        cfg.get_recursive(key)  # a key that meddlr does not have would be checked in vain
    for name in shipped_configs():
        load_config(name)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.UNROLLED.NUM_RESBLOCKS", "-3"], "MODEL.UNROLLED.NUM_RESBLOCKS: found -3"),
        (["OUTPUT_DIR", "s3://bucket/run"], "OUTPUT_DIR: found 's3://bucket/run', allowed is the path of a local"),
        (["SEED.x", "1"], "SEED.x: unknown key"),
        (["SEED", "(" * 300], "override SEED: "),
        (["SEED", f"[{'-' * 20000}1]"], "override SEED: "),
        (["MISC.GREEDY.CLIP_NORM", "9" * 400], "MISC.GREEDY.CLIP_NORM: found 999"),
        (["MISC.GREEDY.RUN.THREADS", "1000000"], "MISC.GREEDY.RUN.THREADS"),
        (["--num-gpus", "-1"], "--num-gpus: found -1"),
        (["--num-gpus", "0"], "--num-gpus: found 0"),
        (["MODEL.DEVICE", "meta"], "MODEL.DEVICE: found 'meta'"),
        (["MODEL.DEVICE", "cuda:99999999999999999999"], "MODEL.DEVICE"),
        (["AUG_TRAIN.MRI_RECON.TRANSFORMS", "(5,)"], "not possible with these values"),
        (["MODEL.UNROLLED.CONV_BLOCK.ORDER", "('norm', 'x')"], "MODEL"),
        (["DATALOADER.FILTER.BY", "(3,)"], "DATALOADER"),
    ],
)
def test_mistakes_end_the_command_in_one_line(write_config, capsys, opts, words):
    expect_error(capsys, write_config(), *opts, words=[words])


def test_texts_that_name_keys(write_config, tmp_path):
    template = 'f"{{SOLVER.OPTIMIZER}}/{{SOLVER.STEPS}}"'.replace("{{", "{").replace("}}", "}")
    cfg = load_config(str(write_config()), ["OUTPUT_DIR", template, "SOLVER.STEPS", "(1, 2)"])
    assert cfg.OUTPUT_DIR == "Adam/1-2"


@pytest.mark.parametrize(
    "text",
    [
        'f"{SEED}" + str(open("{PATH}", "w")) + f"{SEED}"',
        "f'{SEED}' + __import__('os').system('touch {PATH}') + f'{SEED}'",
        'f"{open(0)}"',
        'f"{SEED!r:{SEED}}"',
        'f"\\x7b{SEED}"',
        'f"{NOTHING}"',
        'f"{"',
    ],
)
@pytest.mark.parametrize("where", ["OUTPUT_DIR", "DESCRIPTION", "MISC"])
def test_texts_of_a_config_are_not_run(write_config, tmp_path, text, where):
    path = tmp_path / "was-run"
    text = text.replace("{PATH}", str(path))
    value = {"OUTPUT_DIR": text, "DESCRIPTION": {"TAGS": ["a", text]}, "MISC": {"A": [{"b": text}]}}[where]
    config = write_config()
    values = yaml.safe_load(config.read_text())
    values[where] = {**values.get(where, {}), **value} if isinstance(value, dict) else value
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"allowed between the quotes|which is unknown"):
        load_config(str(config))
    assert not path.exists()
