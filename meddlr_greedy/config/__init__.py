"""Configuration: safe reading of YAML, the schema of ``MISC.GREEDY``, and the config that both make."""

import meddlr  # noqa: F401 (what is registered with it imports modules of this package: none may be half imported then)
