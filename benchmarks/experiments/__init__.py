"""Which of several ways is better: variants of training, decoding and refinement on the same texts."""
