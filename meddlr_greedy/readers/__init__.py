"""Readers of scanner files and of images; a file in this folder is imported, and so registers its readers.

Who asks for the help of ``prepare`` asks all of them. So these files hold what a user can say, and import neither
numpy nor h5py. What is done with it is in the folders ``formats`` and ``simulation``, and is imported by the methods
that do it.
"""

from meddlr_greedy.plugins import import_modules_of

import_modules_of(__name__, __path__)
