"""Compares evaluated runs: a table with paired tests, and pictures side by side. Needs no model and no data.

Each RUN is the output folder of a run that python -m meddlr_greedy.eval_net has evaluated. For every data set that all
runs share it prints a table, tests each run against the first, and draws the slices that all runs kept. Writes
comparison.csv (every metric), comparison.md (the table) and the pictures.

Example::

    python -m meddlr_greedy.compare results/cine/backprop results/cine/greedy --output results/cine/compared
"""

from pathlib import Path
from typing import Optional, Sequence

import pandas as pd
from tqdm import tqdm

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.evaluation.comparison import UNITS, compare_runs, load_runs
from meddlr_greedy.files import written_atomically

__all__ = ["main"]


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = CommandParser("python -m meddlr_greedy.compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of an evaluated run, at least two")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for tables and pictures")
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME", help="names of the runs (default: folders)")
    parser.add_argument(
        "--unit",
        choices=list(UNITS),
        default="subject",
        help="what counts as one observation (default: %(default)s); scans of a subject are not independent",
    )
    args = parser.parse_args(argv)

    runs = load_runs(args.runs, args.labels)
    names = [name for name in runs[0].datasets if all(name in run.datasets for run in runs)]
    if not names:
        found = "; ".join(f"{run.label}: {', '.join(run.datasets) or 'none'}" for run in runs)
        raise UserError(f"the runs share no data set ({found}); evaluate them with the same DATASETS.TEST")
    comparisons = [compare_runs(runs, name, args.unit) for name in names]

    folder = Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be made: {error.strerror}") from error
    with written_atomically(folder / "comparison.csv") as partial:
        tables = [c.statistics.assign(dataset=c.dataset, unit=c.unit) for c in comparisons]
        pd.concat(tables, ignore_index=True).to_csv(partial, index=False)
    with written_atomically(folder / "comparison.md") as partial:
        partial.write_text("\n\n".join(c.as_text("github") for c in comparisons) + "\n")
    for comparison in comparisons:
        print(f"\n{comparison.as_text()}\n")
    for comparison in tqdm(comparisons, desc="pictures", unit="data set", dynamic_ncols=True):
        pictures = comparison.draw(folder)
        tqdm.write("\n".join(f"picture: {picture}" for picture in pictures) or _NO_PICTURES.format(comparison.dataset))
    print(f"tables: {folder / 'comparison.csv'}, {folder / 'comparison.md'}")


_NO_PICTURES = "no pictures of {}: no slice was kept by all runs; evaluate them with the same --num-figures, not 0"


if __name__ == "__main__":
    main()
