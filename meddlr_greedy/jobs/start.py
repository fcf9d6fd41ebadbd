"""Runs a module as a process of :func:`meddlr_greedy.jobs.launch.launch`, which ends where its launcher is killed.

The launcher runs this file by its path, and not as a module of the package: importing the package takes from seconds to
minutes, and a launcher that is killed meanwhile must leave nobody behind. So it imports little itself.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

__all__ = ["live_on_without_launcher", "main"]

_PR_SET_PDEATHSIG = 1

#: Where the kernel cannot signal the death of a launcher: how often to look, and how long to let others tell of it.
_POLL_S, _TELL_S = 0.5, 5.0


def _ask_kernel_for(number: int) -> bool:
    """Lets the kernel send a signal when the parent dies (0: none); False where it is no Linux."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return sys.platform.startswith("linux") and prctl is not None and prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) == 0


def live_on_without_launcher() -> None:
    """From here on, the process outlives its launcher until it has told of its death (see ``jobs.watch``)."""
    _ask_kernel_for(0)


def _end_with(launcher: int) -> None:
    if not _ask_kernel_for(signal.SIGKILL):
        threading.Thread(target=_poll, args=(launcher,), daemon=True, name="launcher").start()
    if os.getppid() != launcher:  # it died before the kernel was asked
        os._exit(1)


def _poll(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_S)
    time.sleep(_TELL_S)
    os._exit(1)


def main() -> None:
    """Runs the module that the command line names behind the launcher's process, as Python's ``-m`` does."""
    launcher, module = int(sys.argv[1]), sys.argv[2]
    # Of Ctrl-C the terminal tells all processes, and the launcher tells its own by another signal: that one counts.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)  # noqa: ARG005
    _end_with(launcher)
    sys.argv[1:3] = []
    sys.path[0] = os.getcwd()  # and not the folder of this file
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
