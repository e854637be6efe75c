"""Files of a checkpoint that may be anybody's: JSON of a known form within bounds, and tensors of a regular file.

Contents: `FORMAT`, `VERSION`, `MOST_TOKENIZER`, `read_config`, `read_object`, `read_text`, `read_tensors` and
`read_header`.

safetensors refuses a file whose header and size do not agree, so what is read is never larger than the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from unembed.checkpoint.sums import REPAIR
from unembed.checks import SchemaError, anything, mapping, one_of, table, text, whole
from unembed.errors import CheckpointError, DataError
from unembed.files import open_regular, read_json

FORMAT = "unembed-checkpoint"
VERSION = 2
"""1 had float32, float16 and int8 rows, and is read too."""

_PARTS = ("tokenizer.json", "encoder.json", "recipe.json")
MOST_TOKENIZER = 48 * 2**20
_MOST_BYTES = {"encoder.json": 8 * 2**20}
_MOST_JSON = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _file_name(value: Any, name: str) -> Any:
    """The name of a file in the folder itself."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise SchemaError(f"{name} is not a file name")
    return value


def _digest(value: Any, name: str) -> Any:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise SchemaError(f"{name} is not a sha256")
    return value


_SCHEMA = table(
    {
        "format": one_of([FORMAT]),
        "version": whole(1, VERSION),
        "dtype": text(20),
        "denoiser": mapping(anything, 100),
        "notes": mapping(anything, 1000),
        "files": mapping(_digest, 2000, _file_name),
    },
    optional=("dtype", "notes"),
)


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint: an object of bounded size and depth.

    Args:
        path: of the file.

    Raises:
        CheckpointError: absent, no regular file, too large, no JSON or no object.
    """
    path = Path(path)
    try:
        value: dict[str, Any] = read_json(path, _MOST_BYTES.get(path.name, _MOST_JSON))
        mapping(anything, 10_000)(value, path.name)
    except DataError as error:
        raise CheckpointError(error.what, REPAIR) from error
    except SchemaError as error:
        raise CheckpointError(f"{path} cannot be used: {error}.", REPAIR) from error
    return value


def read_config(path: str | Path) -> dict[str, Any]:
    """Read the config.json of a checkpoint and check its form; the files that it names are not looked at.

    Args:
        path: the directory.

    Raises:
        CheckpointError: missing, foreign, of another version, or of a form that no checkpoint has.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(
            f"There is no checkpoint at {path}.", "Check the path; `unembed models list` shows those that ship."
        )
    try:
        config = read_json(path / "config.json", _MOST_JSON)
    except DataError as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error.what}", REPAIR) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not an unembed checkpoint.", "Give a directory that `unembed train` wrote.")
    version = config.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        newer = type(version) is int and version > VERSION
        plain = version.isprintable() if isinstance(version, str) else type(version) is int and abs(version) < 10**9
        shown = str(version)[:20] if plain else "unknown"
        raise CheckpointError(
            f"{path} has checkpoint format {shown}, this program reads formats 1 to {VERSION}.",
            "Install a newer unembed." if newer else "Install the unembed that wrote it, or train again.",
        )
    try:
        _SCHEMA(config, "config.json")
    except SchemaError as error:
        raise CheckpointError(f"{path} cannot be used: {error}.", REPAIR) from error
    files = config["files"]
    missing = [name for name in _PARTS if name not in files]
    if not any(name.startswith("model-") and name.endswith(".safetensors") for name in files):
        missing.append("the weights")
    if missing:
        raise CheckpointError(f"{path} is not a whole checkpoint: its config.json does not list {missing[0]}.", REPAIR)
    return config


def read_text(path: str | Path, most: int) -> str:
    """Read a text of bounded size.

    Args:
        path: of the file.
        most: the most bytes it may have.

    Raises:
        CheckpointError: absent, no regular file, too large, or not UTF-8.
    """
    try:
        with open_regular(path, most) as stream:
            return stream.read().decode("utf-8")
    except DataError as error:
        raise CheckpointError(error.what, REPAIR) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as text.", REPAIR) from error


_MOST_TENSOR_BYTES = 64 * 2**20
_MOST_HEADER = 2**20


def _check(path: Path, repair: str) -> None:
    """Refuse what is not a regular file, or too large, or has a header that only costs memory."""
    try:
        with open_regular(path, _MOST_TENSOR_BYTES) as stream:
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
