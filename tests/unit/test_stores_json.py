"""JSON as programs write it: lines, arrays, answers of APIs and exports; every shape gives the same rows."""

from __future__ import annotations

import base64
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.stores import read, write
from unembed.errors import InputError
from unembed.stores.opening import open_store
from unembed.stores.reading import BadRow

ROWS, WIDTH = 3, 24
VECTORS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
LISTS = VECTORS.tolist()
TEXTS = ["the train, at nine", 'a "small" bicycle', "please send\nit"]
R, N = ["r0", "r1", "r2"], [0, 1, 2]
B64 = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in VECTORS]
ALL = list(zip(R, TEXTS, LISTS, strict=True))


def lines(*values: Any) -> str:
    """One value a line."""
    return "".join(json.dumps(value) + "\n" for value in values)


def answer(vectors: list[Any], begin: int = 0) -> dict[str, Any]:
    """What an endpoint of OpenAI's kind answers."""
    data = [{"object": "embedding", "index": begin + i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def batch(name: str, *vectors: Any) -> dict[str, Any]:
    """A line of what OpenAI's batches write."""
    response = {"status_code": 200, "request_id": "q", "body": answer(list(vectors))}
    return {"id": f"batch_{name}", "custom_id": name, "response": response, "error": None}


RECORDS = [{"id": i, "text": t, "embedding": v} for i, t, v in ALL]
POINTS = [{"id": i, "payload": {"text": t}, "vector": v, "shard_key": None} for i, t, v in ALL]
HITS = [{"_index": "a", "_id": i, "_score": 1.0, "_source": {"text": t, "embedding": v}} for i, t, v in ALL]
NAMED = [{"id": i, "payload": {"text": t}, "vector": {"title": v, "body": [-n for n in v]}} for i, t, v in ALL]
DOCUMENTS = {i: {"id": i, "vector": v, "text": t, "metadata": {}} for i, t, v in ALL}
WEAVIATE = [{"class": "Doc", "id": i, "properties": {"text": t}, "vectors": {"default": v}} for i, t, v in ALL]
GRAPHQL = {"data": {"Get": {"Doc": [{"text": t, "_additional": {"id": i, "vector": v}} for i, t, v in ALL]}}}
CHROMA = {
    "ids": R,
    "embeddings": LISTS,
    "documents": TEXTS,
    "metadatas": [{"a": 1}] * 3,
    "data": None,
    "included": ["a"],
}
LLAMA = {"embedding_dict": dict(zip(R, LISTS, strict=True)), "text_id_to_ref_doc_id": dict.fromkeys(R, "d")}
COLUMNS = {"id": dict(zip("012", R, strict=True)), "v": dict(zip("012", LISTS, strict=True))}
SPLIT = {"columns": ["id", "v"], "index": N, "data": [[i, v] for i, _, v in ALL]}
GOOGLE = {"predictions": [{"embeddings": {"values": v, "statistics": {"token_count": 5}}} for v in LISTS]}

SHAPES: dict[str, tuple[str, list[Any], str | None]] = {
    "records": (lines(*RECORDS), R, "text"),
    "lists": (lines(*LISTS), N, None),
    "lists in lists": (lines(*([v] for v in LISTS)), N, None),
    "an array of records": (json.dumps(RECORDS), R, "text"),
    "an array of records, indented": (json.dumps(RECORDS, indent=2), R, "text"),
    "an array, a record a line": ("[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n", R, "text"),
    "an array of lists": (json.dumps(LISTS), N, None),
    "an array of lists, indented": (json.dumps(LISTS, indent=1), N, None),
    "records, indented": ("\n".join(json.dumps(record, indent=4) for record in RECORDS), R, "text"),
    "records of compact output": (lines(*([i, t, v] for i, t, v in ALL)), R, "1"),
    "records of compact output in base64": (lines(*zip(R, B64, strict=True)), R, None),
    "text": (lines(*({"id": i, "embedding": json.dumps(v)} for i, _, v in ALL)), R, None),
    "strings": (lines(*({"id": i, "embedding": list(map(str, v))} for i, _, v in ALL)), R, None),
    "base64": (lines(*({"id": i, "embedding": v} for i, v in zip(R, B64, strict=True))), R, None),
    "token ids beside": (lines(*({"id": i, "input_ids": list(range(101, 125)), "out": v} for i, _, v in ALL)), R, None),
    "a box beside, and first alone": (
        lines({"id": "x", "v": None, "box": [1, 2, 3, 4]}, *({"id": i, "v": v} for i, _, v in ALL)),
        R,
        None,
    ),
    "an answer": (lines(answer(LISTS)), N, None),
    "an answer, indented": (json.dumps(answer(LISTS), indent=2), N, None),
    "an answer in base64": (lines(answer(B64)), N, None),
    "a batch": (lines(*(batch(i, v) for i, _, v in ALL)), R, None),
    "a batch of lists": (lines(batch("r", *LISTS)), ["r[0]", "r[1]", "r[2]"], None),
    "Cohere": (json.dumps({"id": "q", "texts": TEXTS, "embeddings": LISTS}), ["q[0]", "q[1]", "q[2]"], "texts"),
    "Cohere 2": (json.dumps({"texts": TEXTS, "embeddings": {"float": LISTS, "int8": [[1, -2] * 12] * 3}}), N, "texts"),
    "Google": (json.dumps(GOOGLE), N, None),
    "Titan": (lines(*({"embedding": v, "embeddingsByType": {"float": v}} for v in LISTS)), N, None),
    "Ollama": (json.dumps({"model": "m", "embeddings": LISTS}), N, None),
    "Qdrant": (json.dumps({"result": {"points": POINTS, "next_page_offset": None}, "status": "ok"}), R, "payload.text"),
    "Qdrant, a point a line": (lines(*POINTS), R, None),
    "Pinecone": (
        json.dumps({"vectors": [{"id": i, "values": v, "metadata": {"text": t}} for i, t, v in ALL]}),
        R,
        None,
    ),
    "Pinecone by ids": (
        json.dumps({"vectors": {i: {"id": i, "values": v} for i, _, v in ALL}, "namespace": ""}),
        R,
        None,
    ),
    "Elasticsearch": (json.dumps({"took": 1, "hits": {"total": 3, "hits": HITS}}), R, "_source.text"),
    "Elasticsearch, a hit a line": (lines(*HITS), R, "_source.text"),
    "Weaviate": (json.dumps(WEAVIATE), R, None),
    "Weaviate's GraphQL": (json.dumps(GRAPHQL), R, "text"),
    "Chroma": (json.dumps(CHROMA), R, "documents"),
    "LangChain": (json.dumps(DOCUMENTS), R, "text"),
    "LangChain, indented": (json.dumps(DOCUMENTS, indent=2), R, "text"),
    "LlamaIndex": (json.dumps(LLAMA), R, None),
    "pandas by columns": (json.dumps(COLUMNS), R, None),
    "pandas by index": (json.dumps({str(i): {"id": R[i], "v": LISTS[i]} for i in N}), R, None),
    "pandas split": (json.dumps(SPLIT), R, None),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_every_shape_gives_its_rows(tmp_path: Path, name: str, ending: str) -> None:
    text, ids, beside = SHAPES[name]
    path = write(tmp_path / f"a.{ending}", text)
    notes: list[str] = []
    skips = "first alone" in name
    vectors, names, metadata = read(path, on_note=notes.append, on_bad=(lambda row: None) if skips else None)
    np.testing.assert_allclose(vectors, VECTORS, rtol=2e-7)
    assert names == ids and notes == []
    if beside is not None:
        assert metadata.get(beside, TEXTS) == TEXTS
        only = read(path, wanted=frozenset([beside]))
        assert only[1] == ids and only[2] == {beside: TEXTS}
    assert list(read(path, wanted=frozenset(), on_bad=lambda row: None)[2]) == []


def test_columns_are_named_by_their_path_or_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps({"result": {"points": NAMED}}))
    with pytest.raises(InputError, match=r"several columns.*result.points\[\].vector.title.*vector.body.*--column"):
        read(path)
    for asked in ("title", "vector.title", "result.points[].vector.title", "result.points.vector.title"):
        vectors, ids, _ = read(path, asked)
        np.testing.assert_allclose(vectors, VECTORS, rtol=2e-7)
        assert ids == R
    np.testing.assert_allclose(read(path, "body")[0], -VECTORS, rtol=2e-7)
    with pytest.raises(InputError, match=r"no vector column named 'other'.*title"):
        read(path, "other")
    with pytest.raises(InputError, match="no column named 'other'"):
        read(path, "title", "other")
    assert read(path, "title", "payload.text")[1] == TEXTS
    many = write(tmp_path / "b.json", json.dumps({f"doc{i}": LISTS[i % 3] for i in range(12)}))
    assert read(many)[1] == [f"doc{i}" for i in range(12)]
    few = write(tmp_path / "c.json", json.dumps({"title": LISTS[0], "body": LISTS[1]}))
    with pytest.raises(InputError, match="several columns"):
        read(few)


REFUSED = {
    "vectors of tokens": (lines(LISTS, LISTS), ["several lists", "token"]),
    "vectors of tokens of one text": (json.dumps([LISTS]), ["several lists", "token"]),
    "vectors of tokens in records": (lines({"id": 1, "v": [LISTS, LISTS]}), ["no column that holds vectors"]),
    "token ids": (lines(*({"input_ids": list(range(100, 2500, 100))} for _ in R)), ["token ids"]),
    "cut in the middle": (json.dumps(RECORDS, indent=1)[:-300], ["not JSON"]),
    "cut behind a row": (json.dumps(RECORDS).partition("}, ")[0] + "}", ["cut off"]),
    "no comma": ("[[1, 2] [3, 4]]", ["no comma"]),
    "no rows": ("[]", ["no rows"]),
    "no data": (json.dumps({"object": "list", "data": []}), ["no column that holds vectors", "object, data"]),
    "an error": (json.dumps({"error": {"message": "no quota"}}), ["no column that holds vectors", "error"]),
    "shortened": (lines({"id": 1, "embedding": "[0.1 0.2 ... 0.3]"}), ["embedding", "'...'"]),
    "text": (lines({"id": 1, "text": "a text without a vector"}), ["'text' begins with 'a text"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_vectors_is_refused(tmp_path: Path, name: str) -> None:
    text, parts = REFUSED[name]
    for ending in ("json", "jsonl"):
        with pytest.raises(InputError) as caught:
            read(write(tmp_path / f"a.{ending}", text))
        message = str(caught.value)
        assert "\n" not in message and len(message) < 600
        assert [part for part in parts if part not in message] == [], message


def test_rows_without_a_vector(tmp_path: Path) -> None:
    for missing in (None, "", [], "NULL"):
        values = [{"id": "a", "embedding": missing}, *RECORDS, {"id": "b"}]
        for text in (lines(*values), json.dumps(values)):
            path = write(tmp_path / "a.jsonl", text)
            with pytest.raises(InputError, match=r"Row 0 of .*line 1.* has no vector under '.*embedding'.*--skip-bad"):
                read(path)
            bad: list[BadRow] = []
            assert read(path, on_bad=bad.append)[1] == R
            assert {part.row for part in bad} == {0, 4}
    failed = {"id": "x", "custom_id": "c", "response": None, "error": {"code": "quota"}}
    path = write(tmp_path / "b.jsonl", lines(failed, *(batch(i, v) for i, _, v in ALL)))
    with pytest.raises(InputError, match="Row 0"):
        read(path)
    assert read(path, on_bad=lambda row: None)[1] == R


def test_a_column_that_only_some_rows_have(tmp_path: Path) -> None:
    values = [{"id": i, "v": LISTS[0], **({"late": i} if i > 100 else {})} for i in range(120)]
    path = write(tmp_path / "a.jsonl", lines(*values))
    late = read(path, wanted=frozenset(["late"]))[2]["late"]
    assert late == [None] * 101 + list(range(101, 120))
    with pytest.raises(InputError, match=r"no column named 'typo' besides ids and vectors \(it has: late"):
        read(path, wanted=frozenset(["typo"]))


def test_an_array_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    row = json.dumps({"text": "x" * 50, "v": LISTS[0]}, indent=1)
    path.write_text("[" + ",\n".join([row] * 4000) + "]")  # 2.8 MB
    tracemalloc.start()
    total = sum(len(batch) for batch in open_store(path).batches(100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 4000 and peak < 1_000_000, peak


def test_heavy_values_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.stores.text.documents._LIGHT", 1000)
    monkeypatch.setattr("unembed.stores.text.documents._MEMORY", 100_000)
    for text in ("[" + "{}," * 2000 + "{}]", lines({"v": [[]] * 2000}), '{"a":\n' + "[" * 3000):
        for skips in (None, lambda row: None):
            with pytest.raises(InputError):
                read(write(tmp_path / "a.json", text), on_bad=skips)
    assert read(write(tmp_path / "b.json", json.dumps(RECORDS)))[1] == R


def test_names_and_values_that_are_no_utf8(tmp_path: Path) -> None:
    text = lines(*({"id": i, "name": "Zoë", "v": v} for i, _, v in ALL)).replace("Zo\\u00eb", "Zoë").encode("latin-1")
    path = write(tmp_path / "a.jsonl", text)
    assert read(path, wanted=frozenset())[1] == R
    with pytest.raises(InputError, match=r"Line 1 of .* not UTF-8 in column 'name'"):
        read(path)
