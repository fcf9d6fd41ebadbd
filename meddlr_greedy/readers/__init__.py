"""Readers of scanner files and of images; a file in these folders is imported, and so registers its readers."""

from meddlr_greedy.plugins import import_modules_of
from meddlr_greedy.readers import formats, simulation

for package in (formats, simulation):
    import_modules_of(package.__name__, package.__path__)
