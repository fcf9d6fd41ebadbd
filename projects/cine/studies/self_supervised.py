"""Training without targets against training with them: one network, one phantom data set, one number of iterations.

Both runs are that of configs/cine/demo.yaml. With targets, the masks of the training scans are drawn anew in every
epoch. Without, each training scan keeps one mask, as if it had been acquired with it, and the loss compares k-space on
lines held out of the acquired ones (SSDU). Both are evaluated on the same test scans, with all acquired lines.

Example::

    python -m projects.cine.studies.self_supervised
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, Sequence

from meddlr_greedy import eval_net, train_net
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.data.catalog import datasets_root
from meddlr_greedy.errors import exit_with_one_line
from meddlr_greedy.preparation import simulate
from projects.cine.support.tables import in_words, insert_table, write_json

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs" / "cine"

#: What a run is called -> its config.
RUNS = {"with targets": "demo.yaml", "without targets": "demo_self_supervised.yaml"}


def table(study: Dict[str, Any]) -> str:
    """The result as Markdown; without minutes, which are those of the load of the machine."""
    methods = {"zero-filled": study["runs"]["with targets"]["zero_filled"]}
    methods.update({label: run["reconstruction"] for label, run in study["runs"].items()})
    rows = ["| | PSNR (dB) | SSIM | NRMSE |", "|---|---|---|---|"]
    for label, metrics in methods.items():
        values = [metrics[name]["mean"] for name in ("psnr_scan", "ssim (Wang)_scan", "nrmse_scan")]
        rows.append(f"| {label} | {values[0]:.2f} | {values[1]:.3f} | {values[2]:.3f} |")
    loss = methods["with targets"]["psnr_scan"]["mean"] - methods["without targets"]["psnr_scan"]["mean"]
    note = f"Without targets: {loss:.2f} dB less; {in_words(study['versions'])}."
    return "\n".join([*rows, "", note])


@exit_with_one_line
def main(argv: Sequence[str]) -> None:
    parser = CommandParser("python -m projects.cine.studies.self_supervised", __doc__)
    parser.add_argument("--output", default="results/self-supervised", metavar="FOLDER", help="weights and metrics")
    parser.add_argument("--page", default=str(HERE / "README.md"), metavar="FILE", help="where the table goes")
    parser.add_argument("--results", default=str(HERE / "results"), metavar="FOLDER", help="where the JSON goes")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of both configs")
    args = parser.parse_args(argv)

    simulate.main(["--output", str(datasets_root() / "phantom")])
    study: Dict[str, Any] = {"runs": {}}
    for label, name in RUNS.items():
        folder = Path(args.output, Path(name).stem)
        config = ["--config-file", str(CONFIGS / name), "OUTPUT_DIR", str(folder), *args.opts]
        start = time.monotonic()
        train_net.main(config)
        minutes = (time.monotonic() - start) / 60
        eval_net.main(config)
        results = json.loads((folder / "test_results" / "results.json").read_text())
        of_dataset = results["datasets"]["phantom_test"]
        methods = {method: of_dataset[method] for method in ("zero_filled", "reconstruction")}
        study["runs"][label] = {"config": name, "minutes": minutes, **methods}
        study["versions"] = results["versions"]
    Path(args.results).mkdir(parents=True, exist_ok=True)
    write_json(Path(args.results, "self_supervised.json"), study)
    insert_table(Path(args.page), "self-supervised", table(study))


if __name__ == "__main__":
    main(sys.argv[1:])
