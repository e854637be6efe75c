"""Writing from left to right."""
