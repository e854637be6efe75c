"""Files out: one namespace, types decided by all rows, cells that no spreadsheet runs, names and modes of files."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed.cli.output import as_cell, check_output, escape_cell, write_rows
from unembed.cli.recovered import COLUMNS, RESERVED, columns, kept_names
from unembed.errors import InputError
from unembed.files import PRIVATE, atomic_write_bytes, make_folder, read_json, remove_parts, short_name, write_json

NUMBERS = ("-1001234567890", "-0.5", "-1e-3", "+4912345", "-.5", "-1,5", "a;-1", "scores -1;-2", "+1e5")
FORMULAS = {
    "=1+1": "'=1+1",
    "+1+1": "'+1+1",
    "-a": "'-a",
    "@x": "'@x",
    "-1-cmd": "'-1-cmd",
    "a;=1": "a;'=1",
    'a;"=1"': 'a;"\'=1"',
    "a; =1": "a; '=1",
    "a\n=1": "a\n'=1",
    "a\r\n@b": "a\r\n'@b",
    "a\t+b": "a\t'+b",
    "\tx": "'\tx",
    "\r=x": "'\r'=x",
    " =1": " '=1",
    "\uff1d1": "'\uff1d1",
    "\uff0b1": "'\uff0b1",
    "\uff0da": "'\uff0da",
    "\uff20x": "'\uff20x",
    "a;\uff1d1": "a;'\uff1d1",
    "-1;=2": "-1;'=2",
}


def parts(rows: list[dict[str, Any]], size: int = 3) -> Any:
    return lambda: (rows[start : start + size] for start in range(0, len(rows), size))


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_keep_their_sign(text: str) -> None:
    assert escape_cell(text) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_a_formula(text: str) -> None:
    """At the beginning, and wherever a spreadsheet that parts cells by semicolon, tab or line begins one."""
    assert escape_cell(text) == FORMULAS[text]
    assert escape_cell(escape_cell(text)) == FORMULAS[text] or text[0] in "\t\r"


def test_texts_without_a_sign_in_such_a_place_are_as_they_were() -> None:
    for text in ("a - b", "e-mail me@x", "1+1=2", "well-known; yes", "", "a;b", "wait... - no"):
        assert escape_cell(text) == text
    assert as_cell(["=1", "a;=1"]) == '["=1", "a;\'=1"]'
    assert as_cell(-1.5) == -1.5


def test_a_kept_column_never_has_the_name_of_another() -> None:
    assert kept_names(["source", "text", "ID", "Confidence"]) == {
        "source": "source",
        "text": "kept_text",
        "ID": "kept_ID",
        "Confidence": "kept_Confidence",
    }
    with pytest.raises(InputError, match="'kept_text'"):
        kept_names(["text", "kept_text"])


def test_every_column_of_the_output_is_reserved() -> None:
    """Also those that other options add: a name does not depend on them."""
    every = columns(tokens=True, alternatives=True, constrained=True, refined=True)
    assert {"id", "original", "fit", "likelihood", *COLUMNS, *every} <= RESERVED
    assert all(name == name.casefold() for name in RESERVED)


IDS: dict[str, tuple[list[Any], Any, list[Any]]] = {
    "uint64": ([13570027672830659665, 0, 7], pa.uint64(), [13570027672830659665, 0, 7]),
    "negative": ([-1001234567890, 5, None], pa.int64(), [-1001234567890, 5, None]),
    "both": ([13570027672830659665, -1, 7], pa.string(), ["13570027672830659665", "-1", "7"]),
    "beyond": ([1 << 70, 2, 3], pa.string(), [str(1 << 70), "2", "3"]),
    "mixed": ([1, "a", "1"], pa.string(), ["1", "a", "1"]),
    "late": ([1, 2, 3, 4, "x"], pa.string(), ["1", "2", "3", "4", "x"]),
    "whole and parts": ([1, 2.5], pa.float64(), [1.0, 2.5]),
    "no float": ([(1 << 60) + 1, 0.5], pa.string(), [str((1 << 60) + 1), "0.5"]),
    "booleans": ([True, None], pa.bool_(), [True, None]),
    "boolean and number": ([True, 1], pa.string(), ["true", "1"]),
    "half a character": (["a\ud800b", "c"], pa.string(), ["a\\ud800b", "c"]),
    "nothing": ([None, None], pa.string(), [None, None]),
    "lists": ([["a"], None, ["b", "c"]], pa.list_(pa.string()), [["a"], None, ["b", "c"]]),
    "lists of different things": ([[1], ["a"]], pa.string(), ["[1]", '["a"]']),
    "a list that is late": ([["a"], ["b"], ["c"], {"d": 1}], pa.string(), ['["a"]', '["b"]', '["c"]', '{"d": 1}']),
    "long lists": ([[1 << 70], [1]], pa.string(), [f"[{1 << 70}]", "[1]"]),
}


@pytest.mark.parametrize("name", IDS)
def test_a_column_of_parquet_holds_every_value_as_it_is(tmp_path: Path, name: str) -> None:
    """The type is that of all rows: no row fails behind others, and no value changes."""
    values, kind, want = IDS[name]
    write_rows(tmp_path / "o.parquet", parts([{"id": value, "text": "a"} for value in values]))
    table = pq.read_table(tmp_path / "o.parquet")
    assert table["id"].to_pylist() == want and table["id"].type == kind
    write_rows(tmp_path / "o.jsonl", parts([{"id": value} for value in values]))
    assert [json.loads(line)["id"] for line in (tmp_path / "o.jsonl").read_text().splitlines()] == values


def test_half_a_character_is_no_end_of_a_csv(tmp_path: Path) -> None:
    write_rows(tmp_path / "o.csv", parts([{"id": "a\ud800", "k\udc80": "\udfff"}]))
    with open(tmp_path / "o.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["id", "k\\udc80"], ["a\\ud800", "\\udfff"]]


def test_what_is_no_file_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "o.csv")
    with pytest.raises(InputError, match="pipe"):
        check_output(tmp_path / "o.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="folder"):
        check_output(tmp_path / "d.csv")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_modes_of_private_files_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    atomic_write_bytes(tmp_path / "a" / "b" / "private", b"x", PRIVATE)
    atomic_write_bytes(tmp_path / "public", b"x")
    make_folder(tmp_path / "own" / "inner", private=True)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert modes.pop("public") == 0o666 & ~umask
    assert modes == {"a": 0o700, "b": 0o700, "private": 0o600, "own": 0o700, "inner": 0o700}


@pytest.mark.parametrize("name", ["o[1].csv", "*.csv", "?.csv", "o.csv"])
def test_only_a_files_own_temporary_files_are_removed(tmp_path: Path, name: str) -> None:
    others = ["o1.csv", "ab.csv", "x.csv", f"{name}.csv", f"{name}.0123abcd"]
    for other in [name, *others]:
        (tmp_path / f".{other}.01234567.part").write_text("")
    (tmp_path / f".{name}.part").write_text("somebody's")
    remove_parts(tmp_path, name)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".{other}.01234567.part" for other in others if other != name} | {f".{name}.part"}


@pytest.mark.parametrize("length", [221, 246, 255])
def test_long_names_leave_room_for_temporary_ones(tmp_path: Path, length: int) -> None:
    name = "\u00e9" * ((length - 4) // 2) + "x" * (length % 2) + ".csv"
    assert len(name.encode()) == length
    write_rows(tmp_path / name, parts([{"id": 1}]))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert short_name(name) != short_name(f"y{name[1:]}") and len(short_name(name).encode()) <= 220


def test_names_that_are_no_utf8_can_be_kept_in_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    write_json(tmp_path / name, {"path": name, "more": "\u00e9"})
    assert read_json(tmp_path / name) == {"path": name, "more": "\u00e9"}
