"""Text, tokens and vectors for training: sources, tokenization, shards, batches by length, online embedding."""
