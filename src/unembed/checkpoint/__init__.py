"""All weight files: a checkpoint, the student and the corrector beside it, one codec, sums."""
