"""Nothing is lost or misread in silence: rows that look like comments, ids, the order of answers, odd numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed.errors import InputError
from unembed.stores.opening import open_store
from unembed.stores.reading import BadRow, ReadOptions
from unembed.stores.text.delimited import split_rows

WIDTH = 24
VECTORS = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
A, B, C = VECTORS.tolist()
ARABIC = str.maketrans("0123456789", "".join(chr(0x660 + digit) for digit in range(10)))


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> tuple[np.ndarray, list[Any]]:
    """Return the vectors and the ids of a file."""
    parts = list(open_store(path, reading=ReadOptions(**options)).batches())
    return np.concatenate([part.vectors for part in parts]), [i for part in parts for i in part.ids]


@pytest.mark.parametrize("before", ["", "# made by a program\n", "#text,embedding\n", "# made\n# text,embedding\n"])
@pytest.mark.parametrize("other", ["plain", "#tag two"])
def test_a_row_may_begin_with_the_mark_of_comments(tmp_path: Path, before: str, other: str) -> None:
    text = f'{before}#tag one,"{A}"\n{other},"{B}"\nlast,"{C}"\n'
    vectors, _ = read(save(tmp_path / "a.csv", text))
    np.testing.assert_allclose(vectors, VECTORS, rtol=2e-7)


def test_comments_before_the_rows_are_no_rows(tmp_path: Path) -> None:
    for comment in ("# a, b", "# [1, 2]", "#"):
        text = f'{comment}\nplain,"{A}"\nlast,"{B}"\n'
        np.testing.assert_allclose(read(save(tmp_path / "a.csv", text))[0], VECTORS[:2], rtol=2e-7)


class Counted(str):
    """A field that counts how often the blanks behind it are looked for."""

    looked = 0

    def rstrip(self, chars: str | None = None) -> str:
        Counted.looked += 1
        return super().rstrip(chars)


@pytest.mark.parametrize("line", ["[," * 4000, "[," * 4000 + "]", "[,]," * 4000])
def test_brackets_are_looked_at_once(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(
        "unembed.stores.text.delimited._plain", lambda line, d: [Counted(part) for part in line.split(d)]
    )
    Counted.looked = 0
    ((_, fields),) = split_rows([line], ",", 3, "a.csv")
    assert ",".join(fields) == line and Counted.looked == len(fields)


def test_a_vector_that_was_cut_at_its_commas(tmp_path: Path) -> None:
    vectors, ids = read(save(tmp_path / "a.csv", f"id,v\n[x,{A}\nb,{B}\n"))
    np.testing.assert_allclose(vectors, VECTORS[:2], rtol=2e-7)
    assert ids == ["[x", "b"]


@pytest.mark.parametrize("odd", ["1_0", "1_0.5", "12".translate(ARABIC), "\uff11.5"])
def test_numbers_have_the_digits_0_to_9(tmp_path: Path, odd: str) -> None:
    wide = "\n".join(",".join(["r", *map(str, row)]) for row in (A, B, C))
    wide = ",".join(["id", *(f"e{i}" for i in range(WIDTH))]) + f"\n{wide}\nx,{odd},{','.join(map(str, A[1:]))}\n"
    cell = f'id,v\na,"{A}"\nx,"[{odd}, {str(A[1:])[1:]}"\n'
    for text in (wide, cell):
        with pytest.raises(InputError, match=f"{odd}"):
            read(save(tmp_path / "a.csv", text))
        assert "x" not in read(save(tmp_path / "a.csv", text), on_bad=lambda row: None)[1]
    parts = [list(map(repr, A)), [odd, *map(repr, A[1:])]]
    pq.write_table(pa.table({"id": ["a", "x"], "v": parts}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"Row 1 .*not a number"):
        read(tmp_path / "a.parquet")


def test_blanks_around_numbers_are_of_any_kind(tmp_path: Path) -> None:
    text = "id,e0,e1\na,\u00a0.5,.25\nb,1,\u2003-2\n"
    assert read(save(tmp_path / "a.csv", text))[0].tolist() == [[0.5, 0.25], [1, -2]]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_answers_stand_in_the_order_of_their_index(tmp_path: Path, order: list[int]) -> None:
    body = {"data": [{"index": i, "embedding": VECTORS[i].tolist()} for i in order]}
    for value, names in ((body, [0, 1, 2]), ({"custom_id": "r", "body": body}, ["r[0]", "r[1]", "r[2]"])):
        vectors, ids = read(save(tmp_path / "a.jsonl", json.dumps(value) + "\n"))
        np.testing.assert_allclose(vectors, VECTORS, rtol=2e-7)
        assert ids == names


def test_ids_of_another_number_are_refused(tmp_path: Path) -> None:
    for value in ({"ids": ["a", "b", "c"], "embeddings": [A, B]}, {"r": {"ids": ["a"], "embeddings": [A, B]}}):
        path = save(tmp_path / "a.json", json.dumps(value))
        with pytest.raises(InputError, match=r"Line 1 of .* has [13] 'ids' and 2 vectors\. Give as many"):
            read(path)
    good = {"ids": ["x", "y"], "embeddings": [B, C]}
    pages = save(tmp_path / "a.jsonl", f"{json.dumps(good)}\n{json.dumps({'ids': ['a'], 'embeddings': [A, B]})}\n")
    bad: list[BadRow] = []
    assert read(pages, on_bad=bad.append)[1] == ["x", "y"] and [part.row for part in bad] == [2, 3]
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["embeddings"], file["ids"] = VECTORS, np.arange(2)
    notes: list[str] = []
    assert read(tmp_path / "a.h5", on_note=notes.append)[1] == [0, 1, 2]
    assert "'ids'" in notes[0] and "Rows are numbered" in notes[0]


def test_ids_in_records_say_more_than_their_keys(tmp_path: Path) -> None:
    records = {str(i): {"id": name, "embedding": row} for i, (name, row) in enumerate(zip("ab", (A, B), strict=True))}
    assert read(save(tmp_path / "a.json", json.dumps(records)))[1] == ["a", "b"]
    for record in records.values():
        record["id"] = "same"
    assert read(save(tmp_path / "a.json", json.dumps(records)))[1] == ["0", "1"]


def test_an_empty_page_has_no_rows(tmp_path: Path) -> None:
    page = json.dumps({"data": [{"id": "a", "embedding": A}]})
    path = save(tmp_path / "a.jsonl", '{"data": []}\n' + page + '\n{"data": []}\n')
    assert read(path)[1] == ["a"]
    failed = json.dumps({"custom_id": "q", "data": []})
    with pytest.raises(InputError, match=r"Row 1 .*no vector"):
        read(save(tmp_path / "a.jsonl", json.dumps({"custom_id": "p", "data": [{"embedding": A}]}) + f"\n{failed}\n"))


def test_counted_columns_beside_a_column_of_vectors(tmp_path: Path) -> None:
    path, cells = tmp_path / "a.parquet", [str(A), str(B)]
    years = {"year_1": [1, 2], "year_2": [3, 4]}
    for name in ("embedding", "words"):
        pq.write_table(pa.table({**years, name: cells}), path)
        np.testing.assert_allclose(read(path)[0], VECTORS[:2], rtol=2e-7)
    wide = {f"e{i}": [A[i], B[i]] for i in range(WIDTH)}
    pq.write_table(pa.table({**wide, "words": cells}), path)
    with pytest.raises(InputError, match="several columns that hold vectors"):
        read(path)
    pq.write_table(pa.table({**wide, "box": ["[1, 2, 3, 4]", "[5, 6, 7, 8]"], "text": ["a", "b"]}), path)
    np.testing.assert_allclose(read(path)[0], VECTORS[:2], rtol=2e-7)


def test_the_first_of_counted_columns_may_hold_ids(tmp_path: Path) -> None:
    path, wide = tmp_path / "a.parquet", {str(i + 1): [A[i], B[i]] for i in range(WIDTH)}
    pq.write_table(pa.table({"0": [17, 4], **wide}), path)
    vectors, ids = read(path)
    np.testing.assert_allclose(vectors, VECTORS[:2], rtol=2e-7)
    assert ids == [17, 4]
    for first in ([0, 0], [0.5, 0.25]):
        pq.write_table(pa.table({"0": first, **wide}), path)
        assert read(path)[0].shape == (2, WIDTH + 1)
