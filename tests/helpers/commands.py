"""Commands in processes of their own, which stop at a chosen moment, to be killed there."""

import importlib
import os
import sys
import time
from pathlib import Path

from meddlr_greedy.jobs.local import LocalJob, preload
from tests.helpers import jobs  # noqa: F401 (the mask function of the tests, and the server that the processes come from)

COMMANDS = ("prepare", "reconstruct", "eval_net", "compare")
preload("tests.helpers.jobs", "tests.helpers.commands", *(f"meddlr_greedy.{name}" for name in COMMANDS))


class Forked:
    """``python -m module *argv`` with the interface of ``Popen``, from the server that has imported the module.

    Args:
        module: Of a command.
        argv: Its arguments.
        output: File to which the process appends what it prints.
    """

    def __init__(self, module, argv, output):
        self._job = LocalJob(1, call, (module.rpartition(".")[2], argv), output)

    def poll(self):
        return self._job.processes[0].exitcode

    def wait(self):
        return self._job.wait()[0]

    def terminate(self):
        self._job.processes[0].terminate()


def start_trial(command, trial, processes):
    """Starts a command of a trial of a study as the study does, but forked from a process that has imported it."""
    assert command[:2] == [sys.executable, "-m"]
    processes.append(Forked(command[2], command[3:], trial.folder / "console.txt"))
    return processes[-1]


def call(command, argv):
    """Runs a command in this process."""
    importlib.import_module(f"meddlr_greedy.{command}").main([str(argument) for argument in argv])


def call_until(command, argv, files, marker):
    """Runs a command in this process, and stops where a file is whole but has not yet got its name.

    Args:
        command: The module of the command.
        argv: Its arguments.
        files: How many files get their names before.
        marker: A file that is made when the command stops.
    """
    replace, count = os.replace, []

    def stop(source, target):
        if not Path(target).name.startswith("."):  # no lock
            count.append(target)
            if len(count) > files:
                Path(marker).touch()
                time.sleep(600)  # the test ends it
        replace(source, target)

    os.replace = stop
    call(command, argv)


def files_in(folder):
    """The names of all files below a folder, hidden ones too, but for the log."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"
    )
