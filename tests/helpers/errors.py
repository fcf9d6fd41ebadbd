"""What the commands say of a mistake."""

import pytest

from meddlr_greedy.train_net import main


def expect_error(capsys, config, *opts, words=(), out=None):
    with pytest.raises(SystemExit) as end:
        main(["--config-file", str(config), *map(str, opts)])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 2
    assert error.startswith("error: ") and "\n" not in error
    for word in words:
        assert str(word) in error, error
    if out is not None:
        assert not list(out.glob("*.pth*"))
