"""What a GPU is to show: the dry run on the CPU."""

import re
import threading
import time

import pytest

from projects.cine.benchmarks.gpu import command, runs, steps
from projects.cine.benchmarks.gpu.line import Found, NotRunError, Setting
from projects.cine.benchmarks.options import Options


@pytest.fixture
def setting(tmp_path):
    return Setting("cpu", True, tmp_path, time.monotonic() + 600)


def found_by(part, setting):
    lines = list(part(setting))
    return {line.case: line for line in lines}


def test_a_part_that_fails_or_cannot_run_is_a_line_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def fails(setting):
        yield Found("first", "1 ms", True)
        raise ValueError("two\nlines")

    def cannot(setting):
        raise NotRunError("no GPU")
        yield

    def late(setting):
        raise AssertionError("its time is over before it begins")
        yield

    parts = {"a": (fails, 10.0), "b": (cannot, 10.0), "c": (late, 0.0), "d": (lambda setting: iter([]), 10.0)}
    kinds = ({"is_here": True}, {}, {"is_timed": True, "is_here": True}, {})  # each runs at another time
    limited = {name: command._Limited(*part, **kind) for (name, part), kind in zip(parts.items(), kinds)}
    monkeypatch.setattr(command, "PARTS", limited)
    rows = command.gpu(Options("cpu", 0, tmp_path, small=True))["rows"]
    told = [(row["part"], row["case"], row["result"], row["holds"]) for row in rows]
    assert told == [
        ("a", "first", "1 ms", "yes"),
        ("a", "", "failed: ValueError: lines", "NO"),
        ("b", "", "not run: no GPU", ""),
        ("c", "", "not run: the time of this part is over", ""),
    ]
    assert "a: first: 1 ms" in capsys.readouterr().out.splitlines()


def test_what_is_timed_runs_alone_and_last(tmp_path, monkeypatch):
    running, seen, both_run = set(), [], threading.Barrier(2)

    def part(name, is_timed):
        def run(setting):
            running.add(name)
            if not is_timed:
                both_run.wait(60)
            seen.append((name, set(running)))
            running.remove(name)
            yield Found(name, "")

        return run

    kinds = {"timed": (True, True), "far": (False, False), "here": (False, True)}
    limited = {name: command._Limited(part(name, timed), 90.0, timed, here) for name, (timed, here) in kinds.items()}
    monkeypatch.setattr(command, "PARTS", limited)
    rows = command.gpu(Options("cpu", 0, tmp_path, small=True))["rows"]
    assert [row["part"] for row in rows] == [*kinds]
    assert seen[-1] == ("timed", {"timed"}) and ({"here", "far"} in [beside for _, beside in seen])


def test_parts_fit_into_eight_minutes():
    own = sum(part.seconds for part in command.PARTS.values() if part.is_here)
    beside = max(part.seconds for part in command.PARTS.values() if not part.is_here)
    of_this_process_before = sum(p.seconds for p in command.PARTS.values() if p.is_here and not p.is_timed)
    assert own - of_this_process_before + max(beside, of_this_process_before) <= 480


def test_what_needs_a_gpu_says_so(setting):
    for part in (runs.tests, steps.graphs, steps.kernels):
        with pytest.raises(NotRunError, match="no GPU"):
            list(part(setting))


def test_gradients_of_the_cpu_agree_with_themselves(setting, monkeypatch):
    monkeypatch.setattr(steps, "_NETWORKS", {name: steps._NETWORKS[name] for name in ("2D", "cine CG")})
    lines = list(steps.agreement(setting))
    assert len(lines) == 8 and all(line.holds for line in lines)
    assert all(line.result == "median 0.0e+00, most 0.0e+00; the same bits twice: yes" for line in lines)


def test_gradients_that_differ_do_not_hold(setting, monkeypatch):
    original = steps._gradients
    monkeypatch.setattr(steps, "_NETWORKS", {"2D": steps._NETWORKS["2D"]})
    calls = []

    def off(device, cfg):
        calls.append(cfg)
        return [gradient * (1 + 0.01 * (len(calls) % 5 != 1)) for gradient in original(device, cfg)]

    monkeypatch.setattr(steps, "_gradients", off)
    # Of each network the first call is the CPU's: 1 % is too much without TF32, and little with it.
    assert [line.holds for line in steps.agreement(setting)] == [False, True, False, True]


def test_steps_are_timed_planned_and_compared_with_their_convolutions(setting, monkeypatch):
    monkeypatch.setattr(steps, "_ROUNDS", 1)
    variants = list(steps.variants(setting))
    assert len(variants) == 9 and all(
        " ms; peak " in line.result and " MB, planned " in line.result for line in variants
    )
    for line in variants:  # on the CPU, convolutions in bfloat16 need room of their own, which no plan sees
        share = float(line.result.rsplit("(", 1)[1].split()[0])
        assert (0.8 if "bfloat16" in line.case else 0.95) < share < 1.05, line
    for line in steps.convolutions(setting):
        assert re.search(r"times its \d+ convolutions, which take \d", line.result), line


def test_synchronizations_are_counted_without_a_gpu(setting):
    lines = steps.synchronizations(setting)
    assert next(lines).holds
    with pytest.raises(NotRunError):
        next(lines)


@pytest.mark.stress
def test_trainings_of_several_processes_a_kill_and_what_follows(setting, tmp_path):
    for part, cases in {
        runs.processes: {"2 processes"},
        runs.killed_and_resumed: {"a process is killed", "resumed"},
        runs.commands: {"train, 2 workers", "eval", "reconstruct"},
    }.items():
        folder = tmp_path / part.__name__
        folder.mkdir()
        found = found_by(part, Setting("cpu", True, folder, setting.deadline))
        assert {*found} == cases and all(line.holds is not False for line in found.values()), found
