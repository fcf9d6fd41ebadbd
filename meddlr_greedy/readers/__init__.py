"""Readers of scanner files and of images; a file in this folder is imported, and so registers its readers."""

from meddlr_greedy.plugins import import_modules_of

import_modules_of(__name__, __path__)
