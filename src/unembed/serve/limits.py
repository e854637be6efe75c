"""What a request may cost: size and time of its body, its rate, its running time.

Contents: `Limits`, `Refused`, `read_body`, `Rates`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body_bytes: greatest body. A longer one is read up to 16 times that, and forgotten, so that the client reads
            why it was refused.
        body_seconds: until a body (and the head of a request) must have arrived.
        request_seconds: until a request must be answered.
        rate: requests a client may make in a second on average; 0 for no limit.
        burst: requests that a client may make at once.
        places: requests that may wait or run at a time.
        vectors: vectors or texts of a request.
        drafts: drafts that the decode of a vector may hold: lengths times samples, or the beam.
    """

    body_bytes: int = 4 * 2**20
    body_seconds: float = 10.0
    request_seconds: float = 120.0
    rate: float = 20.0
    burst: int = 60
    places: int = 64
    vectors: int = 64
    drafts: int = 64


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: of the answer.
        message: what is wrong.
        hint: what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, hint: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.headers = status, message, hint, headers or {}


async def read_body(request: Request, model: type[T], limits: Limits) -> T:
    """Read the body within its limits and check it.

    The JSON is parsed by pydantic-core, whose depth is bounded and which makes no Python objects before the types fit.

    Raises:
        Refused: 400 no JSON, 408 too slow, 413 too long, 415 another type, 422 other fields or values.
        ClientDisconnect: the client left.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"The body has the type {kind[:80] or 'none'!r}.", "Send Content-Type: application/json.")
    too_long = Refused(
        413, f"The body is longer than {limits.body_bytes} bytes.", "Send fewer vectors or texts at a time."
    )
    body, count = bytearray(), 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                count += len(chunk)
                if count <= limits.body_bytes:
                    body += chunk
                else:
                    body.clear()
                if count > 16 * limits.body_bytes:
                    break
    except TimeoutError:
        raise Refused(
            408, f"The body did not arrive within {limits.body_seconds:g} seconds.", "Send it at once."
        ) from None
    if count > limits.body_bytes:
        raise too_long
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> Refused:
    """Tell the first fault of a body; what it held is not repeated."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:200]
    text = first["msg"][:300]
    if first["type"] == "json_invalid":
        return Refused(400, f"The body is not JSON that can be read: {text}.", "Send one JSON object.")
    return Refused(422, f"{where or 'The body'}: {text}.", "Change it as /openapi.json describes.")


class Rates:
    """A bucket of `burst` requests for each client, refilled at `rate` a second; the oldest of many are forgotten."""

    def __init__(self, rate: float, burst: int, most: int = 4096) -> None:
        self.rate, self.burst, self.most = rate, burst, most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take one request of a client: 0, or the seconds after which there is one."""
        if self.rate <= 0:
            return 0.0
        now = time.monotonic()
        left, then = self._buckets.pop(client, (float(self.burst), now))
        left = min(self.burst, left + (now - then) * self.rate)
        taken = left >= 1
        self._buckets[client] = (left - 1 if taken else left, now)
        while len(self._buckets) > self.most:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) / self.rate
