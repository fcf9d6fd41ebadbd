"""Greedy training on the real cine series of one animal: simulate k-space, train, evaluate, update the project's page.

The series is public (WrightGroupSRI/ep-dataset, commit bc049db9, folder E774S5-shortAxis, CC0) and not part of this
repository; --images names it as an npz file with ``magnitude`` (slice, phase, row, column).

Example::

    python -m projects.cine.pig --images pig_cine_sax.npz
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Dict, Sequence

from meddlr_greedy import eval_net, train_net
from meddlr_greedy.data.datasets import datasets_root
from meddlr_greedy.errors import exit_with_one_line
from projects.cine import simulate
from projects.cine.tables import insert_table

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "cine" / "pig.yaml"

# The acquired matrix of the series; blocks of neighbouring slices, mid-ventricle held out.
SIMULATION = [
    *("--acquired-matrix", "224", "160", "--matrix", "128", "128", "--coils", "8"),
    *("--split", "0-6,13-19", "7-8", "9-12"),
]


def table(results: Dict[str, Any], minutes: float) -> str:
    """The result as Markdown."""
    of_dataset = results["datasets"]["pig_test"]
    rows = ["| | PSNR (dB) | SSIM | NRMSE |", "|---|---|---|---|"]
    for label, method in (("zero-filled", "zero_filled"), ("greedy", "reconstruction")):
        values = [of_dataset[method][metric]["mean"] for metric in ("psnr_scan", "ssim (Wang)_scan", "nrmse_scan")]
        rows.append(f"| {label} | {values[0]:.2f} | {values[1]:.3f} | {values[2]:.3f} |")
    gain = of_dataset["reconstruction"]["psnr_scan"]["mean"] - of_dataset["zero_filled"]["psnr_scan"]["mean"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    note = (
        f"Gain: {gain:.2f} dB on the four held-out slices after {minutes:.1f} minutes of training on two CPU cores;"
        f" {results['parameters']} parameters; {versions}."
    )
    return "\n".join([*rows, "", note])


@exit_with_one_line
def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, metavar="FILE", help="the series, .npz or .npy")
    parser.add_argument("--output", default="results/pig", metavar="FOLDER", help="weights, metrics and pictures")
    args = parser.parse_args(argv)
    config = ["--config-file", str(CONFIG), "OUTPUT_DIR", args.output]

    simulate.main(["--images", args.images, *SIMULATION, "--output", str(datasets_root() / "pig")])
    start = time.monotonic()
    train_net.main(config)
    minutes = (time.monotonic() - start) / 60
    eval_net.main(config)

    tested = Path(args.output) / "test_results"
    results = json.loads((tested / "results.json").read_text())
    (HERE / "results").mkdir(exist_ok=True)
    shutil.copy(tested / "results.json", HERE / "results" / "pig.json")
    for figure in results["datasets"]["pig_test"]["figures"]:
        shutil.copy(tested / figure, HERE / "results" / f"pig{Path(figure).suffix}")
    insert_table(HERE / "README.md", "pig", table(results, minutes))


if __name__ == "__main__":
    main(sys.argv[1:])
