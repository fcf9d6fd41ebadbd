"""Reconstructions that networks are compared with."""
