"""The processes of a launcher that is killed, or interrupted, while they import. Nothing here imports torch."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from meddlr_greedy.jobs import start
from tests.helpers.runs import wait_for

# A module that takes long to import; it names its process.
SLOW = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()} {sys.argv[1:]}'); time.sleep(600)"
# As on a system whose kernel tells nobody of a parent's death.
WITHOUT_KERNEL = textwrap.dedent(
    f"""
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("start", {start.__file__!r})
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    start._ask_kernel_for, start._POLL_S, start._TELL_S = lambda number: False, 0.05, 0.0
    start.main()
    """
)


@pytest.fixture
def launched(tmp_path):
    """launched(is_linux): a launcher, and the number of its process, which is busy with an import."""
    (tmp_path / "slow.py").write_text(SLOW)
    told = tmp_path / "pid.txt"
    started = []

    def launch(is_linux=True):
        script = tmp_path / "started.py"
        script.write_text(WITHOUT_KERNEL)
        file = start.__file__ if is_linux else str(script)
        command = [sys.executable, "-c", "import os, subprocess, sys, time\n"]
        command[-1] += f"subprocess.Popen([sys.executable, {file!r}, str(os.getpid()), 'slow', {str(told)!r}, 'x'])\n"
        command[-1] += "time.sleep(600)"
        launcher = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(launcher)
        wait_for(lambda: told.exists() and told.read_text().endswith("]"), launcher)
        pid, _, arguments = told.read_text().partition(" ")
        assert arguments == str([str(told), "x"])
        return launcher, int(pid)

    yield launch
    for launcher in started:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()


def is_alive(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.mark.parametrize("is_linux", [pytest.param(True, id="linux"), pytest.param(False, id="elsewhere")])
def test_nobody_is_left_of_a_killed_launcher(launched, is_linux):
    launcher, pid = launched(is_linux)
    assert is_alive(pid)
    launcher.kill()
    output = launcher.stdout.read()  # ends when the last process that may write to it has
    assert not is_alive(pid) and output == ""


def test_a_launcher_that_was_killed_before(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    ended = subprocess.run([sys.executable, start.__file__, "1", "slow", "pid.txt"], cwd=tmp_path, capture_output=True)
    assert ended.returncode == 1 and ended.stderr == b"" and not (tmp_path / "pid.txt").exists()


def test_ctrl_c_is_left_to_the_launcher(launched):
    """The terminal tells the process of it, too: it would end with a traceback of whatever it imports."""
    launcher, pid = launched()
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert is_alive(pid)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not is_alive(pid), launcher)
