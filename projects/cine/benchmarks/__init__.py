"""Measurements: memory, time, agreement with stock parts."""
