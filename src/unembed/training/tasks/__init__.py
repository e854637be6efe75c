"""What is learnt: each task draws a batch, scores it, validates and saves."""
