"""Exceptions of our own: one sentence on what is wrong, one on what to do.

Everything that a user can cause ends in one of these. The command line prints the two sentences and exits with 2.
"""

from __future__ import annotations


class UnembedError(Exception):
    """Base of every error that a user can cause.

    Args:
        what: one sentence on what is wrong, and where (file, row, column, key).
        do: one sentence on what to do about it.
    """

    def __init__(self, what: str, do: str) -> None:
        super().__init__(f"{what} {do}")
        self.what = what
        self.do = do

    def __reduce__(self) -> tuple[type[UnembedError], tuple[str, str]]:
        """Rebuild from both sentences, so that the error survives a process boundary."""
        return (type(self), (self.what, self.do))


class InputError(UnembedError):
    """Vectors, texts or options that cannot be used."""


class CheckpointError(UnembedError):
    """A checkpoint that is missing, truncated, foreign or of another version."""


class EncoderMismatchError(UnembedError):
    """Vectors or an encoder that do not belong to the checkpoint."""


class EncoderError(UnembedError):
    """An encoder that cannot be found, loaded or asked."""


class RecipeError(UnembedError):
    """A recipe with an unknown key or a value that makes no sense."""


class DataError(UnembedError):
    """Training or test data that cannot be read or does not fit together."""
