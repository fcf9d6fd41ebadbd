import meddlr_greedy  # noqa: F401 (it gives back what meddlr needs of older numpy, before a test imports meddlr)
