"""Drafts improved with the encoder in the loop: queries are spent, and counted."""
