"""Where the files of this project are in the repository."""

from pathlib import Path

__all__ = ["CONFIGS", "README_PAGE", "RESULTS_PAGE", "ROOT"]

_PROJECT = Path(__file__).resolve().parent

#: The repository: the folder from which the commands of the projects are run.
ROOT = _PROJECT.parents[1]

#: The configs of the cine networks.
CONFIGS = ROOT / "configs" / "cine"

#: The page about the project: its commands.
README_PAGE = _PROJECT / "README.md"

#: The page with the tables of all of them. The raw values are in ``results/`` beside it.
RESULTS_PAGE = _PROJECT / "RESULTS.md"
