"""Configs of meddlr's repository that train an unrolled network, by their keys: trained greedily and evaluated.

Sizes, numbers of iterations and names of data sets are small ones. Of configs with the same keys there is one. Two need
MONAI and LPIPS (extras of their own), and are skipped without.
"""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from meddlr_greedy import eval_net
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.plan import main as plan_memory
from tests.helpers.errors import without_progress
from tests.helpers.runs import metrics, train
from tests.helpers.scans import write_scans

LINES = [
    *("AUG_TRAIN.UNDERSAMPLE.NAME", "RandomMaskFunc1D", "AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS", "(4,)"),
    *("AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE", "0", "AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS", "(0.04,)"),
    *("MODEL.RECON_LOSS.RENORMALIZE_DATA", "False", "DATALOADER.DATA_KEYS"),
    '(("target", "jsense-8/target"), ("maps", "jsense-8/maps"))',
]
L1 = ["MODEL.RECON_LOSS.NAME", "l1", "MODEL.RECON_LOSS.RENORMALIZE_DATA", "False"]
LPIPS = ["MODEL.RECON_LOSS.NAME", "LPIPS", "MODEL.RECON_LOSS.RENORMALIZE_DATA", "False"]
VNET = ["MODEL.UNROLLED.BLOCK_ARCHITECTURE", "monai/VNet", *L1]
STUDY = [  # of mri-recon
    *("DATALOADER.DROP_LAST", "True", "SEED", "1000", "SOLVER.LR_SCHEDULER_NAME", "", "SOLVER.OPTIMIZER", "Adam"),
    *("SOLVER.TRAIN_BATCH_SIZE", "2", "SOLVER.TEST_BATCH_SIZE", "12", "TIME_SCALE", "epoch", "SOLVER.MAX_ITER", "1"),
    *("SOLVER.BASE_LR", "1e-4", "VIS_PERIOD", "-400", "MODEL.UNROLLED.CONV_BLOCK.ACTIVATION", "relu"),
    *("MODEL.UNROLLED.CONV_BLOCK.NORM", "none", "MODEL.UNROLLED.CONV_BLOCK.ORDER", '("act", "conv")'),
    "TEST.VAL_METRICS.RECON",
    '("psnr", "psnr_scan", "psnr_mag", "psnr_mag_scan", "nrmse", "nrmse_scan", "nrmse_mag", "nrmse_mag_scan",'
    ' "ssim (Wang)")',
]
POISSON = ["AUG_TRAIN.UNDERSAMPLE.NAME", "PoissonDiskMaskFunc"]
ALTERNATING = [  # the sampler itself fails on current torch
    *("DATALOADER.SAMPLER_TRAIN", "", "SOLVER.TRAIN_BATCH_SIZE", "2"),
    *("DATALOADER.ALT_SAMPLER.PERIOD_UNSUPERVISED", "1", "DATALOADER.ALT_SAMPLER.PERIOD_SUPERVISED"),
]
UNDERSAMPLED = ["DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", "1", "VIS_PERIOD", "1"]

