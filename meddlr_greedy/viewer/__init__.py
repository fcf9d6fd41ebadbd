"""A page to look at images and metrics in a browser: one file that needs nothing else."""
