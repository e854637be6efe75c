"""The routes of the server.

Contents: `create_app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from unembed.decoding.config import RANDOM_STRATEGIES, STRATEGIES, DecodeConfig
from unembed.decoding.inputs import vector_rows
from unembed.errors import EncoderError, EncoderMismatchError, InputError, UnembedError
from unembed.metrics.cosine import row_cosine
from unembed.serve import schemas, transforms
from unembed.serve.answers import Answer, EventStream, Gone, unless_gone
from unembed.serve.batching import Busy, Engine, drafts_of
from unembed.serve.drawing import PostedTrace, picture
from unembed.serve.guard import Guard, failure
from unembed.serve.limits import Limits, Rates, Refused, read_body
from unembed.serve.results import aligned, canvas_of, recovered

if TYPE_CHECKING:
    from unembed.inverter import Inverter
    from unembed.recovery import Recovery

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
BROKEN = "The server has a defect, and this request hit it."
REPORT = "Report it with the request, if it may be shown."


class Service:
    """What the routes do.

    Args:
        inverter: the model.
        engine: computes.
        limits: of requests.
        version: of the program.
    """

    def __init__(self, inverter: Inverter, engine: Engine, limits: Limits, version: str) -> None:
        self.inverter, self.engine, self.limits, self.version = inverter, engine, limits, version
        mean = inverter.denoiser.whitening.mean.double()
        self.floor = float(mean @ mean)

    def models(self) -> dict[str, Any]:
        """What the server has."""
        inverter = self.inverter
        identity = inverter.identity.to_dict()
        only = None if inverter.denoiser.config.fills_masks else "left-to-right"
        model = {
            "name": inverter.name,
            "sha256": inverter.sha256,
            "encoder": {k: v for k, v in identity.items() if not k.startswith("probe")},
            "dimension": inverter.dimension,
            "limit": inverter.limit,
            "strategies": [
                {"name": name, "description": text, "random": name in RANDOM_STRATEGIES}
                for name, text in STRATEGIES.items()
                if only in (None, name)
            ],
            "defaults": asdict(inverter.resolve({})),
            "refinements": [],
            "queries": False,
        }
        return {"models": [model], "limits": asdict(self.limits), "version": self.version}

    async def cut(self, texts: Sequence[str]) -> list[Any]:
        """Cut texts to the model's limit."""
        parts = await asyncio.to_thread(self.inverter.tokenizer.truncate, texts, self.inverter.limit)
        for row, part in enumerate(parts):
            if part is None:
                raise InputError(
                    f"Text {row} is empty or holds characters that {self.inverter.identity.name} does not know.",
                    "Remove or change it.",
                )
        return parts

    def rows(self, vectors: Any) -> np.ndarray:
        """Check vectors."""
        identity = self.inverter.identity
        return vector_rows(vectors, self.inverter.dimension, identity.name, identity.normalised)

    async def embed(self, body: schemas.EmbedRequest) -> dict[str, Any]:
        """Embed texts."""
        parts = await self.cut(body.texts)
        vectors = await self.engine.embed([part.text for part in parts])
        tokenizer = self.inverter.tokenizer
        whole = await asyncio.to_thread(tokenizer.encode, body.texts)
        return {
            "model": self.inverter.name,
            "encoder": self.inverter.identity.name,
            "results": [
                {
                    "text": part.text,
                    "tokens": tokenizer.tokens(part.ids),
                    "truncated": len(ids) > len(part.ids),
                    "vector": vector.tolist(),
                }
                for part, ids, vector in zip(parts, whole, vectors, strict=True)
            ],
            "floor": self.floor,
            "floor_source": "squared norm of the mean training vector: the mean cosine of two random texts",
        }

    async def targets(self, body: schemas.InvertRequest) -> tuple[np.ndarray, list[Any] | None, DecodeConfig]:
        """The vectors to invert after the transform, the texts where texts were sent, and the options."""
        if (body.vectors is None) == (body.texts is None):
            raise InputError("A request takes vectors or texts, and not both.", "Send one of them.")
        if body.queries:
            raise InputError("This server does not refine with queries yet.", "Send queries = 0.")
        config = self.inverter.resolve(body.options.model_dump(exclude_none=True))
        if drafts_of(config) > self.limits.drafts:
            raise InputError(
                f"{drafts_of(config)} drafts of a vector are asked for, the server decodes at most "
                f"{self.limits.drafts}.",
                "Lower lengths, samples or beam.",
            )
        if config.strategy == "prior":
            _ = self.inverter.priors
        parts = None if body.texts is None else await self.cut(body.texts)
        if parts is not None:
            vectors = await self.engine.embed([part.text for part in parts])
        else:
            assert body.vectors is not None
            width = self.inverter.dimension
            wrong = next((i for i, vector in enumerate(body.vectors) if len(vector) != width), None)
            if wrong is not None:
                raise InputError(
                    f"Vector {wrong} has dimension {len(body.vectors[wrong])}, the model takes {width}, as "
                    f"{self.inverter.identity.name} makes them.",
                    "Send vectors of that encoder.",
                )
            vectors = self.rows(body.vectors)
        change = body.transform.model_dump()
        return self.rows(transforms.apply(vectors, **change)), parts, config

    async def cosines(self, found: Sequence[Recovery], vectors: np.ndarray) -> list[float | None]:
        """Cosine of each recovered text's own vector to the given one, None without an encoder."""
        texts = [self.inverter.tokenizer.decode(recovery.token_ids) for recovery in found]
        try:
            own = await self.engine.embed(texts)
        except (EncoderError, EncoderMismatchError):
            return [None] * len(found)
        return [float(value) for value in row_cosine(own, vectors)]

    async def invert(self, body: schemas.InvertRequest) -> dict[str, Any]:
        """Recover texts."""
        begin = time.perf_counter()
        vectors, _, config = await self.targets(body)
        found = await self.engine.invert(vectors, config, body.trace or body.tokens)
        cosines = await self.cosines(found, vectors)
        shown = {"tokens": body.tokens, "alternatives": body.alternatives, "trace": body.trace}
        rows = zip(found, cosines, strict=True)
        results = [recovered(recovery, self.inverter.tokenizer, cosine, **shown) for recovery, cosine in rows]
        return {"results": results, "seconds": time.perf_counter() - begin}

    async def stream(self, body: schemas.InvertRequest) -> AsyncGenerator[tuple[str, Any], None]:
        """Recover one text; yields events."""
        begin = time.perf_counter()
        tokenizer = self.inverter.tokenizer
        vectors, parts, config = await self.targets(body)
        original = parts[0] if parts else None
        whole = tokenizer.encode(body.texts)[0] if body.texts else ()
        yield (
            "start",
            {
                "length_guess": self._length(vectors),
                "vector": vectors[0].tolist(),
                "original": original.text if original else None,
                "tokens": tokenizer.tokens(original.ids) if original else None,
                "truncated": original is not None and len(whole) > len(original.ids),
            },
        )
        found: Any = None
        async for part in self.engine.stream(vectors[0], config):
            if isinstance(part, list):
                for step in part:
                    yield "step", canvas_of(step, tokenizer)
            else:
                found = part
        cosine = (await self.cosines([found], vectors))[0]
        pairs = aligned(original.ids, found.token_ids) if original else []
        yield (
            "done",
            {
                "result": recovered(found, tokenizer, cosine, tokens=True, alternatives=True),
                "aligned": pairs,
                "seconds": time.perf_counter() - begin,
                "cosine": cosine,
                "floor": self.floor,
            },
        )

    def _length(self, vectors: np.ndarray) -> int | None:
        """The likeliest number of tokens."""
        import torch

        denoiser = self.inverter.denoiser
        if denoiser.config.canvas == "eos":
            return None
        with torch.inference_mode():
            scores = denoiser.length_log_probs(torch.from_numpy(vectors).to(self.inverter.device))
        return int(scores[0].argmax()) + 1


