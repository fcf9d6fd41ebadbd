"""From files to batches: what decides an example, resuming, and which files are refused."""

import itertools
import json
import random

import h5py
import numpy as np
import pytest
import torch
from meddlr.config import CfgNode, get_cfg
from meddlr.data import DatasetCatalog
from meddlr.data.transforms.subsample import MaskFunc, build_mask_func
from meddlr.ops import fft2c

from meddlr_greedy.data import catalog as datasets_module
from meddlr_greedy.data.augment import Augmentation
from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets, warn_of_shared_subjects
from meddlr_greedy.data.dataset import CineSliceData
from meddlr_greedy.data.sampled_lines import SampledLines
from meddlr_greedy.data.sampler import ResumableBatchSampler
from meddlr_greedy.data.scan_file import check_scan_file
from meddlr_greedy.data.seeding import EVAL_EPOCH, SeededMaskFunc, example_seed
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError
from projects.cine.benchmarks import __main__ as benchmark
from projects.cine.benchmarks.data import LOADER_CASES

HEIGHT, WIDTH, FRAMES, COILS, MAPS = 10, 32, 4, 3, 2
KINDS = ["plane", "cine"]


def scan_arrays(seed, kind):
    """kspace, maps and target of a scan of 3 slices that fulfil the conventions."""
    rng = np.random.default_rng(seed)
    frames = (FRAMES,) if kind == "cine" else ()

    def normal(*shape):
        return torch.view_as_complex(torch.from_numpy(rng.standard_normal(shape + (2,)).astype(np.float32)))

    maps = normal(3, HEIGHT, WIDTH, *(1 for _ in frames), COILS, MAPS)
    image = normal(3, HEIGHT, WIDTH, *frames, MAPS)
    coil_images = (maps * image[..., None, :]).sum(-1)
    target = (maps.conj() * coil_images[..., None]).sum(-2)
    kspace = fft2c(coil_images, channels_last=True)
    return {"kspace": kspace.numpy(), "maps": maps.numpy(), "target": target.numpy()}


