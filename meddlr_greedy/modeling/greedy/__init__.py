"""Greedy learning: modules, local gradients, and the network that trains by them."""
