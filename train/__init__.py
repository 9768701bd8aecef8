"""Training: data, losses, optimisation loops, placement, checkpoints, evaluation."""
