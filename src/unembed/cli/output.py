"""Files that hold recovered text: .jsonl, .csv and .parquet, whole or absent, readable by the owner only.

Contents: `check_output`, `write_rows`, `open_lines`, `draw_row`; `as_cell`, `escape_cell` for cells of a CSV,
`write_parquet`; `refuse_same`, `files_of`: a file that is read is never written.

Recovered text may be personal, so every file has mode 600. A spreadsheet takes a cell for a formula that begins with
= + - or @, also in full width. It may split the line at semicolons or tabs although commas separate the cells, so a
cell may begin after these, or after a line break, inside a text. An apostrophe before the sign makes it text. A number
keeps its sign: -1001234567890 is not a formula. Our columns of parquet have fixed types; those of the ids and of
kept columns are decided by all rows (`stores/column_types.py`), so that no row can fail after those already written.
Two names are one file where the system says so: a hard link, a symbolic link, another spelling of the path.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.cli.console import plain
from unembed.errors import InputError
from unembed.files import PRIVATE, atomic_path, atomic_write_bytes, json_text
from unembed.stores.column_types import Column, as_array, as_text

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
            from unembed.cli.output import write_parquet

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


_BEGIN = r"[;\t\r\n\v\f\x85\u2028\u2029]"
_NUMBER = r"[+-](?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"
_FORMULA = re.compile(
    rf"(?P<before>^|{_BEGIN})(?P<space>[\s\"]*)(?!{_NUMBER}\s*(?:$|{_BEGIN}))(?P<sign>[=+\-@\uff1d\uff0b\uff0d\uff20])"
)
_BLANK = ("\t", "\r", "\n")  # some programs skip these before they look for a sign


def escape_cell(text: str) -> str:
    """Put an apostrophe before whatever of a text a spreadsheet would take for the beginning of a formula."""
    if text.startswith(_BLANK):
        text = f"'{text}"
    return _FORMULA.sub(r"\g<before>\g<space>'\g<sign>", text)


def as_cell(value: Any) -> Any:
    """Turn a value into what a CSV cell holds; lists and objects become JSON."""
    value = plain(value)
    if isinstance(value, list | dict):
        return escape_cell(json.dumps(value, ensure_ascii=False))
    return escape_cell(value) if isinstance(value, str) else value


ROW_GROUP = 4096


def _fixed() -> dict[str, Any]:
    """The types of our own columns."""
    import pyarrow as pa

    return {
        "text": pa.string(),
        "original": pa.string(),
        **dict.fromkeys(("confidence", "p_exact", "cosine", "fit", "likelihood"), pa.float32()),
        **dict.fromkeys(("length", "passes", "queries"), pa.int64()),
        **dict.fromkeys(("tokens", "alternatives"), pa.list_(pa.string())),
        **dict.fromkeys(("given", "forced"), pa.list_(pa.bool_())),
        "token_confidence": pa.list_(pa.float32()),
    }


def write_parquet(path: Path, rows: Callable[[], Iterator[Sequence[Row]]]) -> None:
    """Write row groups of one size, however the rows come.

    Args:
        path: the file.
        rows: yields them from the first on; called twice, or three times where lists or objects have no common type.
    """
    import pyarrow as pa

    types = _fixed()
    columns: dict[str, Column] = {}
    for some in rows():
        for name in some[0] if some else ():
            if name not in types:
                columns.setdefault(name, Column()).add([row.get(name) for row in some])
    types |= {name: column.type() for name, column in columns.items()}
    try:
        _write(path, rows(), types)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        nested = [name for name in columns if pa.types.is_nested(types[name])]
        if not nested:
            raise
        _write(path, rows(), {**types, **dict.fromkeys(nested, pa.string())})


def _write(path: Path, rows: Iterator[Sequence[Row]], types: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    waiting: list[Row] = []

    def write(group: Sequence[Row]) -> None:
        nonlocal writer
        names = list(group[0])
        schema = pa.schema([(as_text(name), types[name]) for name in names])
        arrays = [as_array([row.get(name) for row in group], types[name]) for name in names]
        if writer is None:
            writer = pq.ParquetWriter(stream, schema, compression="zstd")
        writer.write_table(pa.table(arrays, schema=schema))

    with open(path, "wb") as stream:
        try:
            for some in rows:
                waiting.extend(some)
                while len(waiting) >= ROW_GROUP:
                    write(waiting[:ROW_GROUP])
                    del waiting[:ROW_GROUP]
            if waiting:
                write(waiting)
            elif writer is None:
                pq.write_table(pa.table({}), stream)
        finally:
            if writer is not None:
                writer.close()


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
