"""The package of a user, ``tests/data/plugin``, which is imported for a while and then forgotten."""

import contextlib
import os
import sys

import numpy as np
import pytest
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

from meddlr_greedy.registry import HOOK_REGISTRY, LOSS_REGISTRY, READER_REGISTRY, TRAINER_REGISTRY
from tests.helpers.runs import ROOT
from tests.helpers.scans import make_scan

FOLDER = ROOT / "tests" / "data" / "plugin"
SMALLEST = ROOT / "tests" / "data" / "smallest"  #: The smallest network, a module without a package.
CONFIG = FOLDER / "train.yaml"
NAME = "my_recon"

REGISTRIES = (
    META_ARCH_REGISTRY,
    MASK_FUNC_REGISTRY,
    HOOK_REGISTRY,
    LOSS_REGISTRY,
    READER_REGISTRY,
    TRAINER_REGISTRY,
)


@contextlib.contextmanager
def importable(folder, forget=(NAME,)):
    """Packages in ``folder`` can be imported, in processes started here too.

    At the end the packages ``forget`` are, and with them all that was registered meanwhile.
    """
    kinds = ("_obj_map", "_metadata_map")
    maps = [vars(registry)[kind] for registry in REGISTRIES for kind in kinds if kind in vars(registry)]
    before = [set(names) for names in maps]
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.syspath_prepend(str(folder))
        try:
            yield
        finally:
            for names, kept in zip(maps, before):
                for name in set(names) - kept:
                    del names[name]
            for module in [name for name in sys.modules if name.partition(".")[0] in forget]:
                del sys.modules[module]


def write_npz(folder, subjects=("a", "b", "c")):
    """k-space of a small slice for each subject, in the made-up format of the package's reader."""
    folder.mkdir()
    for seed, subject in enumerate(subjects):
        scan = make_scan(np.random.default_rng(seed), num_slices=2, height=16, width=12, num_coils=3, num_frames=4)
        np.savez(folder / f"{subject}.npz", kspace=scan["kspace"])
    return folder


def prepare_command(files, output):
    """The arguments of ``prepare`` that make a data set of these files."""
    options = ["--split", "1", "1", "1", "--compression", "none", "--calib", "8", "--crop", "0"]
    return ["npz", str(files), "--scale", "2", "--output", str(output), *options]
