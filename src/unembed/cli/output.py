"""Files that hold recovered text: .jsonl, .csv and .parquet, whole or absent, readable by the owner only.

Contents: `check_output`, `write_rows`, `open_lines`, `draw_row`.

Recovered text may be personal, so every file has mode 600. Cells of a CSV are made harmless to spreadsheets
(`cells.py`), the types of a parquet file are those of all rows (`parquet_rows.py`).
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.cli.cells import as_cell, escape_cell
from unembed.cli.console import plain
from unembed.errors import InputError
from unembed.files import PRIVATE, atomic_path, atomic_write_bytes, json_text

if TYPE_CHECKING:
    from unembed.inverter import Inverter

Row = dict[str, Any]
Write = Callable[[Sequence[Row]], None]

KINDS = (".jsonl", ".csv", ".parquet")


def check_output(path: str | Path, kinds: Sequence[str] = KINDS) -> Path:
    """Check the ending of an output path before any work is done.

    Raises:
        InputError: another ending, or something of that name that is not a file.
    """
    path = Path(path)
    if path.suffix.lower() not in kinds:
        raise InputError(
            f"{path} ends in {path.suffix or 'nothing'}.", f"Use a name that ends in {' or '.join(kinds)}."
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder.", "Name a file.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file but a pipe or a device.", "Name a file.")
    return path


def write_rows(path: str | Path, rows: Callable[[], Iterator[Sequence[Row]]]) -> None:
    """Write a file of rows, whole or not at all.

    Args:
        path: its ending chooses the format.
        rows: yields them from the first on, in parts; called again where a format needs a second look. Every row must
            have the keys of the first.

    Raises:
        InputError: an unknown ending.
        DataError: the file cannot be written.
    """
    path = check_output(path)
    with atomic_path(path, PRIVATE) as part:
        if path.suffix.lower() == ".parquet":
            from unembed.cli.parquet_rows import write_parquet

            write_parquet(part, rows)
        elif path.suffix.lower() == ".csv":
            _write_csv(part, rows())
        else:
            with open(part, "w", encoding="utf-8") as stream:
                for some in rows():
                    _write_lines(stream, some)


@contextlib.contextmanager
def open_lines(path: str | Path) -> Iterator[Write]:
    """Yield a function that appends JSON lines to a file; the file appears when the block ends without an exception.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic_path(path, PRIVATE) as part, open(part, "w", encoding="utf-8") as stream:
        yield lambda rows: _write_lines(stream, rows)


def _write_lines(stream: Any, rows: Sequence[Row]) -> None:
    """Write one JSON object per line."""
    for row in rows:
        stream.write(json_text(plain(row)) + "\n")


def _write_csv(path: Path, rows: Iterator[Sequence[Row]]) -> None:
    """Write a header and one line per row; lists become JSON."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream)
        names: list[str] = []
        for some in rows:
            for row in some:
                if not names:
                    names.extend(row)
                    writer.writerow([escape_cell(name) for name in names])
                writer.writerow([as_cell(row.get(name)) for name in names])


def draw_row(path: str | Path, inverter: Inverter, vector: Any, original: Any, options: dict[str, Any]) -> None:
    """Decode one vector again and write an animation of it."""
    from unembed.evaluation.animation import animate

    decoding = {name: value for name, value in options.items() if name != "trace"}
    svg, _ = animate(inverter, vector, None if original is None else str(original), **decoding)
    atomic_write_bytes(path, svg.encode("utf-8", "backslashreplace"), PRIVATE)
