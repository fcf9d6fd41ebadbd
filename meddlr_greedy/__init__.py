"""Greedy training of unrolled MRI reconstruction networks, as a plugin of meddlr."""

__version__ = "0.1.0"
