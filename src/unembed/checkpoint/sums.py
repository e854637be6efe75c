"""The list of a checkpoint's files: SHA256SUMS, as `sha256sum --check` reads it.

Contents: `SUMS`, `FIT_FILE`, `LISTED`, `read_sums`, `has_sums`, `list_files`, `sums_text`, `check_file`,
`check_listed`, `check_all`.

Whoever writes a file into a checkpoint's folder lists it here, the model card too; only the list itself is not in it.
config.json names the files that the model is made of, and so the digest of config.json is the model's. This list says
whether a folder holds what was put into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from unembed.errors import CheckpointError, DataError
from unembed.files import atomic_write_bytes, open_regular, sha256_file

SUMS = "SHA256SUMS"
FIT_FILE = "fit-score.safetensors"
LISTED = (FIT_FILE,)
"""Files beside a model that say nothing of the weights they belong to, and that only the program itself writes."""

REPAIR = "Fetch the checkpoint again, or train a new one."
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]{0,199})")
_MOST_BYTES = 2**18
_MOST_FILE = 2**28


def read_sums(folder: str | Path) -> dict[str, str]:
    """Name -> sha256 of the files that a folder lists; empty where it has no list, as before version 0.2.0.

    Raises:
        CheckpointError: the list cannot be read.
    """
    path = Path(folder) / SUMS
    if not has_sums(folder):
        return {}
    try:
        with open_regular(path, _MOST_BYTES) as stream:
            lines = stream.read().decode("ascii").splitlines()
    except (DataError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read.", REPAIR) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found or match[2] == SUMS:
            raise CheckpointError(f"Line {number} of {path} names no file with its sha256.", REPAIR)
        found[match[2]] = match[1]
    return found


def has_sums(folder: str | Path) -> bool:
    """Whether a folder has a list, be it empty or broken."""
    path = Path(folder) / SUMS
    return path.exists() or path.is_symlink()


def sums_text(sums: Mapping[str, str]) -> bytes:
    """What the file holds."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def list_files(folder: str | Path, *names: str) -> None:
    """Put files that were just written into the list; files that are gone leave it, the others stay as listed.

    Raises:
        CheckpointError: the list that is there cannot be read.
        DataError: the folder cannot be written.
    """
    folder = Path(folder)
    known = {name: digest for name, digest in read_sums(folder).items() if (folder / name).is_file()}
    known |= {name: sha256_file(folder / name) for name in names}
    atomic_write_bytes(folder / SUMS, sums_text(known))


def check_file(folder: str | Path, name: str, digest: str) -> None:
    """Compare a file with its digest.

    Raises:
        CheckpointError: it is missing, no regular file, or another.
    """
    path = Path(folder) / name
    try:
        open_regular(path, _MOST_FILE).close()
        same = sha256_file(path) == digest
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} lacks {name}.", REPAIR) from error
    except DataError as error:
        raise CheckpointError(error.what, REPAIR) from error
    if not same:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one that is listed.", REPAIR)


def check_listed(folder: str | Path, *names: str, must: bool = False) -> None:
    """Compare files that are next to a model with the list, as far as they are in it.

    Args:
        folder: of a checkpoint.
        names: the files.
        must: whether a list, where there is one, has to name those that are there. A corrector or a student may be put
            beside a model by hand, and says itself which weights it belongs to.

    Raises:
        CheckpointError: one of them is another than was listed, is listed and gone, or is not listed and must be.
    """
    sums = read_sums(folder)
    for name in names:
        if name in sums:
            check_file(folder, name, sums[name])
        elif must and has_sums(folder) and (Path(folder) / name).exists():
            raise CheckpointError(f"{SUMS} of {folder} does not list {name}.", REPAIR)


def check_all(folder: str | Path, known: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Compare every file of a folder with the list.

    Args:
        folder: of a checkpoint.
        known: name -> sha256 of what config.json names; SHA256SUMS must agree.

    Returns:
        Name -> sha256 of the files that are listed and right, and the names of those that are not listed.

    Raises:
        CheckpointError: a listed file is missing or another, or the two lists differ.
    """
    folder = Path(folder)
    sums = read_sums(folder)
    if has_sums(folder):
        wrong = next((name for name in known if sums.get(name) != known[name]), None)
        if wrong is not None:
            raise CheckpointError(f"{folder} is damaged: {SUMS} and config.json do not agree on {wrong}.", REPAIR)
        check_listed(folder, "config.json", *LISTED, must=True)
    listed = {**known, **sums}
    for name, digest in listed.items():
        check_file(folder, name, digest)
    there = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    return listed, [name for name in there if name not in listed]
