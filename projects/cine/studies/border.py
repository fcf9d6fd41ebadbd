"""The border of the field of view: what padding does to a body that reaches the edges.

Phantom data are made in two fields of view: one that holds the whole body, and a smaller one, which cuts the body along
the readout and folds it along phase encode, as in a long-axis view. Small networks (configs/cine/border.yaml) are
trained on either, and used on bodies of other subjects that reach the edges. They differ in MISC.GREEDY.PADDING, in
READOUT_CROP, and in the number of ESPIRiT map sets. The table gives the root of the squared error over that of the
squared target, of pixels with signal: for the interior, and for the outermost four pixels as a multiple of that.

Example::

    python -m projects.cine.studies.border
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from meddlr.config import CfgNode

from meddlr_greedy import train_net
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_val_loader
from meddlr_greedy.data.catalog import datasets_root, register_datasets
from meddlr_greedy.engine.run_files import find_weights, load_network
from meddlr_greedy.errors import exit_with_one_line
from meddlr_greedy.preparation.dataset import prepare_dataset
from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.readers.phantom import subject_names
from projects.cine.paths import CONFIGS, RESULTS_PAGE, ROOT
from projects.cine.support.measuring import versions
from projects.cine.support.tables import check_page, publish_table, results_folder, save_figure, versions_as_text
from projects.cine.support.torso import TorsoReader

__all__ = ["BORDER", "Training", "regions", "relative_errors"]

_NAME, _CONFIG = "border", CONFIGS / "border.yaml"
_PAGE, _PICTURE = ROOT / "docs" / "border.md", ROOT / "docs" / "border.png"

#: Pixels from an edge that are the border.
BORDER = 4

#: Data set -> points (H, W) of the whole phantom; of these, the field of view has the central :data:`SEEN`.
WHOLE = {"inside": (64, 48), "torso": (106, 72)}
SEEN = (64, 48)
_SUBJECTS = 8


@dataclass(frozen=True)
class Training:
    """A network of the study.

    Attributes:
        data: Key of :data:`WHOLE`, to train on.
        maps: Map sets.
        padding: ``MISC.GREEDY.PADDING``.
        crop: ``MISC.GREEDY.CINE.READOUT_CROP``.
        used_with: The padding that it is used with, where that is another one.
    """

    data: str
    maps: int
    padding: str
    crop: int = 0
    used_with: str = ""

    @property
    def name(self) -> str:
        """Of its folder, which is that of its weights."""
        return f"{self.data}-maps{self.maps}-{self.padding}-crop{self.crop}"

    @property
    def opts(self) -> List[str]:
        """Overrides of the config of its training."""
        values = {
            "MODEL.UNROLLED.NUM_EMAPS": self.maps,
            "DATASETS.TRAIN": (f"{dataset_name(self.data, self.maps)}_train",),
            "DATASETS.TEST": (f"{dataset_name('torso', self.maps)}_test",),
            "MISC.GREEDY.PADDING": self.padding,
            "MISC.GREEDY.CINE.READOUT_CROP": self.crop,
        }
        return [str(text) for pair in values.items() for text in pair]


TRAININGS = [
    *(Training("inside", 1, padding) for padding in ("zeros", "circular", "phase_encode")),
    Training("inside", 1, "zeros", used_with="circular"),
    *(Training("inside", 1, padding, crop=32) for padding in ("zeros", "circular")),
    *(Training("torso", 1, padding) for padding in ("zeros", "circular")),
    *(Training("inside", 2, padding) for padding in ("zeros", "circular")),
    *(Training("torso", 2, padding) for padding in ("zeros", "circular")),
]
_SHOWN = TRAININGS[:2]
_GAIN = 3


def regions(target: np.ndarray) -> Dict[str, np.ndarray]:
    """The pixels with signal in the interior and near the edges.

    Args:
        target: Complex, shape (H, W, T, M).

    Returns:
        Name -> bool, shape (H, W, T): "interior", "readout" (near its ends alone), "phase encode" (likewise), and
        "border", near any edge.
    """
    magnitude = np.linalg.norm(target, axis=-1)
    signal = magnitude > 0.1 * np.percentile(magnitude, 95)
    near = [np.minimum(np.arange(n), np.arange(n)[::-1]) < BORDER for n in magnitude.shape[:2]]
    rows, lines = near[0][:, None, None], near[1][:, None]
    places = {
        "interior": ~(rows | lines),
        "readout": rows & ~lines,
        "phase encode": lines & ~rows,
        "border": rows | lines,
    }
    return {name: place & signal for name, place in places.items()}


def relative_errors(images: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Dict[str, float]:
    """For each of the :func:`regions`, the root of the squared error over that of the squared target.

    Args:
        images: Complex, each of shape (H, W, T, M).
        targets: As many, of the same shapes.
    """
    sums: Dict[str, np.ndarray] = {}
    for image, target in zip(images, targets):
        squares = [np.square(np.abs(x)).sum(axis=-1) for x in (image - target, target)]
        for name, place in regions(target).items():
            sums[name] = sums.get(name, 0) + np.array([square[place].sum() for square in squares])
    return {name: float(np.sqrt(error / signal)) for name, (error, signal) in sums.items()}


def dataset_name(data: str, maps: int) -> str:
    """The name of a data set of the study."""
    return f"{_NAME}_{data}_{maps}"


def prepare_data(frames: int = 8, coils: int = 4, slices: int = 2) -> None:
    """Makes the data sets, which hold the same subjects in the same splits."""
    split = [str(n) for n in (_SUBJECTS - 2, 0, 2)]
    for data, whole in WHOLE.items():
        options = {"matrix": whole, "seen": SEEN, "frames": frames, "coils": coils, "slices": slices}
        source = Source(TorsoReader(), subject_names(_SUBJECTS), options)
        for maps in (1, 2):
            preparation = Preparation(CoilMaps(num_maps=maps), coils=None, compression="none")
            prepare_dataset(datasets_root() / dataset_name(data, maps), source, preparation, split, progress=True)
    register_datasets()


@torch.no_grad()
def reconstruct(cfg: CfgNode) -> Dict[str, List[np.ndarray]]:
    """The test set by the trained network of a config: "target", "zero-filled" and "network", each (H, W, T, M)."""
    model, _ = load_network(cfg, find_weights(cfg.OUTPUT_DIR))
    found: Dict[str, List[np.ndarray]] = {"target": [], "zero-filled": [], "network": []}
    for batch in build_val_loader(cfg, cfg.DATASETS.TEST[0]):
        outputs = model.eval()(batch)
        for name, key in zip(found, ("target", "zf_image", "pred")):
            found[name] += [image.numpy() for image in outputs[key].cpu()]
    return found


def table(study: Mapping[str, Any]) -> str:
    """The result as Markdown: a row for each network, then the zero-filled images."""
    shown = ("readout", "phase encode", "border")
    head = ["trained on", "map sets", "`PADDING`", "`READOUT_CROP`", "interior"]
    head += [f"{name} / interior" for name in shown]
    lines: List[Any] = []
    for run in study["trainings"]:
        padding = f"`{run['padding']}`" + (f", used with `{run['used_with']}`" if run["used_with"] else "")
        lines.append([run["data"], run["maps"], padding, run["crop"] or "", run["errors"]])
    lines += [["zero-filled", maps, "", "", errors] for maps, errors in study["zero_filled"].items()]
    rows = [" | ".join(head), "|".join(["---"] * len(head))]
    for *cells, errors in lines:
        ratios = [f"{errors[name] / errors['interior']:.2f}" for name in shown]
        rows.append(" | ".join([*map(str, cells), f"{errors['interior']:.3f}", *ratios]))
    return "\n".join(f"| {row} |" for row in rows) + f"\n\n{versions_as_text(study['versions'])}."


def draw(images: Mapping[str, np.ndarray]) -> Figure:
    """The first frames side by side; below all but the first their errors, the root of the mean square over frames.

    Args:
        images: Name -> complex, shape (H, W, T, M); the first is the target.
    """
    target, *others = images.values()
    frames = [np.linalg.norm(image[:, :, 0], axis=-1) for image in images.values()]
    errors = [np.sqrt(np.mean(np.sum(np.abs(image - target) ** 2, axis=-1), axis=-1)) for image in others]
    figure = Figure(figsize=(2.3 * len(images), 5.4), layout="constrained", dpi=80)
    above, below = figure.subplots(2, len(images))
    white = float(np.percentile(frames[0], 99))
    for axis, name, image in zip(above, images, frames):
        axis.imshow(image, cmap="gray", vmin=0, vmax=white, interpolation="nearest")
        axis.set_title(name, fontsize=10)
    for axis, error in zip(below[1:], errors):
        axis.imshow(error, cmap="gray", vmin=0, vmax=white / _GAIN, interpolation="nearest")
    below[1].set_ylabel(f"error \N{MULTIPLICATION SIGN} {_GAIN}")
    for axis in (*above, *below):
        axis.set(xticks=[], yticks=[])
    below[0].axis("off")
    return figure


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.border", __doc__)
    parser.add_argument("--output", type=Path, default=Path("results/border"), metavar="FOLDER", help="weights")
    parser.add_argument("--page", type=Path, default=_PAGE, metavar="FILE", help="where the table goes")
    parser.add_argument("--picture", type=Path, default=_PICTURE, metavar="FILE", help="PNG file to write")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.border``."""
    args = build_parser().parse_args(argv)

    check_page(args.page, _NAME)
    prepare_data()
    study: Dict[str, Any] = {"trainings": [], "zero_filled": {}, "versions": versions("cpu")}
    shown: Dict[str, np.ndarray] = {}
    for training in TRAININGS:
        config = ["OUTPUT_DIR", str(args.output / training.name), *training.opts, *args.opts]
        train_net.main(["--config-file", str(_CONFIG), "--resume", *config])
        used = ["MISC.GREEDY.PADDING", training.used_with or training.padding]
        found = reconstruct(load_config(str(_CONFIG), [*config, *used]))
        errors = {name: relative_errors(images, found["target"]) for name, images in found.items()}
        study["trainings"].append({**asdict(training), "errors": errors["network"]})
        study["zero_filled"][training.maps] = errors["zero-filled"]
        if training in _SHOWN:
            first = {name: images[0] for name, images in found.items()}
            shown[f"PADDING: {training.padding}"] = first.pop("network")
            shown = {**first, **shown}
    publish_table(_NAME, study, table(study), results_folder(RESULTS_PAGE), args.page)
    save_figure(draw(shown), args.picture)


if __name__ == "__main__":
    main()
