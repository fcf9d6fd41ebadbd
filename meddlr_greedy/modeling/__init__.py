"""Unrolled networks, their losses, and greedy learning of them."""
