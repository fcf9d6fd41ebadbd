"""Programs of others that tests compare with, where they are installed: in the path, or beside the running Python."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name):
    """The path of a program; ``None`` where there is none."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))


def needs(name, package):
    """Marks a test that is skipped where there is no such program."""
    return pytest.mark.skipif(not program(name), reason=f"needs the program {name} (pip install {package})")