#: Config -> its wrapper, its network, its keys.
CONFIGS = {
    "tests/basic": ("", "GeneralizedUnrolledCNN", ["VIS_PERIOD", "1"]),
    "tests/test_evaluation": ("", "GeneralizedUnrolledCNN", ["DATASETS.TEST", "()", "SOLVER.TEST_BATCH_SIZE", "12"]),
    "tests/grad_accumulation": ("", "GeneralizedUnrolledCNN", ["SOLVER.GRAD_ACCUM_ITERS", "4"]),
    "tests/fastmri_knee_mc": ("", "GeneralizedUnrolledCNN", LINES),
    "tests/num_val_restrict": (
        "",
        "GeneralizedUnrolledCNN",
        [*LINES, "DATALOADER.SUBSAMPLE_TRAIN.NUM_TOTAL", "-1", "DATALOADER.SUBSAMPLE_TRAIN.NUM_VAL", "1"],
    ),
    "tests/poisson": ("", "GeneralizedUnrolledCNN", POISSON),
    "tests/reconstruction/unrolled/cg-unrolled": (
        "",
        "CGUnrolledCNN",
        [
            *("MODEL.UNROLLED.STEP_SIZES", "(2,)", "MODEL.UNROLLED.DC.EPS", "1e-5"),
            *("MODEL.UNROLLED.DC.MAX_ITER", "10"),
        ],
    ),
    "tests/reconstruction/unrolled/unet-block": (
        "",
        "GeneralizedUnrolledCNN",
        [
            *(
                "MODEL.UNROLLED.BLOCK_ARCHITECTURE",
                "UnetModel",
                "MODEL.UNET.CHANNELS",
                "4",
                "MODEL.UNET.DROPOUT",
                "0.0",
            ),
            *("MODEL.UNET.IN_CHANNELS", "2", "MODEL.UNET.OUT_CHANNELS", "2", "MODEL.UNET.NUM_POOL_LAYERS", "2", *L1),
        ],
    ),
    "tests/reconstruction/unrolled/monai-vnet-block": ("", "GeneralizedUnrolledCNN", VNET),
    "tests/lpips-loss": ("", "GeneralizedUnrolledCNN", LPIPS),
    "mri-recon/fastmri-knee/unrolled": ("", "GeneralizedUnrolledCNN", [*LINES, *STUDY, "SOLVER.GRAD_ACCUM_ITERS", "8"]),
    "mri-recon/mridata-3dfse-knee/unrolled": (
        "",
        "GeneralizedUnrolledCNN",
        [*POISSON, *L1, *STUDY, "SOLVER.GRAD_ACCUM_ITERS", "4", "AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS", "[]"],
    ),
    "tests/m2r/standard": ("M2R", "GeneralizedUnrolledCNN", UNDERSAMPLED),
    "tests/n2r/standard": ("N2R", "GeneralizedUnrolledCNN", UNDERSAMPLED),
    "tests/n2r/stddev-range": (
        "N2R",
        "GeneralizedUnrolledCNN",
        [*UNDERSAMPLED, "MODEL.CONSISTENCY.AUG.NOISE.STD_DEV", "(0.05, 1.0)"],
    ),
    "tests/n2r/alt_sampler": ("N2R", "GeneralizedUnrolledCNN", [*UNDERSAMPLED, *ALTERNATING, "1"]),
    "tests/n2r/alt_sampler_imbalanced": (
        "N2R",
        "GeneralizedUnrolledCNN",
        [*UNDERSAMPLED, *ALTERNATING, "2", "SOLVER.GRAD_ACCUM_ITERS", "4"],
    ),
    "tests/reconstruction/unrolled/ssdu-paper": (
        "SSDU",
        "CGUnrolledCNN",
        [
            *("MODEL.UNROLLED.BLOCK_ARCHITECTURE", "ResNetModel", "MODEL.UNROLLED.SHARE_WEIGHTS", "True"),
            *("MODEL.UNROLLED.STEP_SIZES", "(0.05,)", "MODEL.UNROLLED.DC.EPS", "1e-8"),
            *("MODEL.UNROLLED.DC.MAX_ITER", "10", "MODEL.RESNET.IN_CHANNELS", "2", "MODEL.RESNET.CHANNELS", "4"),
            *("MODEL.RESNET.NUM_BLOCKS", "2", "MODEL.RESNET.KERNEL_SIZE", "(3,)", "MODEL.RESNET.BIAS", "False"),
            *("MODEL.RESNET.PRE_CONV", "True", "MODEL.RESNET.POST_CONV", "True"),
            *("MODEL.RESNET.CONV_BLOCK.ACTIVATION", "relu", "MODEL.RESNET.CONV_BLOCK.NORM", "none"),
            *("MODEL.RESNET.CONV_BLOCK.NUM_BLOCKS", "1", "MODEL.RESNET.CONV_BLOCK.ORDER"),
            '("conv", "act", "conv", {"name": "scale", "factor": 0.1, "trainable": False})',
            *("MODEL.RECON_LOSS.NAME", "k_l1", "MODEL.RECON_LOSS.RENORMALIZE_DATA", "False"),
        ],
    ),
}

#: Config -> the package without which it is refused.
NEEDS = {"tests/reconstruction/unrolled/monai-vnet-block": "monai", "tests/lpips-loss": "lpips"}

# With the masker of ssdu-paper and the network of monai-vnet-block, which no override can set. MONAI 1.2
# has split the latter's dropout_prob.
BASIC = """
MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: GreedyUnrolled
  SSDU: {{MASKER: {{PARAMS: {{p: 1.0, rhos: 0.4, kind: uniform, per_example: True, std_scale: 4}}}}}}
  MONAI:
    VNet: {{in_channels: 2, out_channels: 2, spatial_dims: 2, dropout_dim: 2,
           dropout_prob_down: 0.0, dropout_prob_up: [0.0, 0.0]}}
  UNROLLED: {{NUM_UNROLLED_STEPS: 2, NUM_RESBLOCKS: 2, NUM_FEATURES: 4, DROPOUT: 0.0}}
DATASETS: {{TRAIN: [knees_train], VAL: [knees_val], TEST: [knees_test]}}
DATALOADER: {{NUM_WORKERS: 0, SAMPLER_TRAIN: ""}}
AUG_TRAIN: {{UNDERSAMPLE: {{ACCELERATIONS: [4], CALIBRATION_SIZE: 8}}}}
SOLVER: {{TRAIN_BATCH_SIZE: 1, TEST_BATCH_SIZE: 2, MAX_ITER: 2, CHECKPOINT_PERIOD: 20}}
TEST: {{EVAL_PERIOD: 40}}
TIME_SCALE: iter
VERSION: 1
OUTPUT_DIR: {out}
MISC: {{GREEDY: {{META_ARCHITECTURE: {network}, NUM_MODULES: 2, RUN: {{THREADS: 1, LOG_PERIOD: 1}}}}}}
"""


