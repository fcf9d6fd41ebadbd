"""Training without targets against training with them: one network, one phantom data set, one number of iterations.

Both runs are that of configs/cine/demo.yaml. With targets, the masks of the training scans are drawn anew in every
epoch. Without, each training scan keeps one mask, as if it had been acquired with it, and the loss compares k-space on
lines held out of the acquired ones (SSDU). Both are evaluated on the same test scans, with all acquired lines.

Example::

    python -m projects.cine.studies.self_supervised
"""

import time
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from meddlr_greedy import eval_net, prepare, train_net
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.data.catalog import datasets_root
from meddlr_greedy.errors import exit_with_one_line
from projects.cine.paths import CONFIGS, RESULTS_PAGE
from projects.cine.support.tables import check_page, publish_table, results_folder, versions_as_text
from projects.cine.support.trials import read_results

_NAME = "self_supervised"

#: What a run is called -> its config.
RUNS = {"with targets": "demo.yaml", "without targets": "demo_self_supervised.yaml"}


def table(study: Dict[str, Any]) -> str:
    """The result as Markdown; without the minutes, which depend on what else the machine does."""
    methods = {"zero-filled": study["runs"]["with targets"]["zero_filled"]}
    methods.update({label: run["reconstruction"] for label, run in study["runs"].items()})
    rows = ["| | PSNR (dB) | SSIM | NRMSE |", "|---|---|---|---|"]
    for label, metrics in methods.items():
        values = [metrics[name]["mean"] for name in ("psnr_scan", "ssim (Wang)_scan", "nrmse_scan")]
        rows.append(f"| {label} | {values[0]:.2f} | {values[1]:.3f} | {values[2]:.3f} |")
    loss = methods["with targets"]["psnr_scan"]["mean"] - methods["without targets"]["psnr_scan"]["mean"]
    note = f"Without targets: {loss:.2f} dB less; {versions_as_text(study['versions'])}."
    return "\n".join([*rows, "", note])


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.studies.self_supervised", __doc__)
    parser.add_argument("--output", default="results/self-supervised", metavar="FOLDER", help="weights and metrics")
    parser.add_argument("--page", type=Path, default=RESULTS_PAGE, metavar="FILE", help="where the table goes")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of both configs")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.studies.self_supervised``."""
    args = build_parser().parse_args(argv)

    check_page(args.page, _NAME)
    prepare.main(["phantom", "--output", str(datasets_root() / "phantom")])
    study: Dict[str, Any] = {"runs": {}}
    for label, name in RUNS.items():
        folder = Path(args.output, Path(name).stem)
        config = ["--config-file", str(CONFIGS / name), "OUTPUT_DIR", str(folder), *args.opts]
        start = time.monotonic()
        train_net.main(config)
        minutes = (time.monotonic() - start) / 60
        eval_net.main(config)
        results = read_results(folder)
        scores = results["datasets"]["phantom_test"]
        methods = {method: scores[method] for method in ("zero_filled", "reconstruction")}
        study["runs"][label] = {"config": name, "minutes": minutes, **methods}
        study["versions"] = results["versions"]
    publish_table(_NAME, study, table(study), results_folder(args.page), args.page)


if __name__ == "__main__":
    main()