def write_scan(path, arrays, **attributes):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    return str(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data sets small_plane and small_cine with 2 scans to train on and 1 to validate with."""
    root = tmp_path_factory.mktemp("root")
    for kind in KINDS:
        for split, num_scans in (("train", 2), ("val", 1)):
            folder = root / f"small_{kind}"
            (folder / split).mkdir(parents=True)
            (folder / "annotations").mkdir(exist_ok=True)
            names = [f"{split}/{split}_{scan}.h5" for scan in range(num_scans)]
            for seed, name in enumerate(names):
                write_scan(folder / name, scan_arrays(seed, kind))
            annotation = {"images": [{"file_name": name} for name in names], "info": {}}
            (folder / "annotations" / f"{split}.json").write_text(json.dumps(annotation))
    register_datasets(root)
    yield root
    register_datasets()


@pytest.fixture
def make_cfg(root):
    """Makes a config: make_cfg("cine", "SOLVER.TRAIN_BATCH_SIZE", 3, ...)."""

    def make(kind, *overrides):
        cfg = get_cfg()
        cfg.DATASETS.TRAIN, cfg.DATASETS.VAL = (f"small_{kind}_train",), (f"small_{kind}_val",)
        cfg.MODEL.DEVICE = "cpu"
        cfg.SEED = 3
        cfg.SOLVER.TRAIN_BATCH_SIZE, cfg.SOLVER.TEST_BATCH_SIZE = 4, 2
        cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.DROP_LAST = 0, False
        cfg.AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS = (2, 4)
        if kind == "cine":
            cfg.AUG_TRAIN.UNDERSAMPLE.NAME = "VariableDensityKtMaskFunc"
            cfg.AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE = 2
        else:
            cfg.AUG_TRAIN.UNDERSAMPLE.NAME = "RandomMaskFunc1D"
            cfg.AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE = 0
            cfg.AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS = (0.1,)
        overrides = dict(zip(overrides[::2], overrides[1::2]))
        cfg.MISC.GREEDY = CfgNode({"CINE": overrides.pop("MISC.GREEDY.CINE", {})})
        cfg.merge_from_list([word for item in overrides.items() for word in item])
        return cfg

    return make


NOISE = (
    *("AUG_TRAIN.USE_NOISE", True, "AUG_TRAIN.NOISE_P", 0.5),
    *("AUG_TRAIN.USE_MOTION", True, "AUG_TRAIN.MOTION_P", 0.5),
    *("MODEL.CONSISTENCY.AUG.NOISE.STD_DEV", (0.1, 0.5)),
)


AUGMENTED = (*NOISE, "MISC.GREEDY.CINE", {"READOUT_CROP": 6, "FLIP_PROBABILITY": 0.5, "PARTIAL_ECHO": 0.25})


def first_batches(loader, count):
    return list(itertools.islice(loader, count))


def equal(value, other):
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(equal(value[key], other[key]) for key in value)
    return torch.equal(value, other) if torch.is_tensor(value) else value == other


def assert_equal(actual, expected):
    assert len(actual) == len(expected) > 0
    for batch, other in zip(actual, expected):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            assert equal(value, other[key]), key


def rows_by_target(batches):
    """mask of each example, known by its (normalized, unchanging) target."""
    return {
        tuple((target * std).abs().flatten()[:3].mul(1e3).round().tolist()): mask
        for batch in batches
        for target, std, mask in zip(batch["target"], batch["std"], batch["mask"])
    }


def test_example_seed_never_changes():
    assert example_seed(3, 7, "scan-0") == 2725680543
    seeds = {
        example_seed(seed, epoch, name)
        for seed in range(5)
        for epoch in range(EVAL_EPOCH, 5)
        for name in ("a-1", "a-2", "b-1")
    }
    assert len(seeds) == 5 * 6 * 3
    assert all(0 < seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("drop_last, sizes", [(True, [4, 4]), (False, [4, 4, 2])])
def test_sampler_goes_through_all_examples_and_resumes(drop_last, sizes):
    sampler = ResumableBatchSampler(10, 4, drop_last, seed=1)
    batches = list(itertools.islice(sampler, 9))
    assert [len(batch) for batch in batches[: len(sizes)]] == sizes
    for epoch in range(2):
        keys = sum(batches[epoch * len(sizes) : (epoch + 1) * len(sizes)], [])
        assert len(set(keys)) == sum(sizes) and {key[0] for key in keys} == {epoch}
    assert [key[1] for key in batches[0]] != [key[1] for key in batches[len(sizes)]]
    for start in range(7):
        sampler.start_iter = start
        assert list(itertools.islice(sampler, 2)) == batches[start : start + 2]
    assert next(iter(ResumableBatchSampler(10, 4, drop_last, seed=2))) != batches[0]


@pytest.mark.parametrize("kind, options", [("plane", NOISE), ("cine", NOISE), ("cine", AUGMENTED)])
def test_batches_do_not_depend_on_workers_and_resume(make_cfg, kind, options):
    """6 examples in batches of 4 and 2; three epochs, with random masks, accelerations, noise, motion, crop, flips."""
    threads = torch.get_num_threads()
    expected = first_batches(build_train_loader(make_cfg(kind, *options), seed=5), 6)
    assert [len(batch["kspace"]) for batch in expected] == [4, 2] * 3
    assert torch.get_num_threads() == threads
    for num_workers in (1, 2):
        cfg = make_cfg(kind, *options, "DATALOADER.NUM_WORKERS", num_workers)
        assert_equal(first_batches(build_train_loader(cfg, seed=5), 6), expected)
    resumed = build_train_loader(make_cfg(kind, *options, "DATALOADER.NUM_WORKERS", 2), seed=5)
    resumed.batch_sampler.start_iter = 3
    assert_equal(first_batches(resumed, 3), expected[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_masks_differ_between_epochs_examples_and_seeds(make_cfg, kind):
    batches = first_batches(build_train_loader(make_cfg(kind), seed=5), 4)
    epochs = [rows_by_target(batches[:2]), rows_by_target(batches[2:])]
    other = rows_by_target(first_batches(build_train_loader(make_cfg(kind), seed=6), 2))
    assert epochs[0].keys() == epochs[1].keys() == other.keys()
    assert len(epochs[0]) == 6
    for masks in (epochs[1], other):
        assert all(not torch.equal(masks[key], mask) for key, mask in epochs[0].items())
    assert len({mask.numpy().tobytes() for mask in epochs[0].values()}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_global_generators_are_left_alone(make_cfg, kind):
    loader = build_train_loader(make_cfg(kind, *NOISE), seed=5)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    first_batches(loader, 3)
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    assert before == after


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_test", [True, False])
def test_validation_is_the_same_each_time(make_cfg, kind, as_test):
    loader = build_val_loader(make_cfg(kind), f"small_{kind}_val", as_test)
    batches = list(loader)
    assert_equal(list(loader), batches)
    cfg = make_cfg(kind, "DATALOADER.NUM_WORKERS", 1)
    assert_equal(list(build_val_loader(cfg, f"small_{kind}_val", as_test)), batches)
    assert len(loader.dataset) == 3
    assert [len(batch["mask"]) for batch in batches] == [2, 1]
    assert batches[1]["metadata"] == [{"scan_id": "val_0", "slice_id": 2}]
    if kind == "cine":
        masks = torch.cat([batch["mask"] for batch in batches])
        assert len({mask.numpy().tobytes() for mask in masks}) == 3, "one mask per slice"


def test_test_masks_in_2d_are_those_of_meddlr(make_cfg):
    cfg = make_cfg("plane")
    cfg.AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS = (3,)
    expected = build_mask_func(cfg.AUG_TRAIN)((1, HEIGHT, WIDTH, 1), seed=sum(map(ord, "val_0")))
    for batch in build_val_loader(cfg, "small_plane_val"):
        assert torch.equal(batch["mask"], expected.expand_as(batch["mask"]))


def test_mask_functions_are_always_given_a_seed():
    """Without one, Poisson disk masks draw inside compiled code, which no seed of Python or numpy reaches."""

    class Recorder(MaskFunc):
        def __call__(self, shape, seed=None, acceleration=None):
            return seed, self.choose_acceleration()

    mask_func = SeededMaskFunc(Recorder((2, 4)))
    mask_func.reseed(7)
    seed, acceleration = mask_func((1, 8, 8, 1))
    assert seed > 0 and 2 <= acceleration <= 4
    assert mask_func((1, 8, 8, 1), seed=9)[0] == 9
    mask_func.reseed(7)
    assert mask_func((1, 8, 8, 1)) == (seed, acceleration)
    mask_func.reseed(8)
    assert mask_func((1, 8, 8, 1))[0] != seed


@pytest.mark.parametrize("kind", KINDS)
def test_undersampled_scans_keep_their_mask(make_cfg, kind):
    cfg = make_cfg(kind, *NOISE, "DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", 1, "SOLVER.TRAIN_BATCH_SIZE", 6)
    first, second = first_batches(build_train_loader(cfg, seed=5), 2)
    for group, same in (("unsupervised", True), ("supervised", False)):
        masks = [
            sorted(mask.numpy().tobytes() for mask in batch[group]["kspace"].abs() > 0) for batch in (first, second)
        ]
        assert len(masks[0]) == 3
        assert (masks[0] == masks[1]) is same


def test_examples_are_read_on_one_thread(make_cfg, monkeypatch):
    threads, seen = torch.get_num_threads(), []
    draw = CineDataTransform._draw_mask
    monkeypatch.setattr(
        CineDataTransform, "_draw_mask", lambda *args: seen.append(torch.get_num_threads()) or draw(*args)
    )
    dataset = build_train_loader(make_cfg("cine"), seed=0).dataset
    torch.set_num_threads(2)
    try:
        dataset[0, 0]
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_augmentations_of_meddlr_are_seeded_too(make_cfg):
    cfg = make_cfg("plane", "DATALOADER.NUM_WORKERS", 1)
    cfg.AUG_TRAIN.MRI_RECON.TRANSFORMS = (
        {"name": "RandomRot90", "p": 0.5, "ks": (2,)},
        {"name": "RandomFlip", "p": 0.5, "ndim": 2},
        {"name": "RandomNoise", "p": 0.5, "std_devs": (0.1, 0.4)},
    )
    expected = first_batches(build_train_loader(cfg, seed=1), 3)
    cfg.DATALOADER.NUM_WORKERS = 0
    assert_equal(first_batches(build_train_loader(cfg, seed=1), 3), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shapes_and_types_of_a_cine_batch(make_cfg, num_workers):
    batch = first_batches(build_train_loader(make_cfg("cine", "DATALOADER.NUM_WORKERS", num_workers), 0), 1)[0]
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    plane = (4, HEIGHT, WIDTH)
    assert shapes == {
        "kspace": (plane + (FRAMES, COILS), torch.complex64),
        "maps": (plane + (1, COILS, MAPS), torch.complex64),
        "target": (plane + (FRAMES, MAPS), torch.complex64),
        "mask": (plane + (FRAMES, 1), torch.float32),
        "edge_mask": (plane + (FRAMES, 1), torch.float32),
        "mean": ((4, 1), torch.float32),
        "std": ((4, 1), torch.float32),
        "norm": ((4,), torch.float32),
        "is_unsupervised": ((4,), torch.bool),
    }
    assert torch.equal(batch["kspace"], batch["kspace"] * batch["mask"])
    assert (batch["mask"] == batch["mask"][:, :1]).all()


def test_an_example_is_the_masked_scaled_scan(make_cfg):
    batch = next(iter(build_val_loader(make_cfg("cine", "SOLVER.TEST_BATCH_SIZE", 3), "small_cine_val")))
    scan = {name: torch.from_numpy(array) for name, array in scan_arrays(0, "cine").items()}
    scale = batch["std"].reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(batch["kspace"] * scale, scan["kspace"] * batch["mask"])
    torch.testing.assert_close(batch["target"] * scale, scan["target"])
    assert torch.equal(batch["maps"], scan["maps"])


def test_augmentations_differ_between_epochs_examples_and_seeds_and_validation_has_none(make_cfg):
    cfg = make_cfg("cine", "MISC.GREEDY.CINE", {"READOUT_CROP": 6, "FLIP_PROBABILITY": 0.5, "READOUT_CROP_JITTER": 2.0})

    def maps(seed, count):
        return [
            m.numpy().tobytes() for batch in first_batches(build_train_loader(cfg, seed), count) for m in batch["maps"]
        ]

    one, two = maps(5, 4), maps(6, 2)
    assert len(set(one)) >= 8 and len(set(one[:6] + two)) >= 8  # of 12; few flips and places of the crop there are
    assert one[:6] == maps(5, 2)
    for as_test in (True, False):
        for batch in build_val_loader(cfg, "small_cine_val", as_test):
            assert batch["maps"].shape[1] == HEIGHT


@pytest.mark.parametrize("key, value", [("PARTIAL_ECHO", 0.25), ("READOUT_CROP", 6), ("FLIP_PROBABILITY", 0.5)])
def test_keys_for_cine_are_refused_for_2d(make_cfg, key, value):
    with pytest.raises(UserError, match=rf"^MISC\.GREEDY\.CINE\.{key}: found {value}, but the data are 2D"):
        build_train_loader(make_cfg("plane", "MISC.GREEDY.CINE", {key: value}), seed=0)


@pytest.mark.parametrize(
    "held_out,folder,message",
    [
        (["P1", "P2"], "own", "1 of 2 subjects of VAL and TEST are in TRAIN too (first 'P1' of 'own')"),
        (["P2", "P3"], "own", None),
        (["P1"], "other", None),
        ([None], "own", None),
    ],
)
def test_subjects_in_training_and_beside_it_are_told(monkeypatch, caplog, held_out, folder, message):
    def scans(subjects, folder):
        return [{"_dataset": folder, **({"subject_id": s} if s else {})} for s in subjects]

    sets = {"a_train": scans(["P0", "P1", None], "own"), "a_test": scans(held_out, folder), "a_val": []}
    monkeypatch.setattr(datasets_module, "DatasetCatalog", sets)
    warn_of_shared_subjects(["a_train"], ["a_val", "a_test"])
    assert [message in record.getMessage() for record in caplog.records] == [True] * (message is not None)


def test_coverage_of_the_sampling_is_logged(make_cfg, caplog):
    with caplog.at_level("INFO", "meddlr_greedy"):
        build_train_loader(make_cfg("cine"), seed=0)
    assert "k-t sampling: the time average covers" in caplog.text and f"of {WIDTH} lines" in caplog.text


def prospective(seed=0, rows=1, dtype=np.uint8, **changes):
    """A scan without target and with its own mask."""
    arrays = scan_arrays(seed, "cine")
    del arrays["target"]
    mask = np.random.default_rng(seed).uniform(size=(3, rows, WIDTH, FRAMES, 1)) < 0.3
    return {**arrays, "mask": mask.astype(dtype), **changes}


@pytest.mark.parametrize("rows", [1, HEIGHT])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_prospective_scans_keep_their_mask_and_need_no_target(make_cfg, annotate, rows, dtype, num_workers):
    arrays = prospective(rows=rows, dtype=dtype)
    annotate(("scan", arrays))
    cfg = make_cfg("cine", "DATASETS.TRAIN", ("some_train",), "DATALOADER.NUM_WORKERS", num_workers)
    cfg.SOLVER.TEST_BATCH_SIZE = 3
    (train, again), (val,) = first_batches(build_train_loader(cfg, seed=0), 2), build_val_loader(cfg, "some_train")
    mask = torch.from_numpy(arrays["mask"]).float().expand(3, HEIGHT, WIDTH, FRAMES, 1)
    for batch in (train, again, val):
        assert "target" not in batch
        order = [
            next(i for i, maps in enumerate(arrays["maps"]) if np.array_equal(maps, found)) for found in batch["maps"]
        ]
        assert sorted(order) == [0, 1, 2]
        assert torch.equal(batch["mask"], mask[order])
        scaled = batch["kspace"] * batch["std"].reshape(3, 1, 1, 1, 1)
        torch.testing.assert_close(scaled, (torch.from_numpy(arrays["kspace"]) * mask)[order])


def test_scans_with_and_without_target_are_no_batch(make_cfg, annotate):
    annotate(("with", scan_arrays(0, "cine")), ("without", prospective()))
    cfg = make_cfg("cine", "DATASETS.TRAIN", ("some_train",))
    with pytest.raises(
        UserError, match=r"^SOLVER\.TRAIN_BATCH_SIZE: 4 .*with\.h5 .*without\.h5 one alone has a target"
    ):
        build_train_loader(cfg, seed=0)
    cfg.SOLVER.TRAIN_BATCH_SIZE = 1
    assert sum("target" in batch for batch in first_batches(build_train_loader(cfg, seed=0), 6)) == 3


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: {**a, "mask": a["mask"].astype(np.int64)}, "mask is int64; uint8 and float32"),
        (lambda a: {**a, "mask": a["mask"][..., 0]}, "mask has shape"),
        (lambda a: {**a, "mask": a["mask"][:2]}, "mask has shape"),
        (lambda a: {**a, "mask": a["mask"].repeat(2, axis=1)}, "mask has shape .* needed"),
        (lambda a: {**a, "mask": a["mask"][:, :, :, :2]}, "mask has shape"),
        (
            lambda a: {key: value for key, value in a.items() if key != "mask"},
            "no dataset 'target' .* 'mask' may lack it",
        ),
        (lambda a: {key: value for key, value in a.items() if key != "maps"}, "no dataset 'maps'"),
    ],
)
def test_wrong_prospective_scans_are_refused(tmp_path, change, words):
    assert check_scan_file(write_scan(tmp_path / "good.h5", prospective())) == (3, HEIGHT, WIDTH, FRAMES, COILS)
    with pytest.raises(UserError, match=rf"wrong\.h5: {words}"):
        check_scan_file(write_scan(tmp_path / "wrong.h5", change(prospective())))


@pytest.mark.parametrize("value, words", [(2, "values other than 0 and 1"), (0, "nothing but zeros"), (np.nan, "NaN")])
def test_wrong_values_in_a_mask(make_cfg, annotate, value, words):
    arrays = prospective(dtype=np.float32)
    arrays["mask"][1] = value
    annotate(("spoilt", arrays))
    cfg = make_cfg("cine", "DATASETS.TRAIN", ("some_train",))
    with pytest.raises(UserError, match=rf"spoilt\.h5: slice 1: mask holds {words}"):
        first_batches(build_train_loader(cfg, seed=0), 1)


def test_names_in_the_file_of_a_prospective_scan(make_cfg, annotate):
    annotate(("scan", rename(prospective(), "mask")))
    cfg = make_cfg("cine", "DATASETS.TRAIN", ("some_train",))
    cfg.DATALOADER.DATA_KEYS = (("mask", "other"),)
    assert "target" not in first_batches(build_train_loader(cfg, seed=0), 1)[0]


def test_mask_has_no_holes_where_kspace_happens_to_be_zero():
    kspace = torch.ones(5, 4, 3, 2, dtype=torch.complex64)
    kspace[:, 0] = 0
    kspace[2, 1, 0] = 0
    sampled = torch.tensor([1.0, 1, 1, 0]).reshape(1, 4, 1, 1).expand(1, 4, 3, 1)
    lines = SampledLines.of(kspace, sampled, Augmentation.none(kspace.shape))
    assert torch.equal(lines.mask, torch.tensor([0.0, 1, 1, 0]).reshape(1, 4, 1, 1).expand(1, 4, 3, 1))
    assert torch.equal(lines.kspace(kspace.shape), kspace * lines.mask)


@pytest.mark.parametrize("name", ["hard_dc_edge", "hard_dc_all"])
def test_postprocessor_works_for_cine(make_cfg, name):
    batch = next(iter(build_val_loader(make_cfg("cine", "TEST.POSTPROCESSOR.NAME", name), "small_cine_val")))
    expected = batch["mask"] if name == "hard_dc_all" else torch.zeros_like(batch["mask"])
    assert torch.equal(batch["postprocessing_mask"], expected)


@pytest.mark.parametrize(
    "kind, key, value",
    [
        ("plane", "DATALOADER.SAMPLER_TRAIN", "GroupSampler"),
        ("plane", "DATASETS.TRAIN", ()),
        ("plane", "AUG_TRAIN.UNDERSAMPLE.NAME", "RandomMask1D"),
        ("cine", "AUG_TRAIN.UNDERSAMPLE.NAME", "PoissonDiskMaskFunc"),
        ("cine", "AUG_TRAIN.MRI_RECON.TRANSFORMS", ({"name": "RandomFlip", "p": 0.5, "ndim": 2},)),
        ("cine", "SOLVER.TRAIN_BATCH_SIZE", 0),
        ("cine", "SOLVER.TRAIN_BATCH_SIZE", 7),
        ("cine", "DATALOADER.NUM_WORKERS", -1),
        ("cine", "TEST.POSTPROCESSOR.NAME", "soft"),
    ],
)
def test_config_that_cannot_be_is_refused(make_cfg, kind, key, value):
    cfg = make_cfg(kind, "DATALOADER.DROP_LAST", True, key, value)
    with pytest.raises(UserError, match=f"^{key}: "):
        build_train_loader(cfg, seed=0)


def test_prefetch_factor_counts_with_workers_only(make_cfg):
    cfg = make_cfg("cine", "DATALOADER.PREFETCH_FACTOR", 0)
    assert first_batches(build_train_loader(cfg, seed=0), 1) and list(build_val_loader(cfg, "small_cine_val"))
    cfg.DATALOADER.NUM_WORKERS = 1
    for build in (lambda: build_train_loader(cfg, seed=0), lambda: build_val_loader(cfg, "small_cine_val")):
        with pytest.raises(UserError, match=r"^DATALOADER\.PREFETCH_FACTOR: 0 .* 1 or more"):
            build()


@pytest.mark.parametrize("kind", KINDS)
def test_postprocessor_that_is_unknown(make_cfg, kind):
    cfg = make_cfg(kind, "TEST.POSTPROCESSOR.NAME", "hard_dc_al")
    with pytest.raises(UserError, match=r"^TEST\.POSTPROCESSOR\.NAME: .*did you mean 'hard_dc_all'"):
        build_val_loader(cfg, f"small_{kind}_val")


def test_what_a_mask_function_of_meddlr_refuses_is_one_line(make_cfg):
    cfg = make_cfg("plane", "AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE", 4)
    with pytest.raises(UserError, match=r"^AUG_TRAIN\.UNDERSAMPLE: not allowed for RandomMaskFunc1D: Only one of"):
        build_train_loader(cfg, seed=0)


def test_scheduled_noise_needs_the_iteration(make_cfg):
    overrides = (*NOISE, "MODEL.CONSISTENCY.AUG.NOISE.SCHEDULER.WARMUP_METHOD", "linear")
    build_train_loader(make_cfg("plane", *overrides), seed=0)
    with pytest.raises(UserError, match=r"^DATALOADER\.NUM_WORKERS: 1 "):
        build_train_loader(make_cfg("plane", *overrides, "DATALOADER.NUM_WORKERS", 1), seed=0)


def rename(arrays, name):
    return {("other" if key == name else key): value for key, value in arrays.items()}


def crop(arrays, name, axis):
    return {**arrays, name: arrays[name].take([0], axis=axis)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: rename(a, "kspace"), "no dataset 'kspace'"),
        (lambda a: rename(a, "maps"), "no dataset 'maps'"),
        (lambda a: rename(a, "target"), "no dataset 'target'"),
        (lambda a: crop(a, "maps", -2), "maps has shape"),
        (lambda a: crop(a, "maps", 2), "maps has shape"),
        (lambda a: crop(a, "maps", -1), "target has shape"),
        (lambda a: crop(a, "target", 1), "target has shape"),
        (lambda a: crop(a, "target", 0), "target has shape"),
        (lambda a: {**a, "kspace": a["kspace"][0, 0]}, "kspace has shape"),
        (lambda a: {**a, "kspace": a["kspace"].real}, "kspace is float32"),
        (lambda a: {**a, "kspace": a["kspace"].astype(complex)}, "kspace is complex128"),
        (lambda a: {**a, "maps": a["maps"].real}, "maps is float32"),
        (lambda a: {**a, "traj": np.zeros((3, 2))}, "not Cartesian"),
    ],
)
def test_wrong_contents_are_refused(tmp_path, kind, change, words):
    arrays = scan_arrays(0, kind)
    path = write_scan(tmp_path / "good.h5", arrays, trajectory="cartesian")
    assert check_scan_file(path) == arrays["kspace"].shape
    path = write_scan(tmp_path / "wrong.h5", change(arrays))
    with pytest.raises(UserError, match=words) as error:
        check_scan_file(path)
    assert str(error.value).startswith(path) and "\n" not in str(error.value)


@pytest.mark.parametrize("trajectory", ["radial", np.bytes_("spiral")])
def test_attribute_that_says_non_cartesian(tmp_path, trajectory):
    path = write_scan(tmp_path / "scan.h5", scan_arrays(0, "cine"), trajectory=trajectory)
    with pytest.raises(UserError, match="scan.h5: not Cartesian"):
        check_scan_file(path)


@pytest.mark.parametrize(
    "name, good, bad",
    [
        ("pixel_spacing_mm", [1.5, 2], [[1.5, 0], [1.5, -1], [np.nan, 1], [1.5], 1.5, [1, 1, 1], ["1", "1"], "fine"]),
        ("slice_spacing_mm", 8, [0, [8, 8], "thick"]),
        ("frame_time_ms", 40, [0, -40.0, np.inf, [40, 40], "40", h5py.Empty("f")]),
    ],
)
def test_attributes_that_are_no_positive_numbers(tmp_path, name, good, bad):
    check_scan_file(write_scan(tmp_path / "good.h5", scan_arrays(0, "cine"), **{name: good}))
    for value in bad:
        path = write_scan(tmp_path / "scan.h5", scan_arrays(0, "cine"), **{name: value})
        with pytest.raises(UserError, match=rf"scan\.h5: attribute {name} is .* allowed") as error:
            check_scan_file(path)
        assert "\n" not in str(error.value)


def test_files_that_are_no_hdf5(tmp_path):
    good = tmp_path / "good.h5"
    write_scan(good, scan_arrays(0, "cine"))
    torn, text = tmp_path / "torn.h5", tmp_path / "text.h5"
    torn.write_bytes(good.read_bytes()[:-1000])
    text.write_text("no data")
    for path in (torn, text):
        with pytest.raises(UserError, match=f"{path.name}: truncated, or not an HDF5 file"):
            check_scan_file(str(path))
    with pytest.raises(UserError, match="missing.h5: no such file"):
        check_scan_file(str(tmp_path / "missing.h5"))


def test_scans_of_one_dataset_must_fit_together(tmp_path):
    cine = write_scan(tmp_path / "cine.h5", scan_arrays(0, "cine"))
    plane = write_scan(tmp_path / "plane.h5", scan_arrays(0, "plane"))
    (tmp_path / "sub").mkdir()
    twin = write_scan(tmp_path / "sub" / "cine.h5", scan_arrays(1, "cine"))
    with pytest.raises(UserError, match="plane.h5: .* cannot be mixed"):
        CineSliceData([{"file_name": cine}, {"file_name": plane}], None)
    with pytest.raises(UserError, match="sub/cine.h5: has the same name"):
        CineSliceData([{"file_name": cine}, {"file_name": twin}], None)
    for size in ([4, HEIGHT, WIDTH, FRAMES, COILS], [0], ["2"], [], "x", 2, None):
        with pytest.raises(UserError, match=r"cine\.h5: kspace_size .* in the annotation; .* 1 to 3 slices"):
            CineSliceData([{"file_name": cine, "kspace_size": size}], None)
    with pytest.raises(UserError, match=r"cine\.h5: .*num_slices"):
        CineSliceData([{"file_name": cine, "num_slices": "x"}], None)
    assert len(CineSliceData([{"file_name": cine, "kspace_size": [2]}], None)) == 2


@pytest.fixture
def annotate(root, tmp_path):
    """Registers a data set of the given scans, as (name, arrays); in the end those of ``root`` again."""

    def write(*scans, dataset="some"):
        folder = tmp_path / dataset
        (folder / "annotations").mkdir(parents=True)
        images = [{"file_name": f"{name}.h5"} for name, _ in scans]
        (folder / "annotations" / "train.json").write_text(json.dumps({"images": images}))
        for name, arrays in scans:
            write_scan(folder / f"{name}.h5", arrays)
        register_datasets(tmp_path)
        return folder

    yield write
    register_datasets(root)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "name, value, words",
    [
        ("kspace", np.nan, "NaN"),
        ("kspace", np.inf, "NaN"),
        ("kspace", 0, "nothing but zeros"),
        ("maps", 0, "nothing but zeros"),
        ("target", 0, "nothing but zeros"),
    ],
)
def test_bad_values_are_told_in_one_line_also_by_a_worker(make_cfg, annotate, kind, num_workers, name, value, words):
    arrays = scan_arrays(0, kind)
    arrays[name][1] = value
    cfg = make_cfg(kind, "DATALOADER.NUM_WORKERS", num_workers, "DATASETS.TRAIN", ("some_train",))
    annotate(("spoilt", arrays))
    with pytest.raises(UserError, match=f"spoilt.h5: slice 1: {name} holds {words}") as error:
        first_batches(build_train_loader(cfg, seed=0), 1)
    assert "Traceback" not in str(error.value)


def test_magnitude_targets_go_without_maps(make_cfg, annotate):
    arrays = scan_arrays(0, "plane")
    rss = np.linalg.norm(arrays["target"], axis=-1)
    annotate(("scan", {"kspace": arrays["kspace"], "reconstruction_rss": rss}))
    cfg = make_cfg("plane", "DATASETS.TRAIN", ("some_train",))
    cfg.DATALOADER.DATA_KEYS = (("target", "reconstruction_rss"),)
    assert first_batches(build_train_loader(cfg, seed=0), 1)[0]["target"].shape == (3, HEIGHT, WIDTH, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_data_sets_may_use_the_same_names_for_their_scans(make_cfg, annotate, kind):
    """Their examples get random choices of their own, though the data here are the same too."""
    for dataset in ("one", "two"):
        annotate(("subject000", scan_arrays(0, kind)), dataset=dataset)
    cfg = make_cfg(kind, "DATASETS.TRAIN", ("one_train", "two_train"), "SOLVER.TRAIN_BATCH_SIZE", 6)
    (batch,) = first_batches(build_train_loader(cfg, seed=5), 1)
    assert len({mask.numpy().tobytes() for mask in batch["mask"]}) == 6
    for dataset in ("one", "two"):
        (batch,) = build_val_loader(make_cfg(kind, "SOLVER.TEST_BATCH_SIZE", 3), f"{dataset}_train")
        assert batch["metadata"] == [{"scan_id": "subject000", "slice_id": i} for i in range(3)]


def test_examples_are_seeded_by_the_name_of_their_data_set_wherever_it_lies(annotate):
    folder = annotate(("subject000", scan_arrays(0, "cine")))
    dataset = CineSliceData(DatasetCatalog.get("some_train"), None)
    assert dataset.scan_names == {str(folder / "subject000.h5"): "some/subject000"}


def test_batches_of_different_shapes_are_refused(make_cfg, annotate):
    arrays = scan_arrays(0, "plane")
    narrow = {key: value[:, :, :8] for key, value in arrays.items()}
    annotate(("wide", arrays), ("narrow", narrow))
    cfg = make_cfg("plane", "DATASETS.TRAIN", ("some_train",))
    with pytest.raises(UserError, match=r"^SOLVER\.TRAIN_BATCH_SIZE: 4 .*narrow\.h5"):
        build_train_loader(cfg, seed=0)
    cfg.SOLVER.TRAIN_BATCH_SIZE = 1
    assert len(first_batches(build_train_loader(cfg, seed=0), 6)) == 6


def test_registering_again_finds_new_data_and_another_root(root, annotate):
    names = ["small_cine_train", "small_cine_val", "small_plane_train", "small_plane_val"]
    assert register_datasets(root) == register_datasets(root) == names
    assert DatasetCatalog.get("small_cine_val")[0]["file_name"] == str(root / "small_cine" / "val" / "val_0.h5")
    folder = annotate(("scan", scan_arrays(0, "cine")))
    assert "small_cine_val" not in DatasetCatalog.list()
    check_dataset_names(["some_train"])
    (folder / "annotations" / "val.json").write_text("{}")
    assert register_datasets(folder.parent) == ["some_train", "some_val"]
    with pytest.raises(UserError, match=r"val\.json: not an annotation"):
        check_dataset_names(["some_val"])
    (folder / "annotations" / "train.json").unlink()
    with pytest.raises(UserError, match=r"train\.json: no such file"):
        check_dataset_names(["some_train"])
    with pytest.raises(UserError, match=r"no data set 'some_trian' .* did you mean 'some_train'"):
        check_dataset_names(["some_trian"])


@pytest.mark.parametrize(
    "content, words",
    [
        (b"{}", "not an annotation"),
        (b"[1]", "not an annotation"),
        (b'{"images": ', "not an annotation"),
        (b'{"images": 1}', "not an annotation"),
        (b'{"images": ["a.h5"]}', "not an annotation"),
        (b'{"images": [{"file_name": 1}]}', "not an annotation"),
        ('{"images": [{"file_name": "Ü.h5"}]}'.encode("latin-1"), "not an annotation"),
        (b'{"images": []}', "lists no scans"),
    ],
)
def test_annotations_that_cannot_be_used(make_cfg, annotate, content, words):
    folder = annotate(("scan", scan_arrays(0, "cine")))
    (folder / "annotations" / "train.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"train\.json: {words}"):
        build_train_loader(make_cfg("cine", "DATASETS.TRAIN", ("some_train",)), seed=0)


def test_loader_benchmark_runs(root, tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(benchmark, "LOADER_SHAPE", (66, 48, 4, 2))
    try:
        benchmark.main(["loader", "--rounds", "1", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
        register_datasets(root)
    rows = json.loads((tmp_path / "loader.json").read_text())["rows"]
    assert [row["example"] for row in rows] == list(LOADER_CASES)
    assert all(row[f"examples/s, {workers} workers"] > 0 for row in rows for workers in (0, 1, 2))
    assert "ratio to reading" in capsys.readouterr().out
