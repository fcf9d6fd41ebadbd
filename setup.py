"""Which packages there are; everything else is in pyproject.toml, which cannot map a folder to a package it found."""

from setuptools import find_packages, setup

setup(
    # The configs lie at the top of the repository, and inside of the package when it is installed.
    packages=[*find_packages(include=["meddlr_greedy", "meddlr_greedy.*"]), "meddlr_greedy.configs"],
    package_dir={"meddlr_greedy.configs": "configs"},
)
