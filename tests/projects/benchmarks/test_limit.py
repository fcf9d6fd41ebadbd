"""The benchmark of a step's limit, small."""

import pytest
import torch

from meddlr_greedy.ops.fft import centered_fft
from meddlr_greedy.planning.trace import traced
from projects.cine.benchmarks import limit as benchmark
from projects.cine.benchmarks.__main__ import main
from projects.cine.benchmarks.options import Options


def test_every_network_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "FEATURES", (8,))
    rows = benchmark.limit(Options("cpu", 1, tmp_path, small=True))["rows"]
    assert [(row["features"], row["frames"]) for row in rows] == [(8, 12), (8, 20)]
    for row in rows:
        shares = [value for name, value in row.items() if name.endswith("(%)")]
        assert len(shares) == len(benchmark._GROUPS) + 1 and sum(shares) == pytest.approx(100)
        assert row["convolutions (%)"] > 0 and row["matrix products (%)"] > 0 and row["FFTs (%)"] > 0
        assert row["FFTs / step"] > 0 and float(row["step / limit"].split()[0]) > 0


def test_operations_are_those_of_a_trace():
    with traced() as trace:
        conv = benchmark.nn.Conv2d(8, 16, 3, padding=1)
        x = torch.empty(5, 8, 12, 10, requires_grad=True)
        trace.reset_work()
        conv(x).sum().backward()
    expected = benchmark._operations(conv, 5 * 12 * 10)
    assert 1 < trace.operations / expected < 1.05


def test_the_ffts_of_a_step_run_again():
    x = torch.randn(2, 6, 5, dtype=torch.complex64, requires_grad=True)
    alone = benchmark._ffts_of(lambda: centered_fft(x, (1,)).abs().sum().backward())
    with benchmark._Recorder() as recorder:
        alone()
    assert len(recorder.calls) == 2


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::convolution_backward", "convolutions"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::addmm_", "matrix products"),
        ("_ReluAndProductsBackward", "matrix products"),
        ("aten::_fft_c2c", "FFTs"),
        ("aten::copy_", "copies"),
        ("aten::threshold_backward", "pointwise, sums, optimizer"),
        ("Optimizer.step#Adam.step", "pointwise, sums, optimizer"),
        ("aten::view", "rest"),
    ],
)
def test_groups(name, group):
    assert benchmark._group(name) == group


@pytest.mark.parametrize("command", ["limit", "temporal", "fastest"])
def test_time_of_the_processor_is_of_no_gpu(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--device", "cuda"])
    assert end.value.code == 2 and "--device: found cuda, allowed cpu" in capsys.readouterr().err
