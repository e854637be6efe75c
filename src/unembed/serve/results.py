"""Recoveries and steps as plain values for JSON, and what may be done to a vector before it is inverted.

Contents: `recovered`, `canvas_of`, `aligned`, `tokens_of`; `change_vectors`.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from unembed.data.tokenization import Tokenizer
from unembed.decoding.recovery import Recovery
from unembed.decoding.trace import Step


def tokens_of(recovery: Recovery) -> list[dict[str, Any]]:
    """Each token with its confidence."""
    rows = zip(recovery.tokens, recovery.token_ids, recovery.token_confidence, strict=True)
    return [{"text": t, "id": i, "confidence": c, "alternatives": []} for t, i, c in rows]


def recovered(
    recovery: Recovery,
    tokenizer: Tokenizer,
    cosine: float | None,
    *,
    tokens: bool = False,
    alternatives: bool = False,
    trace: bool = False,
) -> dict[str, Any]:
    """A recovery as /v1/invert returns it."""
    steps = recovery.trace.steps if trace and recovery.trace is not None else ()
    listed = tokens_of(recovery) if tokens else []
    if tokens and recovery.trace is not None:
        _add_alternatives(listed, recovery.trace.steps, tokenizer)
    return {
        "text": recovery.text,
        "confidence": recovery.confidence,
        "likelihood": recovery.likelihood,
        "fit": recovery.fit,
        "misfit": recovery.misfit,
        "p_exact": recovery.p_exact,
        "tokens": listed,
        "length": recovery.length,
        "passes": recovery.passes,
        "queries": recovery.queries,
        "cosine": cosine,
        "alternatives": [
            {"text": other.text, "likelihood": other.likelihood, "score": other.score}
            for other in (recovery.alternatives if alternatives else ())
        ],
        "trace": [canvas_of(step, tokenizer) for step in steps],
    }


def _add_alternatives(listed: list[dict[str, Any]], steps: Sequence[Step], tokenizer: Tokenizer) -> None:
    """Give each token the alternatives of the last pass that predicted its position."""
    for step in steps:
        for place, found in enumerate(step.alternatives[: len(listed)]):
            if found:
                listed[place]["alternatives"] = _likely(found, tokenizer)


def _likely(pairs: Sequence[tuple[int, float]], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    names = tokenizer.tokens([token for token, _ in pairs])
    return [{"text": name, "probability": p} for name, (_, p) in zip(names, pairs, strict=True)]


def canvas_of(step: Step, tokenizer: Tokenizer) -> dict[str, Any]:
    """A step as an event of a stream holds it."""
    chosen, remasked = set(step.chosen), set(step.remasked)
    names = tokenizer.tokens(step.ids)
    likely = step.alternatives or ((),) * len(step.ids)
    return {
        "draft": step.draft,
        "index": step.index,
        "pass": step.pass_count,
        "canvas": [
            {
                "id": token,
                "text": name,
                "masked": masked,
                "confidence": confidence,
                "chosen": place in chosen,
                "remasked": place in remasked,
                "alternatives": _likely(pairs, tokenizer),
            }
            for place, (token, name, masked, confidence, pairs) in enumerate(
                zip(step.ids, names, step.masked, step.confidences, likely, strict=True)
            )
        ],
    }


def aligned(original: Sequence[int], found: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of places of equal tokens in the two texts, in order."""
    blocks = difflib.SequenceMatcher(None, original, found, autojunk=False).get_matching_blocks()
    return [(block.a + k, block.b + k) for block in blocks for k in range(block.size)]


def change_vectors(
    vectors: np.ndarray, dimensions: int | None = None, noise: float = 0.0, bits: int = 32, seed: int = 0
) -> np.ndarray:
    """Cut, then add noise, then round vectors.

    Args:
        vectors: (n, d).
        dimensions: components kept, the first ones; the others become 0. None keeps all.
        noise: standard deviation of the Gaussian noise on each kept component, relative to the vector's norm.
        bits: of each component. With b of 2 to 31, 2^b - 1 evenly spaced levels up to the largest magnitude of the
            vector; with 1 the signs, at the mean magnitude; 32 leaves float32.
        seed: of the noise. A row's noise depends on the seed and the row alone; more noise is the same noise, longer.

    Returns:
        float32 (n, d).
    """
    out = np.array(vectors, dtype=np.float64)
    kept = out.shape[1] if dimensions is None else min(dimensions, out.shape[1])
    out[:, kept:] = 0
    for given, row in zip(np.asarray(vectors, dtype=np.float32), out, strict=True):
        part = row[:kept]
        if noise:
            digest = int.from_bytes(hashlib.sha256(given.tobytes()).digest()[:8], "big")
            part += np.random.default_rng([seed, digest]).normal(0, noise * np.linalg.norm(row), kept)
        if bits == 1:
            part[:] = np.sign(part) * np.abs(part).mean()
        elif bits < 32 and (top := np.abs(part).max()) > 0:
            levels = 2 ** (bits - 1) - 1
            part[:] = np.round(part / top * levels) / levels * top
    return out.astype(np.float32)
