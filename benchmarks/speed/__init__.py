"""What commands, training, decoding and the server cost: seconds, memory, passes and operations."""
