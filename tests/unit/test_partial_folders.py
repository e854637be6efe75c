"""Partial folders are a run's own: nothing else is removed, one run at a time holds them, and they know their input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unembed.cli.chunks import Chunks, partial_folder, refuse_partial
from unembed.errors import DataError, InputError
from unembed.files import Lock

SETTINGS = {"model": "abc"}
ROWS = [{"id": i, "text": f"text {i}"} for i in range(6)]


def begin(out: Path, count: int = 3, **settings: object) -> None:
    """A run that stops behind `count` rows."""
    with Chunks(out, {**SETTINGS, **settings}) as chunks:
        for i in range(count):
            chunks.write([ROWS[i]], seen=[b"row %d" % i])
            chunks.flush()


def users_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def users_link(path: Path) -> None:
    users_folder(path.with_name("elsewhere"))
    path.symlink_to("elsewhere", target_is_directory=True)


def users_file(path: Path) -> None:
    path.write_text("mine")


def users_settings(path: Path) -> None:
    path.mkdir()
    (path / "settings.json").write_text('{"editor": "vi"}')
    (path / "chunk-0000000.rows").write_text("mine")


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [users_folder, users_link, users_file, users_settings, broken_link])
def test_what_is_not_ours_stays(tmp_path: Path, make: object) -> None:
    """A folder, a link, a file of that name; refused before any work, and nothing is removed."""
    out = tmp_path / "o.csv"
    make(partial_folder(out))  # type: ignore[operator]
    before = sorted((str(p), p.read_text() if p.is_file() else "") for p in tmp_path.rglob("*"))
    for call in (lambda: refuse_partial(out), lambda: Chunks(out, SETTINGS)):
        with pytest.raises(InputError, match=r"o\.csv\.partial.*Move it away"):
            call()
    assert sorted((str(p), p.read_text() if p.is_file() else "") for p in tmp_path.rglob("*")) == before


def test_what_somebody_put_into_the_folder_stays(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    begin(out)
    (partial_folder(out) / "notes.txt").write_text("mine")
    with Chunks(out, SETTINGS) as chunks:
        for i in range(3):
            chunks.reread(i, b"row %d" % i)
        chunks.finish()
    assert len(out.read_text().splitlines()) == 3
    assert [path.name for path in partial_folder(out).iterdir()] == ["notes.txt"]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """Also another process, and whoever only looks; a run that ended, however it did, is in nobody's way."""
    out = tmp_path / "o.csv"
    begin(out)
    code = (
        "import sys, time; from unembed.cli.chunks import Chunks\n"
        f"chunks = Chunks({str(out)!r}, {SETTINGS!r}); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        for call in (lambda: refuse_partial(out), lambda: Chunks(out, SETTINGS)):
            with pytest.raises(InputError, match="Another run is writing"):
                call()
        holder.kill()
    with pytest.raises(InputError, match="interrupted run"):
        refuse_partial(out)
    with Chunks(out, SETTINGS) as chunks:
        assert chunks.done == 3
    assert not [path for path in partial_folder(out).iterdir() if path.name == ".lock"]


def test_a_lock_is_free_again(tmp_path: Path) -> None:
    with Lock(tmp_path / ".lock", "x"):
        with pytest.raises(InputError, match="Another run is writing x"):
            Lock(tmp_path / ".lock", "x")
    assert not (tmp_path / ".lock").exists()
    Lock(tmp_path / ".lock", "x").release()
    with pytest.raises(DataError, match="Cannot write"):
        Lock(tmp_path / "absent" / ".lock", "x")


@pytest.mark.parametrize(
    "seen",
    [
        [b"row 0", b"row X", b"row 2"],  # another row
        [b"row 1", b"row 0", b"row 2"],  # another order
        [b"row 0", b"row 1"],  # fewer
        [],
    ],
)
def test_rows_of_another_input_are_not_mixed(tmp_path: Path, seen: list[bytes]) -> None:
    out = tmp_path / "o.csv"
    begin(out)
    with pytest.raises(InputError, match=r"first \d rows of the input are not those"), Chunks(out, SETTINGS) as chunks:
        for i, row in enumerate(seen):
            chunks.reread(i, row)
        chunks.write([ROWS[3]], seen=[b"row 3"])
    assert not out.exists() and len(list(partial_folder(out).glob("chunk-*"))) == 3, "nothing was added or lost"


def test_rows_may_be_added_behind(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "o.csv"
    begin(whole, 6)
    begin(out)
    for path, done in ((whole, 6), (out, 3)):
        with Chunks(path, SETTINGS) as chunks:
            for i in range(done):
                chunks.reread(i, b"row %d" % i)
            for i in range(done, 6):
                chunks.write([ROWS[i]], seen=[b"row %d" % i])
            chunks.finish()
    assert out.read_bytes() == whole.read_bytes()


DAMAGE = {
    "cut": lambda data: data[:-3],
    "another row": lambda data: data.replace(b"text 1", b"text 9"),
    "no head": lambda data: data.split(b"\n", 1)[1],
    "empty": lambda data: b"",
    "null": lambda data: b"null\nnull\n",
    "deep": lambda data: b"[" * 100_000 + b"\n",
    "not UTF-8": lambda data: b"\xff\xfe\n" + data,
    "rows are text": lambda data: data.replace(b'"rows": 1', b'"rows": "1"'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_chunk_is_two_sentences(tmp_path: Path, name: str) -> None:
    out = tmp_path / "o.csv"
    begin(out)
    path = partial_folder(out) / "chunk-0000001.rows"
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    with pytest.raises(DataError, match=r"chunk-0000001\.rows is damaged"):
        Chunks(out, SETTINGS)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "[" * 100_000, '{"format": "unembed"}'])
def test_damaged_settings_are_two_sentences(tmp_path: Path, text: str) -> None:
    out = tmp_path / "o.csv"
    begin(out)
    (partial_folder(out) / "settings.json").write_text(text)
    with pytest.raises((InputError, DataError)):
        Chunks(out, SETTINGS)
    assert len(list(partial_folder(out).glob("chunk-*"))) == 3


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_rows_are_kept_where_the_file_cannot_be_made(tmp_path: Path, ending: str) -> None:
    """The error says where they are, and they can be read there."""
    out = tmp_path / f"o{ending}"
    with pytest.raises(InputError, match=rf"is a folder.*3 finished rows are kept in .*o{ending}\.partial"):
        with Chunks(out, SETTINGS) as chunks:
            chunks.write(ROWS[:3])
            out.mkdir()  # by somebody else, meanwhile
            chunks.finish()
    kept = (partial_folder(out) / "chunk-0000000.rows").read_text().splitlines()
    assert [json.loads(line) for line in kept[1:]] == ROWS[:3]


@pytest.mark.parametrize("name", ["x" * 242 + ".csv", os.fsdecode(b"caf\xe9.csv"), "a\nb.csv", "o[1].csv"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    begin(out, vectors=name)
    with Chunks(out, {**SETTINGS, "vectors": name}) as chunks:
        for i in range(3):
            chunks.reread(i, b"row %d" % i)
        chunks.finish()
    assert [path.name for path in tmp_path.iterdir()] == [name]
