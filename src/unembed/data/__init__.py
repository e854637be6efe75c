"""Text, tokens and vectors for training and testing: sources, tokenization, shards, batches by length, online embedding."""
