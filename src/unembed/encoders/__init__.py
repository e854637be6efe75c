"""Models that make vectors from texts, behind one small protocol, found by name."""
