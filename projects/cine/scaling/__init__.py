"""A model of the throughput on many devices, checked against runs."""
