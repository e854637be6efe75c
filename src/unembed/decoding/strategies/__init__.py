"""Which positions are filled in a pass, and which are masked again."""
