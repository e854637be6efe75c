"""Drafts and texts that the corrector and the student learn from."""
