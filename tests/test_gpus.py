"""Which tests see the GPUs of the machine."""

import os
from types import SimpleNamespace

import pytest

from tests import conftest


@pytest.mark.parametrize(
    ("markers", "are_seen"),
    [("", False), ("not stress", False), ("not cuda", False), ("not stress and not cuda", False), ("cuda", True)]
    + [("cuda and not stress", True), ("not stress and cuda", True), ("stress", False), ("(cuda)", True)],
)
def test_gpus_are_seen_where_tests_ask_for_them(monkeypatch, markers, are_seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr=markers)))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("0" if are_seen else "")
