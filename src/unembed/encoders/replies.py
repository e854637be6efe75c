"""What an embedding endpoint answered: vectors out of a reply, or what its refusal says.

Contents: `Reply`, `most_bytes`, `parse_reply`, `too_much`, `read_reply`, `holds_part`, `refusal`, `wait_asked_for`.

Nothing of a server's words is trusted: size, counts, indices, dimensions and numbers are checked, and what is quoted
from it is cut short and freed of control characters and of the API key.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from unembed.errors import EncoderError

if TYPE_CHECKING:
    import numpy as np

_QUOTED = 200
_UNKNOWN = 8192  # dimensions, where none are known
_AROUND = 1 << 16


@dataclass(frozen=True)
class Reply:
    """One answer: vectors (n, d) float32 in the order of the inputs, the tokens counted or None, the model's name."""

    vectors: np.ndarray
    tokens: int | None
    model: str


def most_bytes(count: int, dimension: int) -> int:
    """Bytes that an honest reply has at most: 40 a component (JSON, indented), and some around each vector."""
    return count * (40 * (dimension or _UNKNOWN) + 1024) + _AROUND


def parse_reply(content: bytes, count: int, where: str, dimension: int = 0) -> Any:
    """Parse JSON whose brackets and commas are no more than those of the vectors that were asked for.

    Parsing makes an object of 64 bytes out of "{}"; so what would make too many is refused before.

    Args:
        content: as it came.
        count: number of inputs.
        where: the endpoint, for messages.
        dimension: what vectors must have; 0: any up to 8,192.

    Raises:
        EncoderError: far more than was asked for.
        ValueError: no JSON.
    """
    most = {b"{": 4 * count + 64, b"[": 2 * count + 64, b",": count * ((dimension or _UNKNOWN) + 16) + 256}
    if any(content.count(mark) > allowed for mark, allowed in most.items()):
        raise too_much(where)
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("lists within lists") from error


def too_much(where: str) -> EncoderError:
    """The error of a reply that is larger than what was asked for."""
    return EncoderError(
        f"The endpoint {where} answers with more than the vectors that were asked for.",
        "Check whether it speaks OpenAI's embeddings protocol, and name the dimensions if the model has more than "
        f"{_UNKNOWN}.",
    )


def read_reply(body: Any, count: int, where: str, dimension: int = 0) -> Reply:
    """Read a parsed JSON reply.

    Args:
        body: the parsed JSON.
        count: number of inputs.
        where: the endpoint, for messages.
        dimension: what vectors must have; 0: any, but all the same.

    Raises:
        EncoderError: another number of vectors, another dimension, or something that is not a vector.
    """
    import numpy as np

    broken = f"Check whether {where} speaks OpenAI's embeddings protocol."
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise EncoderError(f"The endpoint {where} answered without a list of vectors.", broken)
    indices = [item.get("index", place) for place, item in enumerate(data)]
    if len(data) != count or not all(type(i) is int for i in indices) or sorted(indices) != list(range(count)):
        raise EncoderError(f"The endpoint {where} answered with {len(data)} vectors for {count} texts.", broken)
    rows: list[np.ndarray] = [np.zeros(0)] * count
    for index, item in zip(indices, data, strict=True):
        rows[index] = _vector(item.get("embedding"), dimension, where)
    wanted = dimension or len(rows[0])
    wrong = next((len(row) for row in rows if len(row) != wanted), None)
    if wrong is not None or not wanted:
        raise EncoderError(
            f"The endpoint {where} answered with a vector of {wrong or 0} dimensions where {wanted} were expected.",
            "Name the model and the dimensions that the vectors were made with.",
        )
    with np.errstate(over="ignore"):  # what overflows is found below
        vectors = np.stack(rows).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise EncoderError(f"The endpoint {where} answered with numbers that are not finite.", "Fix the server.")
    usage = body.get("usage")
    counted = [usage.get(key) for key in ("total_tokens", "prompt_tokens")] if isinstance(usage, dict) else []
    tokens = next((c for c in counted if type(c) is int and c >= 0), None)
    return Reply(vectors, tokens, str(body.get("model") or "")[:_QUOTED])


def holds_part(text: str, key: str) -> bool:
    """Whether a text that a server sent repeats eight characters of the API key (or all of a shorter one)."""
    size = min(8, len(key))
    return size > 0 and any(key[at : at + size] in text for at in range(len(key) - size + 1))


def _vector(value: Any, dimension: int, where: str) -> np.ndarray:
    """One vector, from JSON numbers or from base64 of float32 (or float64, where the length says so)."""
    import numpy as np

    try:
        if isinstance(value, str):
            raw = base64.b64decode(value, validate=True)
            kind = "<f8" if dimension and len(raw) == 8 * dimension else "<f4"
            return np.frombuffer(raw, dtype=kind).astype(np.float64)
        row = np.asarray(value)
        if row.ndim != 1 or row.dtype.kind not in "iuf":
            raise ValueError("no list of numbers")
        return row.astype(np.float64)
    except (ValueError, TypeError, binascii.Error) as error:
        raise EncoderError(
            f"The endpoint {where} answered with an embedding that is neither numbers nor base64.",
            f"Check whether {where} speaks OpenAI's embeddings protocol.",
        ) from error


def refusal(status: int, body: bytes, key: str) -> tuple[str, str]:
    """What an error reply says.

    Args:
        status: HTTP status.
        body: as it came.
        key: the API key, which is not repeated.

    Returns:
        The message, cut short and in brackets after the status ("429: too many requests"), and the error's code.
    """
    text, code = "", ""
    try:
        value = json.loads(body)
        part = value.get("error", value) if isinstance(value, dict) else value
        if isinstance(part, dict):
            code = str(part.get("code") or part.get("type") or "")
            part = part.get("message") or part.get("detail") or ""
        text = str(part)
    except (ValueError, RecursionError):
        text = body[: 4 * _QUOTED].decode("utf-8", "replace")
    if key:
        text, code = text.replace(key, "***"), code.replace(key, "***")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text if len(text) <= _QUOTED else text[:_QUOTED] + "..."
    return f"{status}: {text.rstrip('.')}" if text else str(status), code


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds that `retry-after-ms` or `Retry-After` (seconds or a date, RFC 9110 section 10.2.3) ask for, or None."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if seconds == seconds and seconds < float("inf"):
            return max(seconds, 0.0)
    return None