def create_app(
    inverter: Inverter,
    *,
    limits: Limits | None = None,
    batch: int = 16,
    token: str | None = None,
    local: bool = True,
    version: str = "",
) -> FastAPI:
    """Make the application.

    Args:
        inverter: the model.
        limits: of requests.
        batch: most vectors decoded together; 1 joins no requests.
        token: what clients must send, or None.
        local: whether the server listens on loopback alone.
        version: of the program, for the answers.

    Returns:
        An ASGI application whose `state.engine` computes.
    """
    limits = limits or Limits()
    engine = Engine(inverter, batch=batch, places=limits.places)
    service = Service(inverter, engine, limits, version)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="unembed",
        version=version or "0",
        description="Recovers text from embedding vectors.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.engine = engine
    app.add_middleware(Guard, rates=Rates(limits.rate, limits.burst), token=token, local=local)
    _handle_errors(app)
    failures = _failures()

    def takes(model: type[BaseModel]) -> dict[str, Any]:
        reference = {"$ref": f"#/components/schemas/{model.__name__}"}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}

    @app.get("/healthz", response_model=schemas.Health, summary="Does the server run?")
    async def health() -> Any:
        return {"status": "ok"}

    @app.get("/v1/models", response_model=schemas.Models, responses=failures, summary="Models, strategies and limits")
    async def models() -> Any:
        return Answer(service.models())

    @app.post(
        "/v1/embed",
        response_model=schemas.Embeddings,
        responses=failures,
        openapi_extra=takes(schemas.EmbedRequest),
        summary="Texts to vectors",
    )
    async def embed(request: Request) -> Response:
        body = await read_body(request, schemas.EmbedRequest, limits)
        with engine.place():
            async with asyncio.timeout(limits.request_seconds):
                return Answer(await unless_gone(request.receive, service.embed(body)))

    @app.post(
        "/v1/invert",
        response_model=schemas.Inversion,
        responses=failures,
        openapi_extra=takes(schemas.InvertRequest),
        summary="Vectors (or texts) to recovered texts",
    )
    async def invert(request: Request) -> Response:
        body = await read_body(request, schemas.InvertRequest, limits)
        with engine.place():
            async with asyncio.timeout(limits.request_seconds):
                return Answer(await unless_gone(request.receive, service.invert(body)))

    @app.post(
        "/v1/invert/stream",
        response_class=EventStream,
        status_code=200,
        responses={
            **failures,
            200: {"content": {"text/event-stream": {"schema": schemas.EVENT, "example": schemas.EVENTS}}},
        },
        description=schemas.STREAM,
        openapi_extra=takes(schemas.InvertRequest),
        summary="One vector (or text), with each pass as an event",
    )
    async def stream(request: Request) -> Response:
        body = await read_body(request, schemas.InvertRequest, limits)
        if len(body.vectors or body.texts or ()) > 1:
            raise InputError("A stream takes one vector or text.", "Use /v1/invert for several.")
        with contextlib.ExitStack() as stack:
            stack.enter_context(engine.place())
            events = service.stream(body)
            first = await unless_gone(request.receive, events.__anext__())
            kept = stack.pop_all()
        return EventStream(_told(events, first), limits.request_seconds, kept)

    @app.post(
        "/v1/trace.svg",
        response_class=Response,
        responses={**failures, 200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}},
        openapi_extra=takes(PostedTrace),
        summary="The steps of a stream as an animated picture",
    )
    async def trace(request: Request) -> Response:
        body = await read_body(request, PostedTrace, limits)
        with engine.place():
            return Response(await asyncio.to_thread(picture, body), media_type="image/svg+xml")

    _describe(app)
    if STATIC.is_dir():
        app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
    return app


