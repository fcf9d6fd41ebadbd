"""What decides a run beside its weights: batches, loss, and what no weight tells. Compared where a run is continued."""

import hashlib
import os
from typing import Any, Dict

from meddlr.config import CfgNode

__all__ = ["fingerprint"]

_KEYS = (
    "DATASETS.TRAIN",
    "DATALOADER.DROP_LAST",
    "DATALOADER.SUBSAMPLE_TRAIN",
    "DATALOADER.FILTER",
    "DATALOADER.DATA_KEYS",
    "AUG_TRAIN",
    "MODEL.NORMALIZER",
    "MODEL.RECON_LOSS",
    "MODEL.CONSISTENCY",
    "MODEL.N2R.USE_SUPERVISED_CONSISTENCY",
    "MODEL.M2R.USE_SUPERVISED_CONSISTENCY",
    "MODEL.NM2R.USE_SUPERVISED_CONSISTENCY",
    "MODEL.A2R.USE_SUPERVISED_CONSISTENCY",
    "MODEL.SSDU.MASKER",
    "MODEL.SSDU.AUGMENTOR",
    "MODEL.SSDU.POSTPROCESSOR",
    "MODEL.DENOISING.NOISE",
    "SOLVER.TRAIN_BATCH_SIZE",
    "MISC.GREEDY.NUM_MODULES",
    "MISC.GREEDY.OVERLAP",
    "MISC.GREEDY.LOSS_WEIGHTS",
    "MISC.GREEDY.CONSISTENCY_TARGET",
    "MISC.GREEDY.CLIP_NORM",
    "MISC.GREEDY.PADDING",
    "MISC.GREEDY.CINE",
)


def fingerprint(cfg: CfgNode, dataset: Any) -> Dict[str, str]:
    """Describes the batches of a run, its loss, and what its network does that no weight tells.

    Args:
        cfg: The config of the run.
        dataset: The training data, a :class:`~meddlr_greedy.data.dataset.CheckedSliceData`.

    Returns:
        Dict[str, str]: Name of a key, or "training scans" -> its value as text.
    """
    out: Dict[str, str] = {}
    for key in _KEYS:
        _add(out, key, cfg.get_recursive(key))
    out["training scans"] = _scans(dataset)
    return out


def _add(out: Dict[str, str], key: str, value: Any) -> None:
    if isinstance(value, CfgNode):
        for name in value:
            _add(out, f"{key}.{name}", value[name])
    else:
        out[key] = repr(value)


def _scans(dataset: Any) -> str:
    """The number of scans and examples, and a digest of names, shapes and sizes of the files; not of the folder."""
    lines = sorted(
        f"{name} {dataset.example_shapes[path]} {sorted(dataset.contents[path])} {os.path.getsize(path)}"
        for path, name in dataset.scan_names.items()
    )
    digest = hashlib.sha256("\n".join([*lines, str(len(dataset.examples))]).encode("utf-8", "surrogateescape"))
    return f"{len(lines)} scans with {len(dataset.examples)} examples, {digest.hexdigest()[:12]}"
