"""The networks: the denoiser, its parts and variants, the corrector and the student encoder. No files."""
