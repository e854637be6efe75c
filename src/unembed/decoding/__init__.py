"""From a vector to a draft: one loop, many strategies, a trace, and how far to trust the result."""
