"""The body of a request: read within its limits, then checked, cheapest first.

Contents: `read_body`, `forget_body`.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from unembed.serve.limits import Limits, Refused
from unembed.serve.shape import Shaped, shape_of

FAULTS = 100
"""Faults of a body that are looked at, to report the first."""

DESCRIBED = "Change it as /openapi.json describes."

T = TypeVar("T", bound=Shaped)


async def read_body(request: Request, model: type[T], limits: Limits) -> T:
    """Read the body within its limits and check it.

    The JSON is parsed by pydantic-core, whose depth is bounded and which makes no Python objects before the types fit;
    only where it holds about as many values as the model can mean, and only the first fault of a list is looked for.

    Raises:
        Refused: 400 no JSON, 408 too slow, 413 too long, 415 another type, 422 other fields or values.
        ClientDisconnect: the client left.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"The body has the type {kind[:80] or 'none'!r}.", "Send Content-Type: application/json.")
    text = await _read(request, limits, limits.body_bytes)
    if text is None:
        raise Refused(
            413, f"The body is longer than {limits.body_bytes} bytes.", "Send fewer vectors or texts at a time."
        )
    if (excess := shape_of(text).exceeds(model.shape)) is not None:
        raise Refused(422, f"The body holds {excess}.", DESCRIBED)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _explain(error) from None


async def forget_body(request: Request, limits: Limits) -> None:
    """Read a body within its limits and keep nothing, so that the client reads why it was refused.

    Raises:
        Refused: 408 too slow.
        ClientDisconnect: the client left.
    """
    await _read(request, limits, 0)


async def _read(request: Request, limits: Limits, most: int) -> bytes | None:
    """The body, None where it is longer than `most` bytes."""
    body, count = bytearray(), 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                count += len(chunk)
                if count <= most:
                    body += chunk
                else:
                    body.clear()
                if count > 16 * limits.body_bytes:
                    break
    except TimeoutError:
        raise Refused(
            408, f"The body did not arrive within {limits.body_seconds:g} seconds.", "Send it at once."
        ) from None
    return bytes(body) if count <= most else None


def _explain(error: ValidationError) -> Refused:
    """Tell the first fault of a body; what it held is not repeated."""
    if error.error_count() > FAULTS:  # pydantic describes all of them or none
        return Refused(422, f"The body has {error.error_count():,} faults.", DESCRIBED)
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:200]
    text = first["msg"][:300]
    if first["type"] == "json_invalid":
        return Refused(400, f"The body is not JSON that can be read: {text}.", "Send one JSON object.")
    return Refused(422, f"{where or 'The body'}: {text}.", DESCRIBED)
