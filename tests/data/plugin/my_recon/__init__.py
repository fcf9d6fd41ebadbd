"""Reconstruction with parts of our own: importing the package registers them all."""

from my_recon import hook, loss, mask, network, reader, regularizer, trainer  # noqa: F401 (they register)
