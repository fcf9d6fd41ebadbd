"""What says of itself which version it is, and with which Pythons it runs: all of it agrees."""

import re

import pytest
import yaml

from meddlr_greedy import __version__
from tests.helpers.runs import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def test_version_of_changelog_and_citation():
    newest = re.search(r"^## (\S+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest[1] == citation["version"] == __version__
    assert newest[2] == str(citation["date-released"])


def test_public_ci_runs_the_sessions_of_nox():
    noxfile = (ROOT / "noxfile.py").read_text()
    sessions = {
        (name, version)
        for versions, name in re.findall(r"^@nox\.session\(python=\[(.*)\]\)\ndef (\w+)", noxfile, re.M)
        for version in re.findall(r'"(.*?)"', versions)
    }
    matrix = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert {(row["session"], row["python"]) for row in matrix} == sessions and len(matrix) == len(sessions)


def test_all_supported_pythons_are_tested():
    project = (ROOT / "pyproject.toml").read_text()
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    matrix = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["include"]
    tested = [row["python"] for row in matrix if row["session"] != "optional"]
    assert sorted(tested) == sorted(supported)
    assert f'requires-python = ">={supported[0]},<3.{int(supported[-1][2:]) + 1}"' in project


@pytest.mark.parametrize("job", WORKFLOW["jobs"])
def test_public_ci_calls_what_is_there(job):
    commands = [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
    for target in re.findall(r"^make (\S+)$", "\n".join(commands), re.M):
        assert target in targets
    assert commands
