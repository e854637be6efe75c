"""Optimizers, the average of the weights, and the learning rate over a run."""
