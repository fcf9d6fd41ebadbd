"""What benchmarks and studies share: trials, tables, measuring."""
