"""Text, tokens and vectors for training and testing: sources, tokenization, shards, batches, online embedding."""
