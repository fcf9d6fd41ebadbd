"""Accelerated cardiac cine MRI: studies, benchmarks, a scaling model, baselines and a demo."""
