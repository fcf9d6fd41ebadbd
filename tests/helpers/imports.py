"""Imports modules of the package first, each in a process of its own: ``python tests/helpers/imports.py [--all]``.

Prints a JSON object: name of a module -> what meddlr's registries hold once the module, and meddlr, are imported; of
one that fails, the error. The process of a module is forked where its parent package is imported and nothing else: that
is what Python imports first, too. What meddlr needs is imported once, before, and meddlr itself is not.

Without ``--all``, it is packages, and the modules that are imported with meddlr: others come too late to be in the way.
"""

import importlib
import json
import os
import pkgutil
import sys
import traceback

# What takes long of what meddlr imports.
_PRELOADED = (
    *("torch", "torchvision", "torchmetrics", "sigpy.mri", "pandas", "skimage.metrics", "silx.io.dictdump"),
    *("requests", "iopath.common.file_io", "fvcore.common.config", "fvcore.common.registry", "tabulate", "termcolor"),
)


def registered():
    """The names in meddlr's registries, and its data sets; imports meddlr."""
    import meddlr  # noqa: F401, I001 (as the program of a user, who has imported the plugin before)
    from meddlr.data import DatasetCatalog
    from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY
    from meddlr.data.transforms.transform import NORMALIZER_REGISTRY
    from meddlr.modeling.loss_computer import LOSS_COMPUTER_REGISTRY
    from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

    found = {"data sets": sorted(DatasetCatalog.list())}
    for registry in (META_ARCH_REGISTRY, LOSS_COMPUTER_REGISTRY, MASK_FUNC_REGISTRY, NORMALIZER_REGISTRY):
        found[registry._name] = sorted(name for name, _ in registry)
    return found


def in_a_fork(function, *arguments):
    """What a function returns in a process of its own; None where it ends otherwise."""
    end, other_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with open(other_end, "w") as stream:
                json.dump(function(*arguments), stream)
        finally:
            os._exit(0)
    os.close(other_end)
    with open(end) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else None


def modules_registered():
    """The modules of the package that are there once meddlr is imported behind it."""
    importlib.import_module("meddlr_greedy")
    importlib.import_module("meddlr")
    return [name for name in sys.modules if name.startswith("meddlr_greedy")]


def visited(name, wanted):
    """What is registered where a module is imported first, and each of those in it."""
    found = {}
    try:
        module = importlib.import_module(name)
        for child in pkgutil.iter_modules(getattr(module, "__path__", ())):
            inner = f"{name}.{child.name}"
            if child.ispkg or wanted is None or inner in wanted:
                found.update(in_a_fork(visited, inner, wanted) or {inner: "ended"})
        found[name] = registered()
    except BaseException:  # noqa: BLE001 (it is told)
        found[name] = traceback.format_exc()
    return found


if __name__ == "__main__":
    for preloaded in _PRELOADED:
        importlib.import_module(preloaded)
    assert not any(name.startswith("meddlr") for name in sys.modules)
    everything = "--all" in sys.argv
    json.dump(visited("meddlr_greedy", None if everything else in_a_fork(modules_registered)), sys.stdout)
