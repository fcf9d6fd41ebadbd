"""Parallel greedy learning: the modules of one network spread over processes."""
