"""Compares evaluated runs: a table with paired tests, and pictures side by side. Needs no model and no data.

Each RUN is the output folder of a run that meddlr-greedy eval has evaluated. For every data set that all
runs share it prints a table, tests each run against the first, and draws the slices that all runs kept. Writes
comparison.csv (every metric), comparison.md (the table), the pictures, and report.html: metrics and images to look at
in a browser (it opens from disk, without network).

Example::

    meddlr-greedy compare results/cine/backprop results/cine/greedy --output results/cine/compared
"""

from pathlib import Path
from typing import TYPE_CHECKING, Optional, Sequence

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.console import Followed, say
from meddlr_greedy.errors import UserError, exit_with_one_line, log_causes
from meddlr_greedy.evaluation.units import UNITS
from meddlr_greedy.files import UniqueNames, writing
from meddlr_greedy.locks import LOG_FILE, locked

if TYPE_CHECKING:
    from meddlr_greedy.evaluation.comparison import Comparison
    from meddlr_greedy.evaluation.evaluated_run import Run

__all__ = ["build_parser", "main"]


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    parser = CommandParser(prog or "python -m meddlr_greedy.compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of an evaluated run, at least two")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for tables and pictures")
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME", help="names of the runs (default: folders)")
    parser.add_argument(
        "--unit",
        choices=list(UNITS),
        default="subject",
        help="what counts as one observation (default: %(default)s); scans of a subject are not independent",
    )
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Compares runs.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.
    """
    args = build_parser(prog).parse_args(argv)
    # What needs torch, whose import takes seconds, is imported once the arguments are known to be right.
    from meddlr_greedy.evaluation.comparison import compare_runs
    from meddlr_greedy.evaluation.evaluated_run import load_runs, shared_datasets

    runs = load_runs(args.runs, args.labels)
    folder = Path(args.output)
    _check_holds_no_results(folder, runs)
    comparisons = [compare_runs(runs, name, args.unit) for name in shared_datasets(runs)]
    with locked(folder, "--output"):
        log_causes(folder / LOG_FILE)
        _write(folder, comparisons)


def _check_holds_no_results(folder: Path, runs: "Sequence[Run]") -> None:
    """The pictures of an evaluation have the names that those of a comparison have."""
    from meddlr_greedy.evaluation.report import RESULTS_FOLDER

    for run in runs:
        if folder.resolve() == run.folder.resolve() or folder.resolve().name == RESULTS_FOLDER:
            raise UserError(
                f"--output: {folder}: holds the results of an evaluation, which are not overwritten; allowed another"
                " folder"
            )


def _write(folder: Path, comparisons: "Sequence[Comparison]") -> None:
    from meddlr_greedy.evaluation.comparison import STATISTICS_FILE, TABLE_FILE, write_comparisons
    from meddlr_greedy.evaluation.report_page import printed, report_or_note
    from meddlr_greedy.viewer.page import REPORT_FILE, Page

    with writing(folder, "--output"):
        write_comparisons(folder, comparisons)
    for comparison in comparisons:
        print(f"\n{comparison.as_text()}\n")
    names, report = UniqueNames(), folder / REPORT_FILE
    page = Page("Comparison", about=[": ".join(filter(None, [run.label, run.network])) for run in comparisons[0].runs])
    for comparison in Followed(comparisons, "pictures", "data sets"):
        with writing(folder, "--output"):
            pictures = comparison.draw(folder, names, page)
        say("\n".join(f"picture: {picture}" for picture in pictures) or _NO_PICTURES.format(comparison.dataset))
    with writing(report, "--output"), report_or_note(report):
        for comparison in comparisons:
            comparison.show_values(page)
        page.write(report)
    tables = f"tables: {', '.join(str(folder / name) for name in (STATISTICS_FILE, TABLE_FILE))}"
    print("\n".join(filter(None, [printed(page, report), tables])))


_NO_PICTURES = "no pictures of {}: no slice was kept by all runs; evaluate them with the same --num-figures, not 0"


if __name__ == "__main__":
    main()
