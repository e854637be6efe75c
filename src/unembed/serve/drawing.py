"""The animated picture of a posted trace: `POST /v1/trace.svg`. Contents: `PostedTrace` and its parts, `picture`.

The page sends the steps that it has seen; `evaluation.animation` draws them, as it draws the README's animation. No
model is asked and nothing is kept.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from unembed.decoding.trace import Step
from unembed.errors import InputError
from unembed.evaluation.animation import draw, frames, refined
from unembed.serve.body import BodyShape, Shaped

MOST_STEPS, MOST_TOKENS, MOST_CELLS = 256, 512, 16_384
Text = Annotated[str, Field(max_length=20_000)]


class _Part(BaseModel):
    """What else an event holds may be sent too: to refuse it, pydantic would describe each of many fields."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class PostedCell(_Part):
    """One position of the canvas, as a `step` event holds it."""

    id: Annotated[int, Field(ge=0, le=2**31 - 1)]
    text: Annotated[str, Field(max_length=200)]
    masked: bool
    confidence: Annotated[float, Field(ge=0, le=1)]
    chosen: bool
    remasked: bool


class PostedStep(_Part):
    """One pass over the draft."""

    index: Annotated[int, Field(ge=0, le=2**31 - 1)]
    pass_count: Annotated[int, Field(ge=0, le=2**31 - 1, alias="pass")]
    canvas: Annotated[list[PostedCell], Field(max_length=MOST_TOKENS, fail_fast=True)]


class PostedDraft(_Part):
    """What a refinement had found after some queries, as a `refine` event holds it."""

    queries: Annotated[int, Field(ge=0, le=2**31 - 1)]
    cosine: Annotated[float, Field(ge=-1.01, le=1.01)]
    tokens: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=MOST_TOKENS, fail_fast=True)]


class PostedTrace(_Part, Shaped):
    """The steps of one draft in order, and what came of them."""

    shape: ClassVar[BodyShape] = BodyShape(
        lists=4 * MOST_STEPS, objects=2 * MOST_CELLS, keys=8 * MOST_CELLS, values=16 * MOST_CELLS
    )

    strategy: Annotated[str, Field(max_length=40)] = ""
    dimension: Annotated[int, Field(ge=1, le=1_000_000)]
    recovered: Text
    confidence: Annotated[float, Field(ge=0, le=1)] | None
    likelihood: Annotated[float, Field(ge=0, le=1)] | None = None
    original: Text | None = None
    cosine: Annotated[float, Field(ge=-1.01, le=1.01)] | None = None
    steps: Annotated[list[PostedStep], Field(min_length=1, max_length=MOST_STEPS, fail_fast=True)]
    refinements: Annotated[list[PostedDraft], Field(max_length=MOST_STEPS, fail_fast=True)] = []


def picture(trace: PostedTrace) -> str:
    """Draw a trace.

    Args:
        trace: as the page posts it.

    Returns:
        A self-contained SVG document; every text is escaped.

    Raises:
        InputError: more cells than a picture holds.
    """
    cells = sum(len(step.canvas) for step in trace.steps) + sum(len(one.tokens) for one in trace.refinements)
    if cells > MOST_CELLS:
        raise InputError(f"A trace of {cells:,} cells is too large to draw.", f"Draw at most {MOST_CELLS:,} cells.")
    names = {cell.id: cell.text for step in trace.steps for cell in step.canvas}
    way = f" ({trace.strategy})" if trace.strategy else ""
    shown = frames([_step(step) for step in trace.steps], lambda ids: [names[token] for token in ids])
    return draw(
        refined(shown, [(one.queries, one.cosine, one.tokens) for one in trace.refinements]),
        recovered=trace.recovered,
        confidence=trace.confidence,
        likelihood=trace.likelihood,
        original=trace.original,
        cosine=trace.cosine,
        title=f"{trace.dimension:,} numbers become a text{way}",
    )


def _step(posted: PostedStep) -> Step:
    canvas = posted.canvas
    return Step(
        draft=0,
        index=posted.index,
        ids=tuple(cell.id for cell in canvas),
        masked=tuple(cell.masked for cell in canvas),
        confidences=tuple(cell.confidence for cell in canvas),
        chosen=tuple(i for i, cell in enumerate(canvas) if cell.chosen),
        remasked=tuple(i for i, cell in enumerate(canvas) if cell.remasked),
        pass_count=posted.pass_count,
    )
