"""Unrolled networks, their losses, and greedy learning of them."""

import meddlr  # noqa: F401 (what is registered with it imports modules of this package: none may be half imported then)
