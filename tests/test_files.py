"""Files that are there whole or not at all."""

import pytest

from meddlr_greedy.files import written_atomically


@pytest.mark.parametrize("durable", [False, True])
def test_the_old_content_stays_until_the_new_is_whole(tmp_path, durable):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_atomically(path, durable) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with written_atomically(path, durable) as partial:
        assert partial.suffix == path.suffix
        partial.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_freed_memory_is_kept_where_the_c_library_can():
    import ctypes

    from meddlr_greedy.engine.memory import keep_freed_memory

    assert keep_freed_memory() == hasattr(ctypes.CDLL(None), "mallopt")
