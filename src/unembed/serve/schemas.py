"""What requests and answers hold: the models behind the OpenAPI document.

Contents: `EmbedRequest`, `InvertRequest`, `Options`, `Transform`, and the answers.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from unembed.decoding.config import DecodeConfig
from unembed.refinement.refine import DEFAULT
from unembed.serve.body import BodyShape, Shaped

WIDEST = 8192
"""Components of a vector."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[list[Number], Field(min_length=1, max_length=WIDEST, fail_fast=True)]
Text = Annotated[str, Field(max_length=20_000)]

MOST = 64
"""Texts or vectors of a request."""


FEW = 64
"""Lists, objects and keys beyond those that are meant, so that a fault in a body of usual size is named."""


class _Request(Shaped):
    model_config = ConfigDict(extra="forbid", strict=True)

    shape: ClassVar[BodyShape] = BodyShape(lists=MOST + FEW, objects=FEW, keys=FEW, values=MOST * WIDEST + 4 * FEW)


class EmbedRequest(_Request):
    """Texts to be embedded with the model's encoder."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST, fail_fast=True)]

    model_config = ConfigDict(json_schema_extra={"example": {"texts": ["the invoice was paid in march"]}})


def _fields() -> dict[str, Any]:
    """The fields of `DecodeConfig`, each of which may be left out, within what a server takes."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(DecodeConfig):
        told, kind = item.metadata, str(item.type).split(" ")[0]
        if told["served"] == 0:
            continue
        limits = {"max_length": 40} if kind == "str" else {"ge": told["least"], "le": told["served"]}
        type_ = {"str": str, "int": int, "float": Number}[kind]
        found[item.name] = (type_ | None, Field(None, description=told["about"] or None, **limits))
    return found


_Decode: Any = create_model("_Decode", __base__=_Request, **_fields())


class Options(_Decode):  # type: ignore[misc]
    """How to decode; what is left out has the model's default."""


class Transform(_Request):
    """What is done to each vector first: cut, then noise, then rounding."""

    dimensions: int | None = Field(None, ge=1, le=8192, description="Components kept; the others become 0.")
    noise: Number = Field(0.0, ge=0, le=10, description="Deviation on each component, relative to the vector's norm.")
    bits: int = Field(32, ge=1, le=32, description="Of each component; 1 keeps signs, 32 leaves the vector.")
    seed: int = Field(0, ge=0, le=2**53 - 1)


class InvertRequest(_Request):
    """Vectors, or texts that are embedded first."""

    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MOST, fail_fast=True)] | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST, fail_fast=True)] | None = None
    options: Options = Field(default_factory=lambda: Options.model_validate({}))
    queries: int = Field(0, ge=0, le=2_000, description="Texts that may be sent to the encoder for each vector.")
    refinement: str = Field(DEFAULT, max_length=40, description="How queries are spent; a name from /v1/models.")
    tokens: bool = Field(False, description="Also each token with its confidence.")
    alternatives: bool = Field(False, description="Also the other drafts, best first.")
    trace: bool = Field(False, description="Also the steps of the decode.")
    transform: Transform = Field(default_factory=lambda: Transform.model_validate({}))

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"texts": ["the invoice was paid in march"], "options": {"strategy": "adaptive"}, "tokens": True}
        }
    )


STREAM = """One vector or text. Events in order:

- `start`: `length_guess`, `vector` (after the transform); where a text was sent, `original` as it was embedded and its
  `tokens`, whether it was `truncated` and the tokens of the `rest`, and whether its words are `unlike` those that the
  model has learnt;
- with a beam `preview`, as `step`: the leading hypothesis while the beam grows; the steps of its drafts follow;
- `step`, many: `draft`, `index`, `pass`, and `canvas` with `id`, `text`, `masked`, `confidence`, `chosen`, `remasked`
  and up to five `alternatives` of each position;
- with queries `refine`, whenever a better draft is found: `queries`, `cosine`, `text`, `tokens`;
- `done`: `result` as /v1/invert returns it, `aligned` (pairs of places of equal tokens in original and recovered text),
  `seconds`, `cosine`, `floor`; or `error`: `message` and `hint`.

Lines that begin with a colon keep the connection alive."""

EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["start", "preview", "step", "refine", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}

EVENTS = """event: start
data: {"length_guess":7,"vector":[0.01,-0.05],"original":"the invoice was paid in march","tokens":["the","in","##vo"]}

event: step
data: {"draft":0,"index":0,"pass":1,"canvas":[{"id":1996,"text":"the","masked":false,"confidence":0.9,"chosen":true,\
"remasked":false,"alternatives":[{"text":"the","probability":0.9}]}]}

event: done
data: {"result":{"text":"the invoice was paid in march","confidence":0.8},"aligned":[[0,0]],"seconds":0.2,\
"cosine":0.98,"floor":0.01}
""".replace("\\\n", "")


class Health(BaseModel):
    """The server runs."""

    status: str = Field(examples=["ok"])


class StrategyInfo(BaseModel):
    """A way to decode."""

    name: str
    description: str
    random: bool


class Model(BaseModel):
    """A model that the server has."""

    name: str
    sha256: str
    encoder: dict[str, Any]
    dimension: int
    limit: int
    strategies: list[StrategyInfo]
    defaults: dict[str, Any]
    refinements: list[str]
    queries: bool
    guidance: bool


class Models(BaseModel):
    """What the server has."""

    models: list[Model]
    limits: dict[str, Any]
    load: dict[str, int]
    version: str


class Embedded(BaseModel):
    """A text and its vector."""

    text: str
    tokens: list[str]
    truncated: bool
    vector: list[float]


class Embeddings(BaseModel):
    """Texts and their vectors, and the cosine that two random texts have."""

    model: str
    encoder: str
    results: list[Embedded]
    floor: float
    floor_source: str

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "minilm",
                "encoder": "minilm",
                "results": [
                    {"text": "a red house", "tokens": ["a", "red", "house"], "truncated": False, "vector": [0.1]}
                ],
                "floor": 0.01,
                "floor_source": "squared norm of the mean training vector: the mean cosine of two random texts",
            }
        }
    )


class Alternative(BaseModel):
    """Another token for a position."""

    text: str
    probability: float


class Token(BaseModel):
    """A token of a recovered text."""

    text: str
    id: int
    confidence: float
    alternatives: list[Alternative] = []


class OtherDraft(BaseModel):
    """Another draft of a text."""

    text: str
    likelihood: float
    score: float


class Recovered(BaseModel):
    """A recovered text."""

    text: str
    confidence: float | None = Field(
        description="The token_f1 that is expected; null where nothing is calibrated: other strategies, and queries."
    )
    likelihood: float = Field(description="Mean probability of the tokens, not calibrated.")
    fit: float | None = Field(
        description="Share of held-out texts whose vectors look at least as unusual; null where the model cannot tell."
    )
    misfit: str | None = Field(
        description='What a vector with a fit below 0.01 looks like: "vector" (not this encoder\'s, or damaged), '
        '"long" (a text longer than the model reads) or "language" (another one); else null.'
    )
    p_exact: float | None
    tokens: list[Token] = []
    length: int
    passes: int
    queries: int
    cosine: float | None
    alternatives: list[OtherDraft] = []
    trace: list[dict[str, Any]] = []


class Inversion(BaseModel):
    """Recovered texts, in the order of the request."""

    results: list[Recovered]
    seconds: float

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "results": [
                    {
                        "text": "the invoice was paid in march",
                        "confidence": 0.8,
                        "likelihood": 0.9,
                        "fit": 0.4,
                        "misfit": None,
                        "p_exact": 0.3,
                        "tokens": [{"text": "the", "id": 1996, "confidence": 0.9, "alternatives": []}],
                        "length": 8,
                        "passes": 24,
                        "queries": 0,
                        "cosine": 0.98,
                        "alternatives": [],
                        "trace": [],
                    }
                ],
                "seconds": 0.2,
            }
        }
    )


class ErrorBody(BaseModel):
    """What is wrong, and what to do."""

    message: str
    hint: str


class Failure(BaseModel):
    """An answer with an error instead of a result."""

    error: ErrorBody

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {
                    "message": "Vector 0 has dimension 3, the model takes 384, as minilm makes them.",
                    "hint": "Send vectors of that encoder.",
                }
            }
        }
    )
