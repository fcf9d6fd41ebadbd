"""Memory of a training step."""

import ctypes

from meddlr_greedy.engine.memory import keep_freed_memory


def test_freed_memory_is_kept_where_the_c_library_can():
    assert keep_freed_memory() == hasattr(ctypes.CDLL(None), "mallopt")
