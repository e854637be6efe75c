"""The picture of a posted trace is the one that the library draws."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

pytest.importorskip("pydantic")

from pydantic import ValidationError

from unembed.decoding.trace import Step
from unembed.errors import InputError
from unembed.evaluation.animation import draw, frames, refined
from unembed.serve.drawing import MOST_STEPS, PostedTrace, picture

NAMES = {0: "[MASK]", 5: "<lee>", 7: "##ing"}
STEPS = [
    Step(0, 0, (5, 0), (False, True), (0.9, 0.0), (0,), (), 1),
    Step(0, 1, (5, 7), (False, False), (0.8, 0.5), (0, 1), (0,), 2),
]


def posted(**more: Any) -> dict[str, Any]:
    steps = [
        {
            "index": step.index,
            "pass": step.pass_count,
            "canvas": [
                {
                    "id": token,
                    "text": NAMES[token],
                    "masked": step.masked[place],
                    "confidence": step.confidences[place],
                    "chosen": place in step.chosen,
                    "remasked": place in step.remasked,
                }
                for place, token in enumerate(step.ids)
            ],
        }
        for step in STEPS
    ]
    return {"dimension": 1024, "recovered": "<lee>ing", "confidence": 0.5, "strategy": "euler", "steps": steps, **more}


def test_it_is_what_the_library_draws() -> None:
    found = picture(PostedTrace.model_validate(posted(original="lee & i", cosine=0.25)))
    wanted = draw(
        frames(STEPS, lambda ids: [NAMES[token] for token in ids]),
        recovered="<lee>ing",
        confidence=0.5,
        original="lee & i",
        cosine=0.25,
        title="1,024 numbers become a text (euler)",
    )
    assert found == wanted
    assert "<lee>" in "".join(ET.fromstring(found).itertext())


def test_what_queries_made_of_the_draft_is_drawn_behind_it() -> None:
    more = [
        {"queries": 1, "cosine": 0.5, "tokens": ["a", "b"]},
        {"queries": 16, "cosine": 0.75, "tokens": ["c", "##d", "e"]},
    ]
    found = picture(PostedTrace.model_validate(posted(refinements=more)))
    said = "".join(ET.fromstring(found).itertext())
    assert "after 1 query: cosine 0.50" in said and "after 16 queries: cosine 0.75" in said
    shown = frames(STEPS, lambda ids: [NAMES[token] for token in ids])
    whole = refined(shown, [(1, 0.5, ["a", "b"]), (16, 0.75, ["c", "##d", "e"])])
    assert [frame.caption for frame in whole[:-2]] == [frame.caption for frame in shown]
    assert whole[-1].seconds == shown[-1].seconds > whole[-2].seconds
    assert refined(shown, []) == shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": []},
        {"steps": posted()["steps"] * MOST_STEPS},
        {"confidence": 2},
        {"confidence": float("nan")},
        {"dimension": 0},
        {"original": 1},
        {"recovered": "x" * 20_001},
    ],
)
def test_a_wrong_trace_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PostedTrace.model_validate(posted(**wrong))


def test_a_huge_trace_is_refused() -> None:
    step = posted()["steps"][0]
    large = {**step, "canvas": step["canvas"] * 256}
    with pytest.raises(InputError, match="too large to draw"):
        picture(PostedTrace.model_validate(posted(steps=[large] * 40)))


def test_a_long_word_after_a_full_line_is_cut() -> None:
    """It ended in StopIteration when the line before left no place for a character."""
    for short in range(60, 100):
        text = f"{'a' * short} {'b' * 300}"
        svg = picture(PostedTrace.model_validate(posted(recovered=text)))
        assert "".join(ET.fromstring(svg).itertext()).count("b") >= 300


def test_a_word_of_20_000_letters_is_drawn_fast() -> None:
    assert picture(PostedTrace.model_validate(posted(recovered="x" * 20_000))).count("<text") > 200


def test_a_trace_without_any_figure_is_drawn() -> None:
    """Found by schemathesis: no confidence, no likelihood, no cosine."""
    bare = {**posted(), "confidence": None, "cosine": None}
    bare.pop("likelihood", None)
    ET.fromstring(picture(PostedTrace.model_validate(bare)))
