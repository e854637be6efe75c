"""Tables of text as programs export them: every shape gives the same rows, or is refused with the way out."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.stores import read, write
from unembed.errors import InputError
from unembed.stores.opening import open_store
from unembed.stores.reading import BadRow, ReadOptions

ROWS, WIDTH = 3, 24
VECTORS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
LISTS = VECTORS.tolist()
CELLS = [[repr(value) for value in row] for row in LISTS]
TEXTS = ["the train, at nine", 'a "small" bicycle', "please send it"]
COUNTS = list(range(WIDTH))
SORTED = sorted(COUNTS, key=str)


def table(rows: Sequence[Sequence[Any]], delimiter: str = ",", end: str = "\n", **options: Any) -> str:
    """Write rows as the csv module does."""
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=end, **options).writerows(rows)
    return stream.getvalue()


def counted(name: Callable[[int], str], counts: Sequence[int] = COUNTS, ids: bool = True) -> str:
    """One column a number, the names made of counts; columns stand in the order of `counts`."""
    head = [*(["id"] if ids else []), *(name(count) for count in counts)]
    rows = [[*([f"r{i}"] if ids else []), *(row[count] for count in counts)] for i, row in enumerate(CELLS)]
    return table([head, *rows])


def cells(write: Callable[[list[float]], str], head: bool = True) -> str:
    """One column that holds the vector as text."""
    rows = [[f"r{i}", TEXTS[i], write(row)] for i, row in enumerate(LISTS)]
    return table([["id", "text", "embedding"], *rows] if head else rows)


def wide(before: Sequence[Any], delimiter: str = ",", head: Sequence[Any] = (), comma: bool = False) -> str:
    """A table of numbers behind a column, without a header if `head` is empty."""
    rows = [[*([before[i]] if before else []), *row] for i, row in enumerate(CELLS)]
    rows = [[str(cell).replace(".", ",") if comma else cell for cell in row] for row in rows]
    return table([*([head] if head else []), *rows], delimiter)


def numpy_lines(row: list[float]) -> str:
    """Several lines, as numpy prints."""
    return np.array2string(np.array(row), max_line_width=60, floatmode="unique")


R, N, FIRST = ["r0", "r1", "r2"], [0, 1, 2], ["7", "8", "9"]
NAMES = [f"e{i}" for i in COUNTS]
SHAPES: dict[str, tuple[str, str | bytes, list[Any]]] = {
    "counted": ("csv", counted(lambda i: f"e{i}"), R),
    "counted, columns sorted as text": ("csv", counted(lambda i: f"e{i}", SORTED), R),
    "counted backwards": ("csv", counted(lambda i: f"e{i}", COUNTS[::-1]), R),
    "counted with zeros": ("csv", counted(lambda i: f"emb_{i:03d}"), R),
    "counted with a point": ("csv", counted(lambda i: f"dim.{i}", SORTED), R),
    "counted in brackets": ("csv", counted(lambda i: f"embedding[{i}]", SORTED), R),
    "counted before the name": ("csv", counted(lambda i: f"{i}_minilm", SORTED), R),
    "counted from 1": ("csv", counted(lambda i: f"V{i + 1}", SORTED), R),
    "counted behind a number": ("csv", counted(lambda i: f"minilm384_{i}", SORTED), R),
    "names are numbers": ("csv", counted(str, ids=False), N),
    "names are numbers from 1": ("csv", counted(lambda i: str(i + 1), ids=False), N),
    "names are floats": ("csv", counted(lambda i: f"{i}.0", ids=False), N),
    "names are numbers behind an id": ("csv", counted(str), R),
    "names are numbers and sorted": ("csv", counted(str, SORTED), R),
    "pandas index without a name": ("csv", wide(FIRST, head=["", *NAMES]), FIRST),
    "pandas index and numbers": ("csv", wide(FIRST, head=["", *COUNTS]), FIRST),
    "pandas index read again": ("csv", wide(FIRST, head=["Unnamed: 0", *NAMES]), FIRST),
    "R names ids as the vector": ("csv", wide(FIRST, head=[f"V{i + 1}" for i in range(WIDTH + 1)]), FIRST),
    "R names texts as the vector": ("csv", wide(R, head=[f"V{i + 1}" for i in range(WIDTH + 1)]), R),
    "polars names ids as the vector": ("csv", wide(FIRST, head=[f"column_{i + 1}" for i in range(WIDTH + 1)]), FIRST),
    "R gives row names no title": ("csv", wide(R, head=NAMES), R),
    "numbers alone": ("csv", wide([]), N),
    "whole ids and numbers": ("csv", wide(FIRST), FIRST),
    "large ids and numbers": ("csv", wide(["13570027672830659665", "-4", "9"]), ["13570027672830659665", "-4", "9"]),
    "text ids and numbers": ("csv", wide(R), R),
    "ids with a hash": ("csv", wide(["#1", "#2", "#3"]), ["#1", "#2", "#3"]),
    "ids behind the numbers": ("csv", table([[*row, f"r{i}"] for i, row in enumerate(CELLS)]), R),
    "savetxt with a header": ("csv", "# " + wide([], head=NAMES), N),
    "savetxt with comments": ("csv", "# made by hand\n# shape: (3, 24)\n" + wide([]), N),
    "savetxt": ("csv", "\n".join(" ".join(f"{value:.18e}" for value in row) for row in LISTS), N),
    "blanks at both ends": ("csv", "\n".join("  " + "   ".join(row) + " " for row in CELLS), N),
    "word2vec": ("csv", f"3 {WIDTH}\n" + wide(R, " "), R),
    "semicolons": ("csv", wide(FIRST, ";", ["id", *NAMES]), FIRST),
    "semicolons and decimal commas": ("csv", wide(FIRST, ";", ["id", *NAMES], comma=True), FIRST),
    "decimal commas alone": ("csv", wide([], ";", comma=True), N),
    "decimal commas in quotes": ("csv", wide(FIRST, ",", ["id", *NAMES], comma=True), FIRST),
    "decimal commas and tabs": ("tsv", wide(FIRST, "\t", ["id", *NAMES], comma=True), FIRST),
    "decimal commas and blanks": ("csv", wide([], " ", comma=True), N),
    "Excel says which": ("csv", "sep=;\n" + wide(FIRST, ";", ["id", *NAMES]), FIRST),
    "bars": ("csv", wide(FIRST, "|", ["id", *NAMES]), FIRST),
    "tabs in a .csv": ("csv", wide(FIRST, "\t", ["id", *NAMES]), FIRST),
    "commas in a .tsv": ("tsv", wide(FIRST, ",", ["id", *NAMES]), FIRST),
    "a comma ends each row": ("csv", wide(R, head=["id", *NAMES]).replace("\n", ",\n").replace("e23,", "e23"), R),
    "Windows": ("csv", wide(FIRST, head=["id", *NAMES]).replace("\n", "\r\n"), FIRST),
    "old Macintosh": ("csv", wide(FIRST, head=["id", *NAMES]).replace("\n", "\r"), FIRST),
    "byte order mark": ("csv", "\ufeff" + wide(FIRST, head=["id", *NAMES]), FIRST),
    "byte order mark, no header": ("csv", "\ufeff" + wide(FIRST), FIRST),
    "UTF-16": ("tsv", wide(FIRST, "\t", ["id", *NAMES]).encode("utf-16"), FIRST),
    "everything in quotes": (
        "csv",
        table([["id", *NAMES], *([i, *row] for i, row in zip(R, CELLS, strict=True))], quoting=1),
        R,
    ),
    "blank lines": ("csv", wide(FIRST, head=["id", *NAMES]).replace("\n", "\n\n"), FIRST),
    "JSON lists": ("csv", cells(json.dumps), R),
    "JSON lists, no header": ("csv", cells(json.dumps, head=False), R),
    "Postgres arrays": ("csv", cells(lambda row: "{" + ",".join(map(repr, row)) + "}"), R),
    "pgvector by COPY": ("csv", table([[i + 7, TEXTS[i], json.dumps(row)] for i, row in enumerate(LISTS)]), FIRST),
    "pgvector by COPY as text": ("tsv", "".join(f"{i + 7}\t{json.dumps(r)}\n" for i, r in enumerate(LISTS)), FIRST),
    "numpy prints": ("csv", cells(numpy_lines), R),
    "numpy prints, no header": ("csv", cells(numpy_lines, head=False), R),
    "numpy 2": ("csv", cells(lambda row: str([np.float64(value) for value in row])), R),
    "JSON in lines": ("csv", cells(lambda row: json.dumps(row, indent=1)), R),
    "base64": ("csv", cells(lambda row: base64.b64encode(np.array(row, "<f4").tobytes()).decode()), R),
    "lists without quotes": ("csv", "id,embedding\n" + "".join(f"r{i},{row}\n" for i, row in enumerate(LISTS)), R),
    "lists without quotes or header": ("csv", "".join(f"r{i},{row}\n" for i, row in enumerate(LISTS)), R),
    "lists between semicolons": ("csv", "id;embedding\n" + "".join(f"r{i};{row}\n" for i, row in enumerate(LISTS)), R),
    "lists between semicolons, no header": ("csv", "".join(f"r{i};{row}\n" for i, row in enumerate(LISTS)), R),
    "lists alone": ("csv", "".join(f'"{row}"\n' for row in LISTS), N),
    "lists alone with a header": ("csv", "embedding\n" + "".join(f'"{row}"\n' for row in LISTS), N),
    "lists and a label": ("csv", table([["label", "v"], *([1, str(row)] for row in LISTS)]), N),
    "lists and small lists": ("csv", table([["box", "v"], *(["[1, 2]", str(row)] for row in LISTS)]), N),
    "lists and token ids": ("csv", table([["tokens", "v"], *([str(COUNTS), str(row)] for row in LISTS)]), N),
    "two families": ("csv", table([[*NAMES, "s1", "s2"], *([*row, "5", "6"] for row in CELLS)]), N),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_its_rows(tmp_path: Path, name: str) -> None:
    ending, text, ids = SHAPES[name]
    path = write(tmp_path / f"a.{ending}", text)
    notes: list[str] = []
    vectors, names, metadata = read(path, on_note=notes.append)
    np.testing.assert_allclose(vectors, VECTORS, rtol=2e-7)
    assert names == ids and notes == []
    if "text" in metadata:
        assert metadata["text"] == TEXTS


REFUSED: dict[str, tuple[str, str, list[str]]] = {
    "a gap in the counts": ("csv", counted(lambda i: f"e{i + (i > 4)}"), ["lack e5", "--column"]),
    "a count twice": ("csv", counted(lambda i: f"e{max(i, 1)}"), ["two columns counted e1"]),
    "counts without a beginning": ("csv", counted(lambda i: f"e{i + 3}"), ["lack e2"]),
    "two vectors": (
        "csv",
        table([[*NAMES, *(f"f{i}" for i in COUNTS)], *(row * 2 for row in CELLS)]),
        ["e (24 co", "f (24 co"],
    ),
    "a header without rows": ("csv", "id,embedding\n", ["header and no rows"]),
    "numbers as a header without rows": ("csv", ",".join(map(str, COUNTS)) + "\n", ["header and no rows"]),
    "a header of years": (
        "csv",
        table([["2019", "x", "2020", "2021"], ["1.5", "a", "2.5", "3.5"]]),
        ["--header", "--no-header"],
    ),
    "an id or a number": ("csv", ",".join(["0", *CELLS[0]]), ["'0'", "--id-column 0", "0-24"]),
    "cut by a spreadsheet": (
        "csv",
        cells(lambda row: json.dumps(row)[:-30]),
        ["'embedding' begins with '[0.12", "no ] at the end"],
    ),
    "shortened by numpy": ("csv", cells(lambda row: str(np.tile(row, 60))), ["'...'", "embedding"]),
    "several vectors in a cell": ("csv", cells(lambda row: json.dumps([row, row])), ["several lists"]),
    "words": (
        "csv",
        table([["id", "text"], *zip(R, TEXTS, strict=True)]),
        ["columns are: id, text", "'text' begins with"],
    ),
    "token ids": (
        "csv",
        table([["input_ids"], *([str([i * 900 for i in COUNTS])] for _ in R)]),
        ["token ids", "--column"],
    ),
    "decimal commas between commas": ("csv", wide([], ",", comma=True).replace('"', ""), ["whole numbers"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused(tmp_path: Path, name: str) -> None:
    ending, text, parts = REFUSED[name]
    with pytest.raises(InputError) as caught:
        read(write(tmp_path / f"a.{ending}", text))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600 and caught.value.what.endswith(".")
    assert [part for part in parts if part not in message] == [], message


def test_options_say_what_is_not_clear(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",".join(["0", *CELLS[0]]))
    for options, count in (({"id_column": "0"}, 24), ({"column": "1-24"}, 24), ({"column": "0-24"}, 25)):
        vectors, ids, _ = read(path, **options)
        assert vectors.shape == (1, count) and ids == (["0"] if count == 24 else [0])
    years = write(tmp_path / "b.csv", table([["2019", "x", "2020", "2021"], ["1.5", "a", "2.5", "3.5"]]))
    assert read(years, header=False, column="2-3")[0].tolist() == [[2020, 2021], [2.5, 3.5]]
    assert read(years, header=True, column="2-3")[0].tolist() == [[2.5, 3.5]]
    numbers = write(tmp_path / "c.csv", wide([]))
    assert len(read(numbers, header=True, column="0-23")[0]) == 2, "what was said holds"
    many = write(tmp_path / "d.csv", counted(lambda i: f"e{i + (i > 4)}"))
    np.testing.assert_allclose(read(many, column="1-24")[0], VECTORS, rtol=2e-7)
    two = write(tmp_path / "e.csv", table([[*NAMES, *(f"f_{i}" for i in COUNTS)], *(row * 2 for row in CELLS)]))
    for asked in ("f", "f_", "e"):
        np.testing.assert_allclose(read(two, column=asked)[0], VECTORS, rtol=2e-7)


LONE = ['"a quote', 'b "quoted" word', '"', '5" disk', '"whole"', 'two "" quotes', "plain", '"open ""again']


@pytest.mark.parametrize("ending", ["tsv", "csv"])
@pytest.mark.parametrize("last", [True, False])
def test_a_lone_quote_swallows_no_row(tmp_path: Path, ending: str, last: bool) -> None:
    delimiter = "\t" if ending == "tsv" else ","
    rows = [(f"r{i}", "[" + " ".join(CELLS[i % 3]) + "]", text) for i, text in enumerate(LONE * 2)]
    lines = [delimiter.join((i, v, t) if last else (i, t, v)) for i, v, t in rows]
    head = ("id", "embedding", "text") if last else ("id", "text", "embedding")
    path = write(tmp_path / f"a.{ending}", "\n".join([delimiter.join(head), *lines]))
    vectors, ids, metadata = read(path)
    assert ids == [f"r{i}" for i in range(len(rows))]
    np.testing.assert_allclose(vectors, VECTORS[[i % 3 for i in range(len(rows))]], rtol=2e-7)
    if ending == "tsv":
        assert metadata["text"] == [text if text != '"whole"' else "whole" for text in LONE * 2]


@pytest.mark.parametrize("ending", ["tsv", "csv"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_quoted_delimiters_and_lines_belong_to_their_field(tmp_path: Path, ending: str, place: int) -> None:
    delimiter = "\t" if ending == "tsv" else ","
    texts = [f'a{delimiter}b\n"c"\nd', f"\n0{delimiter}1{delimiter}2\n", f"x{delimiter}", '"', "\n", "", '"\n"'] * 2
    rows = []
    for i, text in enumerate(texts):
        row = [f"r{i}", str(LISTS[i % 3])]
        row.insert(place, text)
        rows.append(row)
    head = ["id", "embedding"]
    head.insert(place, "text")
    path = write(tmp_path / f"a.{ending}", table([head, *rows], delimiter))
    _, ids, metadata = read(path)
    assert ids == [f"r{i}" for i in range(len(texts))] and metadata["text"] == texts


def test_rows_without_a_vector(tmp_path: Path) -> None:
    for first, ending in (("", "csv"), ("NULL", "csv"), ("\\N", "tsv"), ("[]", "csv")):
        delimiter = "\t" if ending == "tsv" else ","
        rows = [["r0", first], *([f"r{i + 1}", str(row)] for i, row in enumerate(LISTS))]
        for head in ([["id", "embedding"]], []):
            path = write(tmp_path / f"a.{ending}", table([*head, *rows, ["r4", first]], delimiter))
            with pytest.raises(InputError, match=rf"Row 0 of .*line {1 + len(head)}.* no vector in .*--skip-bad"):
                read(path)
            bad: list[BadRow] = []
            vectors, ids, _ = read(path, on_bad=bad.append)
            np.testing.assert_allclose(vectors, VECTORS, rtol=2e-7)
            assert ids == ["r1", "r2", "r3"] and {part.row for part in bad} == {0, 4}
    late = [*([["r", ""]] * 300), *([f"r{i}", str(row)] for i, row in enumerate(LISTS))]
    assert read(write(tmp_path / "b.csv", table([["id", "v"], *late])), on_bad=lambda row: None)[1] == R


def test_bad_lines_are_named(tmp_path: Path) -> None:
    text = table([["id", *NAMES], *([i, *row] for i, row in zip(R, CELLS, strict=True))])
    head = text.split("\n")[0]
    for line, said in (
        ("r3,1,2", "has 3 fields"),
        (head, "repeats the header"),
        ("," * WIDTH, "not a number in column 'e0'"),
    ):
        path = write(tmp_path / "a.csv", f"{text}{line}\n{text.split()[-1]}\n")
        with pytest.raises(InputError, match=f"Line 5 of .*{said}"):
            read(path)
        assert read(path, on_bad=lambda row: None)[1] == ["r0", "r1", "r2", "r2"]


def test_a_decimal_comma_among_points_is_named(tmp_path: Path) -> None:
    """Found by the fuzz script."""
    rows = [[cell.replace(".", ",") if i == 2 else cell for i, cell in enumerate(row)] for row in CELLS[:1]]
    text = "\n".join(" ".join(row) for row in [*CELLS, *rows])
    with pytest.raises(InputError, match=r"Line 4 of .*not a number in column '2'"):
        read(write(tmp_path / "a.csv", text))


def test_bytes_that_are_not_utf8_harm_only_where_they_are_used(tmp_path: Path) -> None:
    text = table([["id", "name", *NAMES], *([i, "Zoë", *row] for i, row in zip(R, CELLS, strict=True))])
    path = write(tmp_path / "a.csv", text.encode("latin-1"))
    vectors, ids, metadata = read(path, wanted=frozenset())
    np.testing.assert_allclose(vectors, VECTORS, rtol=2e-7)
    assert ids == R and list(metadata) == []
    for options in ({}, {"wanted": frozenset(["name"])}):
        with pytest.raises(InputError, match=r"Line 2 of .* not UTF-8 in column 'name'.*iconv"):
            read(path, **options)
    with pytest.raises(InputError, match="no column named 'other' besides ids and vectors"):
        read(path, wanted=frozenset(["other"]))


def test_many_columns(tmp_path: Path) -> None:
    names = [f"e{i}" for i in range(10_000)] + [f"name of {i} x" for i in range(10_000)]
    row = ["0.5", "-0.5"] * 5000 + ["word"] * 10_000
    path = write(tmp_path / "a.csv", "\n".join(map(",".join, (names, row, row))))
    batch = next(open_store(path, reading=ReadOptions(wanted=frozenset())).batches())
    assert batch.vectors.shape == (2, 10_000)
    with pytest.raises(InputError, match="more than"):
        read(write(tmp_path / "b.csv", "," * (1 << 21)))


def test_batches_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.stores.text.lines.READ_BYTES", 10_000)
    path = write(tmp_path / "a.csv", table([["id", "t", "v"], *([i, "x" * 900, str(LISTS[0])] for i in range(10))]))
    assert [len(batch) for batch in open_store(path).batches()] == [3, 3, 3, 1]
    assert [len(batch) for batch in open_store(path, reading=ReadOptions(wanted=frozenset())).batches()] == [10]
