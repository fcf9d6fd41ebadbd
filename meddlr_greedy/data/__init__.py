"""Files -> batches: data sets by name, checked scans, k-t masks, seeded transforms, loaders."""

import meddlr  # noqa: F401 (what is registered with it imports modules of this package: none may be half imported then)
