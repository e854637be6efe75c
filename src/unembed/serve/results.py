"""Recoveries and steps as plain values for JSON.

Contents: `recovered`, `canvas_of`, `aligned`, `tokens_of`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

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
