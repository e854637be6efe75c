"""Interrupted output: finished rows are kept, nothing is doubled, the file is the same."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from unembed.cli.chunks import Chunks, partial_folder, refuse_partial
from unembed.cli.output import write_rows
from unembed.errors import DataError, InputError

ROWS = [{"id": i, "text": f"=text {i}", "confidence": i / 7, "tokens": ["a", "b"], "p_exact": None} for i in range(10)]
SETTINGS = {"model": "abc", "options": {"beam": 4}}


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_resumed_file_equals_an_unbroken_one(tmp_path: Path, ending: str) -> None:
    """Whatever chunk the first run ended after, and whether or not a chunk was cut by a kill."""
    whole = tmp_path / f"whole{ending}"
    write_rows(whole, lambda: (ROWS[start : start + 3] for start in range(0, 10, 3)))
    for stop in range(4):
        out = tmp_path / f"out{stop}{ending}"
        with Chunks(out, SETTINGS) as first:
            for start in range(0, 3 * stop, 3):
                first.write(ROWS[start : start + 3])
        partial_folder(out).mkdir(exist_ok=True)
        cut = "chunk-0000009.rows" if stop else "settings.json"
        (partial_folder(out) / f".{cut}.0123abcd.part").write_text("{")  # what a kill leaves behind
        assert not out.exists()
        second = Chunks(out, SETTINGS)
        assert second.done == 3 * stop
        for start in range(second.done, 10, 3):
            second.write(ROWS[start : start + 3])
        second.finish()
        assert out.read_bytes() == whole.read_bytes()
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert not partial_folder(out).exists()


def test_chunks_come_half_a_second_apart_and_none_is_lost(tmp_path: Path) -> None:
    """The first rows are on the disk at once; an exception keeps the others too; without rows the folder goes."""
    out = tmp_path / "o.csv"
    with pytest.raises(KeyError), Chunks(out, SETTINGS) as chunks:
        chunks.write(ROWS[:1])
        assert len(list(chunks.folder.glob("chunk-*"))) == 1
        for row in ROWS[1:6]:
            chunks.write([row])
        assert len(list(chunks.folder.glob("chunk-*"))) < 6
        raise KeyError
    with Chunks(out, SETTINGS) as again:
        assert again.done == 6
    with pytest.raises(KeyError), Chunks(tmp_path / "other.csv", SETTINGS):
        raise KeyError
    assert not partial_folder(tmp_path / "other.csv").exists()


def test_chunks_of_a_finished_run_are_not_taken_for_a_new_one(tmp_path: Path) -> None:
    """A kill while the folder is removed leaves chunks, and settings that say so."""
    out = tmp_path / "o.jsonl"
    with Chunks(out, SETTINGS) as chunks:
        chunks.write(ROWS[:3])
    said = json.loads((chunks.folder / "settings.json").read_text())
    (chunks.folder / "settings.json").write_text(json.dumps({**said, "finished": True}))
    with Chunks(out, {**SETTINGS, "model": "xyz"}) as again:
        assert again.done == 0
        again.write(ROWS[5:6])
        again.finish()
    assert len(out.read_text().splitlines()) == 1


def test_rows_that_were_skipped_count_as_done(tmp_path: Path) -> None:
    """A chunk says how many input rows it covers."""
    out = tmp_path / "o.jsonl"
    Chunks(out, SETTINGS).write(ROWS[:2], covered=5)
    again = Chunks(out, SETTINGS)
    assert again.done == 5
    again.finish()
    assert len(out.read_text().splitlines()) == 2


def test_the_folder_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """Finished rows are not lost by a second run without --resume, nor mixed with rows of other settings."""
    out = tmp_path / "o.csv"
    Chunks(out, SETTINGS).write(ROWS[:2])
    folder = partial_folder(out)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with pytest.raises(InputError, match=r"interrupted run.*--resume"):
        refuse_partial(out)
    with pytest.raises(InputError, match="had model 'abc', not 'xyz'"):
        Chunks(out, {**SETTINGS, "model": "xyz"})
    (folder / "chunk-0000000.rows").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        Chunks(out, SETTINGS)


def test_nothing_is_refused_where_nothing_waits(tmp_path: Path) -> None:
    """A first run begins."""
    refuse_partial(tmp_path / "o.csv")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """One sentence on what, one on what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        Chunks(tmp_path / "file" / "o.csv", SETTINGS)
