"""Unrolled networks of the plugin; a file in this folder is imported, and so registers its networks."""

from meddlr_greedy.plugins import import_modules_of

import_modules_of(__name__, __path__)
