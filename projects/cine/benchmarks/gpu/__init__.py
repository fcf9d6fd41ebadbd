"""What one GPU shows in eight minutes, ``python -m projects.cine.benchmarks gpu``."""

from projects.cine.benchmarks.gpu.command import gpu

__all__ = ["gpu"]
