"""Measurements: `speed`, `experiments`, `robustness`. From the repository's root: python -m benchmarks.speed.decode.

`common` has what they share; `stand_in` makes an encoder for machines that have none of several languages.
"""
