"""Inversion with queries: the library and the command line, with the shipped model and its real encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.cli import fails, run
from tests.helpers.counting import Counting
from unembed import Inverter, Recovery, Refine
from unembed.errors import InputError
from unembed.refinement.refine import METHODS

TEXTS = ["she bought three red apples.", "the doctor will call you on monday."]
QUERIES = 12


@pytest.fixture(scope="module")
def inverter() -> Inverter:
    return Inverter.from_pretrained("default", device="cpu")


@pytest.fixture(scope="module")
def vectors(inverter: Inverter) -> np.ndarray:
    return inverter.encoder.encode(TEXTS)


@pytest.fixture(scope="module")
def found(inverter: Inverter, vectors: np.ndarray) -> tuple[list[Recovery], list[str], list[tuple]]:
    counting = Counting(inverter.encoder)
    session = inverter.session(vectors, Refine(QUERIES), encoder=counting)
    counting.sent.clear()  # the probes
    rounds = [step for step in session if step is not None]
    return session.recoveries(), counting.sent, rounds


def test_queries_are_counted_and_kept_to(found: tuple) -> None:
    out, sent, rounds = found
    assert len(sent) == len(set(sent)) == sum(one.queries for one in out)
    assert all(0 < one.queries <= QUERIES for one in out)
    assert [step.queries for step in rounds] == sorted(step.queries for step in rounds)
    cosines = [step.cosine for step in rounds]
    assert cosines == sorted(cosines) and cosines[-1] == pytest.approx(np.mean([one.cosine for one in out]))


def test_an_easy_text_is_met(found: tuple) -> None:
    easy = found[0][0]
    assert easy.text.lower().rstrip(".") == TEXTS[0].rstrip(".")
    assert easy.matched and easy.queries < QUERIES and easy.confidence is easy.p_exact is None


def test_cosines_are_those_of_the_texts(inverter: Inverter, vectors: np.ndarray, found: tuple) -> None:
    for one, vector in zip(found[0], vectors, strict=True):
        texts = [one, *one.alternatives]
        again = inverter.encoder.encode([inverter.tokenizer.decode(list(part.token_ids)) for part in texts]) @ vector
        assert [part.cosine for part in texts] == pytest.approx(again.tolist(), abs=1e-4)
        assert [part.cosine for part in texts] == sorted((part.cosine for part in texts), reverse=True)
        assert len(one.token_confidence) == len(one.token_ids) == one.length
        assert all(0 <= p <= 1 for part in texts for p in part.token_confidence)


def test_more_queries_are_never_worse_and_none_is_as_before(inverter: Inverter, vectors: np.ndarray) -> None:
    plain = inverter.invert(vectors)
    assert inverter.invert(vectors, refine=Refine(0)) == plain
    assert all(one.queries == 0 and one.cosine is None and not one.matched for one in plain)
    few = inverter.invert(vectors, refine=Refine(2, "search"))
    more = inverter.invert(vectors, refine=Refine(8, "search"))
    assert all(a.cosine <= b.cosine + 1e-6 for a, b in zip(few, more, strict=True))


def test_other_limits(inverter: Inverter, vectors: np.ndarray) -> None:
    """A budget of passes that the drafts use up leaves one round of queries."""
    out = inverter.invert(vectors, refine=Refine(200, passes=1))
    assert all(one.queries <= 8 for one in out)
    out = inverter.invert(vectors, refine=Refine(200, seconds=0.01))
    assert all(one.queries <= 16 for one in out)


@pytest.mark.parametrize("method", ["best-of", "correct"])
def test_other_methods_keep_to_the_budget(inverter: Inverter, vectors: np.ndarray, method: str) -> None:
    out = inverter.invert(vectors[1:], refine=Refine(4, method))
    assert 0 < out[0].queries <= 4 and out[0].cosine > 0.5


def test_a_text_alone_is_corrected_as_far_as_among_others(inverter: Inverter) -> None:
    """One whose corrections are all known goes on from its next draft, whether or not another text still asks."""
    table = pq.read_table(Path(__file__).resolve().parents[2] / "examples" / "vectors.parquet").slice(2, 1)
    vector = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    assert inverter.invert(vector, refine=Refine(12, "correct"))[0].queries == 12


def test_best_of_keeps_what_is_known(inverter: Inverter, vectors: np.ndarray) -> None:
    out = inverter.invert(vectors[:1], refine=Refine(6, "best-of"), prefix="he")
    assert out[0].text.lower().startswith("he") and out[0].given[0] and out[0].queries <= 6
    with pytest.raises(InputError, match="best-of"):
        inverter.invert(vectors[:1], refine=Refine(6), prefix="he")


def test_mistakes_are_named(inverter: Inverter, vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="Did you mean search"):
        Refine(1, "serch")
    with pytest.raises(InputError, match="trace"):
        inverter.invert(vectors, refine=Refine(1), trace=True)
    with pytest.raises(InputError, match="Refine"):
        inverter.invert(vectors, queries=1)
    assert list(METHODS) == ["best-of", "correct", "search", "combined"]


def test_rounded_vectors_are_met(inverter: Inverter, vectors: np.ndarray) -> None:
    """An fp16 store never has cosine 1 to the encoder's own answer, and the search must stop all the same."""
    for rounded in (vectors[:1].astype(np.float16), np.round(vectors[:1] * 127 / np.abs(vectors[:1]).max())):
        one = inverter.invert(rounded, refine=Refine(QUERIES, "search"))[0]
        assert one.matched and one.queries < QUERIES, one
    assert inverter.invert(vectors[1:], refine=Refine(2, "search", tolerance=0.5))[0].matched


@pytest.fixture(scope="module")
def store(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("queries") / "v.npy"
    np.save(path, vectors)
    return path


def test_columns(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["invert", store, "--queries", 4, "--refinement", "search", "--passes", 4, "--lengths", 2]
    args += ["--strategy", "adaptive"]
    done = run(capsys, *args, "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and len(rows) == 2
    assert all(0 < row["queries"] <= 4 and 0.5 < row["cosine"] <= 1.00001 for row in rows)
    assert run(capsys, *args, "--out", tmp_path / "o.parquet").code == 0
    table = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["queries"] for row in table] == [row["queries"] for row in rows]
    assert [row["cosine"] for row in table] == pytest.approx([row["cosine"] for row in rows], abs=1e-6)
    shown = run(capsys, *args).out
    assert "queries" in shown and f"{rows[0]['cosine']:.4f}" in shown
    assert "cosine" not in run(capsys, "invert", store).out


def test_options_without_queries(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, ["invert", store, "--refinement", "search"], "--refinement", "--queries N")
    fails(capsys, ["invert", store, "--queries", "1", "--trace", tmp_path / "t.jsonl"], "--trace")
