from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "meddlr_greedy" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="meddlr-greedy",
    version=VERSION,
    description="Greedy training of unrolled MRI reconstruction networks: a plugin of meddlr",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["meddlr_greedy", "meddlr_greedy.*"]),
    # meddlr pins numpy<=1.23.5, which has no wheels beyond Python 3.11.
    python_requires=">=3.9,<3.12",
    install_requires=[
        # Below 0.1: parts of its inside are subclassed.
        "meddlr>=0.0.9,<0.1",
        "torch>=2.2",
        # Imported but not declared by meddlr; must come from the same build family as torch.
        "torchvision>=0.17",
        "numpy",
        "scipy",
        "sigpy",
        "h5py",
        "fvcore",
        # torchmetrics 0.11 (pinned by meddlr) imports pkg_resources, which setuptools 81 removed.
        "setuptools<81",
        "pyyaml",
        "tabulate",
        "tqdm",
        "pandas",
        "silx",
        "tensorboard",
        "matplotlib",
        "pillow",
        # Formats of scanners and of images.
        "ismrmrd",
        "pydicom",
        "nibabel",
    ],
    extras_require={"dev": ["pytest", "pytest-xdist", "ruff", "mypy", "scikit-image"]},
)
