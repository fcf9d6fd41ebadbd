"""The memory of a training step, predicted before training."""
