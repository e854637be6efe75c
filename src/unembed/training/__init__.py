"""Training: recipe in, checkpoint out."""