def _failures() -> dict[int | str, dict[str, Any]]:
    """How errors are answered, for the OpenAPI document."""
    reasons = {
        400: "No JSON, or values that do not fit together",
        401: "No token, or a wrong one",
        403: "A page of another site",
        408: "The body came too slowly",
        413: "The body is too long",
        415: "Another type than application/json",
        421: "Another name than localhost in Host",
        422: "Missing, unknown or impossible fields",
        429: "Too many requests of this client; see Retry-After",
        503: "All places are taken, or it took too long; see Retry-After",
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
    return {status: {"description": text, "content": content} for status, text in reasons.items()}


async def _told(
    events: AsyncGenerator[tuple[str, Any], None], first: tuple[str, Any]
) -> AsyncGenerator[tuple[str, Any], None]:
    """The events, an error as the last one."""
    try:
        yield first
        async for event in events:
            yield event
    except UnembedError as error:
        yield "error", {"message": error.what, "hint": error.do}
    except Exception:
        log.exception("A stream failed.")
        yield "error", {"message": BROKEN, "hint": REPORT}
    finally:
        await events.aclose()


def _describe(app: FastAPI) -> None:
    """Add the bodies, which the routes read themselves, to the OpenAPI document."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            parts = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (schemas.EmbedRequest, schemas.InvertRequest, schemas.Failure, PostedTrace):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                parts.update(schema.pop("$defs", {}))
                parts[model.__name__] = schema
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _handle_errors(app: FastAPI) -> None:
    """Answer every error with what is wrong and what to do."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return failure(error.status, error.message, error.hint, error.headers)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        return failure(503, error.what, error.do, {"retry-after": str(error.retry_after)})

    @app.exception_handler(UnembedError)
    async def unusable(_: Request, error: UnembedError) -> Response:
        known = not isinstance(error, EncoderError | EncoderMismatchError)
        return failure(400 if known else 503, error.what, error.do)

    @app.exception_handler(TimeoutError)
    async def late(_: Request, error: TimeoutError) -> Response:
        return failure(
            503, "The request took too long.", "Send fewer vectors, or ask for fewer passes.", {"retry-after": "5"}
        )

    @app.exception_handler(Gone)
    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return failure(500, BROKEN, REPORT)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        hint = "See /openapi.json for what there is."
        return failure(error.status_code, f"{error.detail}.", hint, dict(error.headers or {}))
