"""The model that ships: whole, small enough, for this encoder, and clearly better than a lookup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unembed import Inverter, Recovery
from unembed.checkpoint.checkpoint import verify_checkpoint
from unembed.checkpoint.shipped import WEIGHTS
from unembed.metrics.text import token_accuracy, token_f1

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inverter() -> Inverter:
    return Inverter.from_pretrained("default", device="cpu")


@pytest.fixture(scope="module")
def examples() -> tuple[list[str], np.ndarray]:
    table = pq.read_table(ROOT / "examples" / "vectors.parquet")
    vectors = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    return table["text"].to_pylist(), vectors


def test_files_are_whole_and_small() -> None:
    """At most 64 MiB in all, shards of at most 15 MiB, checksums right, a card beside them."""
    folder = WEIGHTS / "minilm"
    verify_checkpoint(folder)
    sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert sum(sizes.values()) <= 64 * 2**20
    assert all(size <= 15 * 2**20 for name, size in sizes.items() if name.endswith(".safetensors"))
    assert "attribution" in (folder / "README.md").read_text().lower()


@pytest.fixture(scope="module")
def found(inverter: Inverter, examples: tuple[list[str], np.ndarray]) -> tuple[list[Recovery], list[list[int]]]:
    """What comes back of the first 24, and the tokens that they have."""
    texts, vectors = examples
    return inverter.invert(vectors[:24]), inverter.tokenizer.encode(texts[:24])


def test_it_recovers_held_out_sentences(found: tuple[list[Recovery], list[list[int]]]) -> None:
    """Far above what random or unconditional text gives; the exact figures are in docs/results.md."""
    recovered, refs = found
    preds = [list(r.token_ids) for r in recovered]
    assert token_f1(preds, refs) > 0.45
    assert token_accuracy(preds, refs) > 0.08
    shuffled = preds[1:] + preds[:1]
    assert token_f1(preds, refs) > token_f1(shuffled, refs) + 0.2


def test_its_confidence_is_calibrated(found: tuple[list[Recovery], list[list[int]]]) -> None:
    """Mean confidence is near the realised token_f1, and sure texts are better than unsure ones."""
    recovered, refs = found
    confidence = np.array([r.confidence for r in recovered])
    realised = np.array([token_f1([list(r.token_ids)], [ref]) for r, ref in zip(recovered, refs, strict=True)])
    assert abs(confidence.mean() - realised.mean()) < 0.08, (confidence.mean(), realised.mean())
    order, half = np.argsort(confidence), len(recovered) // 2
    assert realised[order[half:]].mean() > realised[order[:half]].mean()
    assert all(r.p_exact is not None and 0 <= r.p_exact <= 1 for r in recovered)


def test_it_knows_its_encoder(inverter: Inverter) -> None:
    """The encoder's probe vectors are those in the checkpoint."""
    assert inverter.identity.check(inverter.encoder) >= 0.999
