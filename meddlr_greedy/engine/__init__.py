"""Training in one process: trainer, hooks, checkpoints."""
