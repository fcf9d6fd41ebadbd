"""Regularizers: what an unrolled step learns."""
