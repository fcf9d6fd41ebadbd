"""Memory of a training step."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

# Pages that are faulted in while 24 MB are written and let go ten times, before and after.
FAULTS = """
import resource, torch
from meddlr_greedy.engine.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(6_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
assert keep_freed_memory() is True
faults()
print(before, faults())
"""


# Pages that are faulted in while 240 MB are written, after all that a training imports.
LARGE = """
import resource
import meddlr_greedy.train_net
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.empty(60_000_000).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def printed(code, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | variables
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_kept():
    before, after = printed(FAULTS, THP_MEM_ALLOC_ENABLE="0")
    assert before > 10_000 and after < before / 10


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(), reason="needs huge pages for who asks"
)
def test_large_tensors_lie_on_huge_pages():
    (without,) = printed(LARGE, THP_MEM_ALLOC_ENABLE="0")  # what is set stays
    (with_them,) = printed(LARGE)
    assert with_them < without / 10
