"""Scans that are simulated: k-space of images, and of a heart that is drawn; imported where the first one is opened."""
