"""Accelerated cardiac cine MRI: studies, benchmarks, a scaling model, baselines and a demo."""

# Before anything here imports meddlr, which lacks names where numpy is newer than meddlr knows.
import meddlr_greedy  # noqa: F401
