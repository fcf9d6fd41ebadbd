"""meddlr's wrappers around a greedy network: what they draw for a batch, and their losses."""
