"""A file that is read is never written: outputs, inputs and the files of models are compared before any work.

Contents: `refuse_same`, `files_of`.

Two names are one file where the system says so (a hard link, a symbolic link, another spelling of the path).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from unembed.errors import InputError

_SCHEME = re.compile(r"^(?!file:)[a-z][a-z0-9+.-]*:")  # of a store, a dataset, an encoder: no path


def refuse_same(outputs: Mapping[str, str | Path | None], inputs: Mapping[str, Iterable[str | Path | None]]) -> None:
    """Refuse outputs that are each other, or something that is read.

    Args:
        outputs: path by option; None is left out.
        inputs: paths by what they are ("the input"); addresses that are not paths and None are left out. "-" is
            standard input, which may be a file.

    Raises:
        InputError: naming both.
    """
    given = {option: Path(path) for option, path in outputs.items() if path is not None}
    options = list(given)
    for i, option in enumerate(options):
        for other in options[:i]:
            if _same(given[option], given[other]):
                raise InputError(f"{other} and {option} both name {given[option]}.", "Give each a file of its own.")
    for what, paths in inputs.items():
        for path in paths:
            if path is None or _SCHEME.match(str(path)):
                continue
            name = str(path).removeprefix("file://")
            for option, out in given.items():
                if _is_stdin(out) if name == "-" else _same(out, name):
                    raise InputError(
                        f"{option} {out} is {what} ({name}), which would be overwritten.", "Name another file."
                    )


def files_of(folder: str | Path | None) -> list[Path]:
    """The files in a folder and below, or the file itself; none where there is no such path."""
    if folder is None or _SCHEME.match(str(folder)):
        return []
    path = Path(folder).expanduser()
    return [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]


def _same(a: str | Path, b: str | Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)  # one of them is still to be made


def _is_stdin(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(0), path.stat())
    return False
