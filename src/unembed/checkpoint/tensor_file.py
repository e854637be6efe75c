"""Tensors of a safetensors file that may be anybody's: a regular file of bounded size, and nothing else.

Contents: `read_tensors`, `read_header`.

safetensors refuses a file whose header and size do not agree, so what is read is never larger than the file.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from unembed.errors import CheckpointError, DataError
from unembed.files import open_regular

_MOST_BYTES = 64 * 2**20
_MOST_HEADER = 2**20


def _check(path: Path, repair: str) -> None:
    """Refuse what is not a regular file, or too large, or has a header that only costs memory."""
    try:
        with open_regular(path, _MOST_BYTES) as stream:
            start = stream.read(8)
    except DataError as error:
        raise CheckpointError(error.what, repair) from error
    if len(start) < 8 or int.from_bytes(start, "little") > _MOST_HEADER:
        raise CheckpointError(f"{path} is damaged: it has no header that could be read.", repair)


def _failed(path: Path, error: Exception, repair: str) -> CheckpointError:
    lines = str(error).splitlines()
    return CheckpointError(f"{path} cannot be read: {lines[0].rstrip('.') if lines else type(error).__name__}.", repair)


def read_tensors(path: str | Path, repair: str) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Args:
        path: of at most 64 MiB.
        repair: what to do about a damaged one, for errors.

    Raises:
        CheckpointError: absent, no regular file, too large, truncated or damaged.
    """
    from safetensors.torch import load_file

    path = Path(path)
    _check(path, repair)
    try:
        return load_file(str(path))
    except Exception as error:  # an exception of its own, and those of torch for types that it lacks
        raise _failed(path, error, repair) from error


def read_header(path: str | Path, repair: str) -> dict[str, str]:
    """Read the free strings of a file's header.

    Args:
        path: see `read_tensors`.
        repair: see `read_tensors`.

    Raises:
        CheckpointError: see `read_tensors`.
    """
    from safetensors import safe_open

    path = Path(path)
    _check(path, repair)
    try:
        with safe_open(str(path), framework="pt") as stream:
            return stream.metadata() or {}
    except Exception as error:  # see above
        raise _failed(path, error, repair) from error
