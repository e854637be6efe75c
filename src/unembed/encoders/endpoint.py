"""How an embedding endpoint is named, and how it is asked: what a spec says and which part of it is the identity.

Contents: `Endpoint`, `parse_endpoint`, `without_address`, `ENDPOINTS`.

    openai:text-embedding-3-small?dimensions=256
    http://127.0.0.1:8000/v1?model=NAME&tokenizer=hashing&batch_size=64&price=0.02

A key is never part of a spec: it is read from an environment variable. What shards and checkpoints keep of a spec is a
name that says which vectors came back, "endpoint:MODEL" or "endpoint:MODEL?dimensions=256": neither an address nor the
name of a variable, because a file that comes from elsewhere must not say where texts and keys are sent.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from unembed.checks import nearest
from unembed.errors import EncoderError

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
_FORMATS = ("float", "base64")
ENDPOINTS = ("http://", "https://", "openai:")
"""How the spec of an endpoint begins."""


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's embeddings protocol, and the manners towards it.

    Attributes:
        url: base address; texts are posted to {url}/embeddings.
        model: name of the model there.
        dimensions: components that the server is asked for; 0: as many as the model has.
        encoding_format: how vectors travel, "float" (JSON numbers) or "base64" (float32, little-endian; smaller).
        tokenizer: whose tokens the denoiser writes: "minilm", "hashing[:d]", another encoder's name, or a
            tokenizer.json file.
        key_env: environment variable of the API key; without one no key is sent, which OpenAI refuses.
        prompt: text put before every input.
        batch_size: most texts a request.
        batch_tokens: most tokens a request, estimated at 4 characters each; a longer text goes alone.
        concurrency: requests under way at the same time.
        timeout: seconds that a request may take in all.
        retries: how often a request is repeated after a failure that may pass.
        backoff: seconds before the first repetition; each later one waits twice as long, at most a minute, +-50%.
        requests_per_minute: most requests in any 60 seconds; 0: no limit.
        tokens_per_minute: most tokens in any 60 seconds; 0: no limit.
        price: of a million tokens, in any currency; 0: the cost is not reported.
    """

    url: str
    model: str
    dimensions: int = 0
    encoding_format: str = "float"
    tokenizer: str = "minilm"
    key_env: str = "UNEMBED_API_KEY"
    prompt: str = ""
    batch_size: int = 128
    batch_tokens: int = 50_000
    concurrency: int = 4
    timeout: float = 60.0
    retries: int = 6
    backoff: float = 0.5
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    price: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("batch_size", "batch_tokens", "concurrency", "timeout"):
            if getattr(self, name) <= 0:
                raise EncoderError(f"The endpoint's {name} is {getattr(self, name)}.", "Use a number above 0.")
        for name in ("dimensions", "retries", "backoff", "requests_per_minute", "tokens_per_minute", "price"):
            if getattr(self, name) < 0:
                raise EncoderError(f"The endpoint's {name} is {getattr(self, name)}.", "Use 0 or a number above it.")
        if self.encoding_format not in _FORMATS:
            raise EncoderError(
                f"The endpoint's encoding_format is {self.encoding_format!r}.", f"Use {' or '.join(_FORMATS)}."
            )

    @property
    def name(self) -> str:
        """Which vectors are asked for: the model and the dimensions, without the way to them."""
        return _name(self.model, self.dimensions)


def _name(model: str, dimensions: int) -> str:
    return f"endpoint:{model}" + (f"?dimensions={dimensions}" if dimensions else "")


def without_address(name: str) -> str:
    """The name that an encoder is known by in files, where `name` may be the spec of an endpoint, as 0.1.0 kept it."""
    if "://" not in name and not name.startswith("openai:"):
        return name
    before, _, query = name.partition("?")
    asked = dict(parse_qsl(query))
    dimensions = asked.get("dimensions", "")
    model = before.removeprefix("openai:") if before.startswith("openai:") else asked.get("model", "unknown")
    return _name(model, int(dimensions) if dimensions.isdecimal() and len(dimensions) < 9 else 0)


_TYPES: dict[str, type] = {
    f.name: {"int": int, "float": float}.get(str(f.type), str) for f in fields(Endpoint) if f.name != "url"
}


def parse_endpoint(spec: str, **options: Any) -> Endpoint:
    """Read a spec.

    Args:
        spec: "openai:MODEL", "http://..." or "https://..."; after a question mark the attributes of `Endpoint`.
        options: the same attributes; they go before those of the spec.

    Raises:
        EncoderError: no model, an unknown key, a value of the wrong type, or credentials in the address.
    """
    before, _, query = spec.partition("?")
    asked: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    for key in [*asked, *options]:
        if key not in _TYPES:
            hint = nearest(key, _TYPES, f"Its options are {', '.join(_TYPES)}.")
            raise EncoderError(f"An endpoint has no option {key!r}.", hint)
    values = {key: _convert(key, value) for key, value in {**asked, **options}.items()}
    if before.startswith("openai:"):
        values = {"model": before.removeprefix("openai:"), "key_env": OPENAI_KEY, **values}
        address = os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI
        return Endpoint(_address(address), **_named(values, before))
    url = _address(before)
    return Endpoint(url, **_named(values, url))


def _address(address: str) -> str:
    """Check a base address and drop what may follow it."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or (port is not None and port < 1) or parts.scheme not in ("http", "https"):
        raise EncoderError(
            "The address of the endpoint cannot be read.", 'Write it like "http://127.0.0.1:8000/v1?model=NAME".'
        )
    if "@" in parts.netloc:
        raise EncoderError(
            f"The address of the endpoint at {host} holds a user or a password, which would be stored with results.",
            "Put the key into the environment variable UNEMBED_API_KEY instead.",
        )
    path = parts.path.rstrip("/").removesuffix("/embeddings")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _named(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Refuse an endpoint without a model."""
    if not values.get("model"):
        raise EncoderError(f"The endpoint {where} names no model.", 'Add "?model=NAME", or write "openai:NAME".')
    return values


def _convert(key: str, value: Any) -> Any:
    """A value of the type that its key has."""
    kind = _TYPES[key]
    try:
        found = kind(value)
        if kind is float and not math.isfinite(found):
            raise ValueError
        return found
    except (TypeError, ValueError) as error:
        raise EncoderError(
            f"The endpoint's {key} is not {'a whole number' if kind is int else 'a number'}.", "Correct the value."
        ) from error
