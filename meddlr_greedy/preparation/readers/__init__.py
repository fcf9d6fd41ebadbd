"""Readers of scanner files and of images."""
