"""``python -m meddlr_greedy`` is the command ``meddlr-greedy``."""

from meddlr_greedy.cli import main

if __name__ == "__main__":
    main()
