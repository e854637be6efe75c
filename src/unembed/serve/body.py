"""The body of a request: read within its limits, then counted, then checked, cheapest first.

Contents: `read_body`, `forget_body`; `BodyShape`, `Shaped`, `shape_of`: what a JSON text holds, counted, not parsed.

A parser makes an object for every value and a checker an error for every wrong one, and both hold the interpreter while
they do. Counting takes a few passes over the bytes, whatever they are, so only bodies of a plausible shape are parsed.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from unembed.serve.limits import Limits, Refused

FAULTS = 100
"""Faults of a body that are looked at, to report the first."""

DESCRIBED = "Change it as /openapi.json describes."

T = TypeVar("T", bound="Shaped")


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


BLOCK = 1 << 20


class BodyShape(NamedTuple):
    """Numbers of things in a JSON text; upper bounds where it is not JSON.

    Attributes:
        lists: opened lists.
        objects: opened objects.
        keys: keys of objects.
        values: values of lists and objects, and the whole.
    """

    lists: int
    objects: int
    keys: int
    values: int

    def exceeds(self, most: BodyShape) -> str | None:
        """Name the first thing there is more of than `most` allows, None where there is none."""
        for name, found, allowed in zip(self._fields, self, most, strict=True):
            if found > allowed:
                return f"{found:,} {name}, and at most {allowed:,} can be meant"
        return None


class Shaped(BaseModel):
    """A body with bounds on what its JSON holds."""

    shape: ClassVar[BodyShape]


def shape_of(text: bytes) -> BodyShape:
    """Count what lies outside of strings."""
    counts = np.zeros(4, dtype=np.int64)
    inside = False
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    whole = np.frombuffer(plain, dtype=np.uint8)
    for start in range(0, len(whole), BLOCK):
        part = whole[start : start + BLOCK]
        within = np.logical_xor.accumulate(part == ord('"')) ^ inside
        inside = bool(within[-1])
        outside = part[~within]
        counts += [np.count_nonzero(outside == ord(sign)) for sign in "[{:,"]
    lists, objects, keys, commas = (int(count) for count in counts)
    return BodyShape(lists, objects, keys, commas + lists + objects + 1)
