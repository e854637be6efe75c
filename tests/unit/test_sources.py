"""Reading texts: every format plain and compressed, columns, excluded sources, bad input, flat memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from unembed.data.sources import MAX_LINE, read_texts
from unembed.errors import DataError

TEXTS = ["first text", "zweiter Text mit Ümlaut", "third, with   inner spaces", 'a "quoted" one', "東京"]


def pack(path: Path) -> Path:
    """Compress a file beside itself and remove it."""
    packed = path.with_name(path.name + ".zst")
    packed.write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    path.unlink()
    return packed


def write(folder: Path, kind: str) -> Path:
    """The texts with sources s0, s1, s0, ... in a file of a kind (without sources for .txt)."""
    path = folder / f"part{kind}"
    rows = [{"source": f"s{k % 2}", "text": text} for k, text in enumerate(TEXTS)]
    if kind == ".txt":
        path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    elif kind == ".tsv":
        path.write_text("".join(f"{r['source']}\t{r['text']}\n" for r in rows), encoding="utf-8")
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [".txt", ".tsv", ".jsonl", ".parquet"])
def test_every_format(tmp_path: Path, kind: str, packed: bool) -> None:
    path = write(tmp_path, kind)
    path = pack(path) if packed else path
    sources = ["part"] * 5 if kind == ".txt" else ["s0", "s1", "s0", "s1", "s0"]
    assert list(read_texts(path)) == list(zip(TEXTS, sources, strict=True))
    assert [text for text, _ in read_texts(str(path), exclude_sources=["s1", "part"])] == (
        [] if kind == ".txt" else TEXTS[::2]
    )


def test_a_folder_and_several_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    pack(write(tmp_path, ".tsv"))
    write(tmp_path / "sub", ".parquet")
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / ".hidden.txt").write_text("not read")
    assert [text for text, _ in read_texts(tmp_path)] == TEXTS * 2
    assert len(list(read_texts([tmp_path, write(tmp_path / "sub", ".txt")]))) == 20


def test_columns_by_name_and_index(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("lang\tbody\tid\nde\thallo\t1\nen\thello\t2\n")
    assert list(read_texts(table, column="body")) == [("hallo", "t"), ("hello", "t")]
    assert list(read_texts(table, column="body", source_column="lang")) == [("hallo", "de"), ("hello", "en")]
    assert list(read_texts(table, column=1, source_column=-1))[1:] == [("hallo", "1"), ("hello", "2")]
    three = tmp_path / "three.tsv"
    three.write_text("de\twiki\thallo\n")
    assert list(read_texts(three)) == [("hallo", "wiki")]
    one = tmp_path / "one.tsv"
    one.write_text("alone\n")
    assert list(read_texts(one)) == [("alone", "one")]
    records = tmp_path / "r.jsonl"
    records.write_text('{"body": "hi", "lang": "en"}\n\n["listed", "no"]\n')
    with pytest.raises(DataError, match=r"r\.jsonl, line 3"):
        list(read_texts(records, column="body"))
    assert list(read_texts(records, column=0, source_column=1)) == [("hi", "en"), ("listed", "no")]
    parquet = tmp_path / "p.parquet"
    pq.write_table(pa.table({"n": [1], "body": ["hi"]}), parquet)
    assert list(read_texts(parquet)) == list(read_texts(parquet, column=1)) == [("hi", "p")]
    assert list(read_texts(parquet, column="body", source_column="n")) == [("hi", "1")]


def test_empty_lines_are_skipped_and_line_ends_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n   \ntwo")
    assert [text for text, _ in read_texts(path)] == ["one", "two"]
    (tmp_path / "empty.txt").write_bytes(b"")
    assert list(read_texts(tmp_path / "empty.txt")) == []


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("t.txt", b"good\nbad \xff\n", {}, r"t\.txt, line 2 is not UTF-8"),
        ("t.tsv", b"a\tb\nc\n", {"column": 1}, r"t\.tsv, line 2 has no column 1"),
        ("t.tsv", b"a\tb\n", {"column": "text"}, "no column 'text'"),
        ("t.tsv", b"a\tb\n", {"column": 0, "source_column": 5}, "line 1 has no column 5"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', {}, r"t\.jsonl, line 2 is not JSON"),
        ("t.jsonl", b'{"body": "a"}\n', {}, "line 1 has no 'text'"),
        ("t.jsonl", b'{"text": 3}\n', {}, "line 1: 'text' is int"),
        ("t.jsonl", b'{"text": "\\ud800"}\n', {}, "line 1: 'text' is not valid Unicode"),
        ("t.jsonl", b"3\n", {}, "line 1 has no 'text'"),
        ("t.parquet", b"PAR1 but no", {}, "not a readable parquet"),
        ("t.parquet.zst", b"junk", {}, "not a whole"),
        ("t.txt.zst", b"junk", {}, "not a whole"),
        ("t.csv", b"a", {}, "no known format"),
        ("t.txt", b"x" * (MAX_LINE + 2), {}, "line 1 is longer than 16 MiB"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, name: str, data: bytes, options: dict, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(read_texts(tmp_path / name, **options))


def test_missing_paths_and_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list(read_texts(tmp_path / "absent.txt"))
    with pytest.raises(DataError, match="holds no texts"):
        list(read_texts(tmp_path))
    with pytest.raises(DataError, match="No file"):
        list(read_texts([]))
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"n": [1], "a": ["x"], "b": ["y"]}), path)
    with pytest.raises(DataError, match="none is named 'text'"):
        list(read_texts(path))
    for column, message in (("c", "no column 'c'"), (7, "no column 7"), ("n", "holds no strings")):
        with pytest.raises(DataError, match=message):
            list(read_texts(path, column=column))
    pq.write_table(pa.table({"text": ["x", None]}), path)
    with pytest.raises(DataError, match="row 1 has no text"):
        list(read_texts(path))


def test_a_cut_zst_file_is_noticed(tmp_path: Path) -> None:
    """zstandard's own reader takes a missing end for the end of the file."""
    path = tmp_path / "t.txt"
    path.write_text("".join(f"line {k} {k * k}\n" for k in range(20000)))
    packed = pack(path)
    packed.write_bytes(packed.read_bytes()[:-1000])
    with pytest.raises(DataError, match="its end is missing"):
        list(read_texts(packed))


def test_several_zst_frames_are_one_file(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor().compress
    (tmp_path / "t.txt.zst").write_bytes(frame(b"one\ntw") + frame(b"o\nthree\n"))
    assert [text for text, _ in read_texts(tmp_path / "t.txt.zst")] == ["one", "two", "three"]


@pytest.mark.parametrize("kind", [".tsv.zst", ".parquet"])
def test_memory_does_not_grow(tmp_path: Path, kind: str) -> None:
    def peak(lines: int) -> int:
        path = tmp_path / f"t{lines}{kind}"
        texts = [f"line {k} " + "word " * 10 for k in range(lines)]
        if kind == ".parquet":
            pq.write_table(pa.table({"text": texts}), path, row_group_size=2000)
        else:
            path.write_bytes(zstandard.ZstdCompressor().compress("\n".join(texts).encode()))
        del texts
        tracemalloc.start()
        assert sum(1 for _ in read_texts(path)) == lines
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1000)  # imports
    small, large = peak(10_000), peak(80_000)
    assert large < small * 1.5 + (1 << 20)
