"""Metrics of reconstructions: functions of images, what is computed of which part of a cine, and collections."""
