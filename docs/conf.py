"""The documentation site: ``make docs`` builds it into ``build/docs``. Warnings are errors there."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # API pages and notebooks are of this checkout
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # notebooks show what a machine without a GPU does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # their networks are too small for more
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's, which looks for widgets

project = "meddlr-greedy"
author = copyright = "the authors of meddlr-greedy, MIT license"  # noqa: A001 (Sphinx's name)
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]

html_theme = "furo"
html_title = project
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False

# Links of pages to headings, as GitHub makes them: a heading that is not there is a warning.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

# Notebooks are text without outputs, run here in a temporary folder each.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 120  # seconds for a cell: a notebook that takes longer than that fails the build
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
