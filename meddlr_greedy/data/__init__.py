"""Files -> batches: data sets by name, checked scans, k-t masks, seeded transforms, loaders."""
