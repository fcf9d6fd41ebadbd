"""Accelerated cardiac cine MRI: data to train on, and the study made with them."""
