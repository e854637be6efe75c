"""The routes of the server.

Contents: `create_app`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from unembed.errors import EncoderError, EncoderMismatchError, InputError, UnembedError
from unembed.serve import schemas
from unembed.serve.answers import Answer, EventStream, Gone, json_of, to_json, unless_gone
from unembed.serve.batching import Engine
from unembed.serve.body import Shaped, forget_body, read_body
from unembed.serve.drawing import PostedTrace, picture
from unembed.serve.guard import Guard, check_token, client_of, failure
from unembed.serve.limits import Busy, Limits, Place, Places, Rates, Refused, client
from unembed.serve.service import Service

if TYPE_CHECKING:
    from unembed.inverter import Inverter

Body = TypeVar("Body", bound=Shaped)

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
BROKEN = "The server has a defect, and this request hit it."
REPORT = "Report it with the request, if it may be shown."


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
    if token is not None:
        check_token(token, local)
    engine, places = Engine(inverter, batch=batch), Places(limits.places)
    service = Service(inverter, engine, places, limits, version)

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
    app.state.engine, app.state.places, app.state.limits = engine, places, limits
    stack = app.build_middleware_stack
    guard = partial(Guard, rates=Rates(limits.rate, limits.burst), token=token, local=local)
    app.build_middleware_stack = lambda: guard(stack())  # type: ignore[method-assign]  # around the errors' answers too
    _handle_errors(app)
    failures = _failures()

    def takes(model: type[BaseModel]) -> dict[str, Any]:
        reference = {"$ref": f"#/components/schemas/{model.__name__}"}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}

    async def admitted(request: Request) -> Place:
        client.set(client_of(request.scope))
        try:
            return places.take(client.get(), limits.request_seconds)
        except Busy:
            await forget_body(request, limits)
            raise

    async def answered(
        request: Request, model: type[Body], work: Callable[[Body], Coroutine[Any, Any, dict[str, Any]]]
    ) -> Response:
        async def answer() -> bytes:
            return await json_of(await work(body))

        with contextlib.ExitStack() as stack:
            place = stack.enter_context(await admitted(request))
            body = await place.within(read_body(request, model, limits))
            found = await place.within(unless_gone(request.receive, answer()))
            return Answer(found, place, stack.pop_all())

    @app.get("/healthz", response_model=schemas.Health, summary="Does the server run?")
    async def health() -> Any:
        return {"status": "ok"}

    @app.get("/v1/models", response_model=schemas.Models, responses=failures, summary="Models, strategies and limits")
    async def models() -> Any:
        return Response(to_json(service.models()), media_type="application/json")

    @app.post(
        "/v1/embed",
        response_model=schemas.Embeddings,
        responses=failures,
        openapi_extra=takes(schemas.EmbedRequest),
        summary="Texts to vectors",
    )
    async def embed(request: Request) -> Response:
        return await answered(request, schemas.EmbedRequest, service.embed)

    @app.post(
        "/v1/invert",
        response_model=schemas.Inversion,
        responses=failures,
        openapi_extra=takes(schemas.InvertRequest),
        summary="Vectors (or texts) to recovered texts",
    )
    async def invert(request: Request) -> Response:
        return await answered(request, schemas.InvertRequest, service.invert)

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
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(await admitted(request))
            body = await place.within(read_body(request, schemas.InvertRequest, limits))
            if len(body.vectors or body.texts or ()) > 1:
                raise InputError("A stream takes one vector or text.", "Use /v1/invert for several.")
            events = service.stream(body)
            first = await place.within(unless_gone(request.receive, events.__anext__()))
            return EventStream(_told(events, first), place, stack.pop_all())

    @app.post(
        "/v1/trace.svg",
        response_class=Response,
        responses={**failures, 200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}},
        openapi_extra=takes(PostedTrace),
        summary="The steps of a stream as an animated picture",
    )
    async def trace(request: Request) -> Response:
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(await admitted(request))
            body = await place.within(read_body(request, PostedTrace, limits))
            drawn = (await place.within(asyncio.to_thread(picture, body))).encode()
            return Answer(drawn, place, stack.pop_all(), "image/svg+xml")

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