@pytest.fixture
def knees(datasets):
    """A 2D data set whose scans hold target and maps twice: by their own names, and in a group as fastMRI's do."""

    def grouped(scan):
        return {**scan, **{f"jsense-8/{name}": scan[name] for name in ("target", "maps")}}

    kind = {"num_slices": 2, "height": 32, "width": 48, "num_coils": 3}  # V-Net halves them four times
    splits = {"train": 2, "val": 2, "test": 1}
    kinds = {f"{split}_{i}": kind for split, count in splits.items() for i in range(count)}
    write_scans(datasets, "knees", kinds, change=grouped)
    register_datasets(str(datasets))
    yield
    shutil.rmtree(datasets / "knees")
    register_datasets(str(datasets))


@pytest.fixture
def write_basic(knees, tmp_path):
    """Writes ``tests/basic`` with a greedy network."""

    def write(network="GeneralizedUnrolledCNN"):
        path = tmp_path / "config.yaml"
        path.write_text(BASIC.format(network=network, out=tmp_path / "run"))
        return path

    return write


@pytest.fixture
def alexnet_weights(tmp_path, monkeypatch):
    """Random weights where torchvision looks for those that it has downloaded, which LPIPS needs."""
    with torch.random.fork_rng(devices=[]):
        weights = alexnet().state_dict()
    # LPIPS uses the convolutions alone; of the rest, most of 240 MB, the file holds a number each.
    small = {key: w if key.startswith("features") else torch.zeros(()).expand(w.shape) for key, w in weights.items()}
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(small, checkpoints / "alexnet-owt-7be5be79.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.parametrize("name", CONFIGS)
def test_trained_and_evaluated(write_basic, tmp_path, request, name):
    wrapper, network, opts = CONFIGS[name]
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed: pip install .[{NEEDS[name]}]")
        request.getfixturevalue("alexnet_weights")
        plan_memory(["--config-file", str(write_basic(network)), "--untimed", *opts])
    around = ["MODEL.META_ARCHITECTURE", f"{wrapper}Model", f"MODEL.{wrapper}.META_ARCHITECTURE", "GreedyUnrolled"]
    train(write_basic(network), *(around if wrapper else []), *opts)
    lines = metrics(tmp_path / "run")
    assert [line["iteration"] for line in lines] == [0, 1]
    for line in lines:
        assert all(np.isfinite(line[loss]) for loss in ("loss_module_1", "loss_module_2", "total_loss"))
    validated = [value for key, value in lines[-1].items() if key.startswith("knees_val/val_psnr")]
    assert validated and np.isfinite(validated).all()
    if "DATASETS.TEST" in opts:
        return
    eval_net.main(["--weights", str(tmp_path / "run" / "model_best.pth"), "--num-figures", "0"])
    results = json.loads((tmp_path / "run" / "test_results" / "results.json").read_text())
    assert np.isfinite(results["datasets"]["knees_test"]["reconstruction"]["psnr"]["mean"])


@pytest.mark.parametrize(
    ("package", "opts", "words"),
    [
        ("", ["DATALOADER.SAMPLER_TRAIN", "AlternatingSampler"], "DATALOADER.SAMPLER_TRAIN: 'AlternatingSampler'"),
        ("monai", VNET, "MONAI is not installed"),
        ("lpips", LPIPS, "LPIPS"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(write_basic, tmp_path, capsys, package, opts, words):
    """Of tests/n2r/alt_sampler, tests/reconstruction/unrolled/monai-vnet-block and tests/lpips-loss."""
    if package and find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(SystemExit) as end:
        train(write_basic(), *opts)
    error = without_progress(capsys.readouterr().err)
    assert end.value.code == 2 and error.startswith("error: ") and words in error and "\n" not in error, error
    assert not list((tmp_path / "run").glob("*.pth"))
