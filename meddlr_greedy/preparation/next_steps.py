"""What to do next with a data set: the commands that use it."""

import json
import os
import shlex
from pathlib import Path
from typing import NamedTuple, Sequence, Tuple

import h5py
import torch

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import ROOT_VARIABLE, datasets_root
from meddlr_greedy.ops.axes import CINE_AXES
from meddlr_greedy.preparation.splits import SLICE_BLOCKS, SPLITS

__all__ = ["say_what_is_next"]


class _Recipe(NamedTuple):
    """A config that comes with the package, and what a data set of one's own needs besides."""

    config: str
    overrides: Tuple[str, ...] = ()


# Of 2D scans lines are undersampled along one axis: their readout is always sampled in full. The mask of
# knee/greedy.yaml has two phase encodes.
_LINES = {"NAME": "RandomMaskFunc1D", "ACCELERATIONS": "(4,)", "CALIBRATION_SIZE": "0", "CENTER_FRACTIONS": "(0.08,)"}
_OF_LINES = tuple(word for name, value in _LINES.items() for word in (f"AUG_TRAIN.UNDERSAMPLE.{name}", value))

# For a GPU, and for a CPU: there a training of minutes.
_CINE = (_Recipe("cine/greedy.yaml"), _Recipe("cine/pig.yaml"))
_PLANE = (_Recipe("knee/greedy.yaml", _OF_LINES), _Recipe("knee/demo.yaml"))
_WITHOUT_TARGETS = (
    _Recipe("cine/dl_espirit_greedy_self_supervised.yaml"),
    # The scans have masks of their own; the config makes some of the phantom's.
    _Recipe("cine/demo_self_supervised.yaml", ("DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", "0")),
)


def say_what_is_next(output: Path, seconds: float) -> None:
    """Prints how much there is of each split, and the commands that use it."""
    sizes, split_by = {}, ""
    for split in SPLITS:
        path = output / "annotations" / f"{split}.json"
        annotation = json.loads(path.read_text()) if path.exists() else {"images": []}
        sizes[split] = [(image["file_name"], image["kspace_size"]) for image in annotation["images"]]
        split_by = annotation.get("info", {}).get("split_by", split_by)
    counts = ", ".join(f"{sum(size[0] for _, size in found)} {split}" for split, found in sizes.items())
    first_file, _ = next(scan for found in sizes.values() for scan in found)
    shapes = sorted({tuple(size[1:]) for found in sizes.values() for _, size in found})
    told = f"{shapes[0]}" if len(shapes) == 1 else f"{shapes[0]} to {shapes[-1]}, {len(shapes)} different ones"
    is_cine = len(shapes[0]) + 1 == CINE_AXES
    axes = "(H, W, T, C)" if is_cine else "(H, W, C)"
    print(f"{output}: {counts} slices of {axes} = {told}, {seconds:.0f} s")
    with h5py.File(output / first_file, "r") as file:
        has_target, num_maps = "target" in file, file["maps"].shape[-1]
    used = [split for split, found in sizes.items() if found]
    if split_by == SLICE_BLOCKS and len(used) > 1:
        print(f"note: {', '.join(used)} are slices of one subject; figures on them say nothing of other subjects")
    recipes = _CINE if is_cine else _PLANE
    if has_target and "train" in used:
        print(f"Next, train on it:\n  {_training_command(recipes, output, used, num_maps)}")
        return
    if has_target:
        print(f"Next, score a network on it, one for map sets: {num_maps} (RUN is the folder of its training):")
        print(f"  {_evaluation_command(output, used)}")
        return
    command = ["meddlr-greedy", "reconstruct", "--config-file", "RUN/config.yaml", "--weights", "WEIGHTS"]
    command += [os.path.relpath(output / first_file), "--output", "FOLDER"]
    command += [] if torch.cuda.is_available() else ["--device", "cpu"]
    print(f"Next, reconstruct it, by a network for map sets: {num_maps} (RUN is the folder of its training):")
    print(f"  {shlex.join(command)}")
    if "train" in used and is_cine:
        # Nothing of it can be scored by targets.
        command_line = _training_command(_WITHOUT_TARGETS, output, [s for s in used if s != "test"], num_maps)
        print(f"Or train on it, without targets (MISC.GREEDY.CINE.LOSS_LINES):\n  {command_line}")


def _where(output: Path) -> str:
    """What stands before a command, where the data sets are not where it looks for them."""
    is_default = output.parent == Path("datasets").resolve() == datasets_root().resolve()
    return "" if is_default else f"{ROOT_VARIABLE}={shlex.quote(str(output.parent))} "


def _names(output: Path, splits: Sequence[str]) -> str:
    """The value of a key that names data sets."""
    return f"({''.join(json.dumps(f'{output.name}_{split}') + ',' for split in splits)})"


def _evaluation_command(output: Path, splits: Sequence[str]) -> str:
    command = ["meddlr-greedy", "eval", "--weights", "RUN/model_best.pth", "DATASETS.TEST", _names(output, splits)]
    command += [] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"]
    return _where(output) + shlex.join(command)


def _training_command(recipes: Sequence[_Recipe], output: Path, splits: Sequence[str], num_maps: int) -> str:
    recipe = recipes[0 if torch.cuda.is_available() else 1]
    command = ["meddlr-greedy", "train", "--config-file", recipe.config]
    for split in SPLITS:
        command += [f"DATASETS.{split.upper()}", _names(output, [split] if split in splits else [])]
    command += recipe.overrides
    if num_maps != load_config(recipe.config).MODEL.UNROLLED.NUM_EMAPS:
        command += ["MODEL.UNROLLED.NUM_EMAPS", str(num_maps)]
    return _where(output) + shlex.join([*command, "OUTPUT_DIR", f"results/{output.name}"])
