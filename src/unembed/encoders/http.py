"""An encoder behind a server that speaks OpenAI's embeddings protocol, on this machine or far away.

Contents: `HttpEncoder`, `load_http`. Specs are read in `endpoint.py`, replies in `replies.py`.

Texts go out in batches by several threads and come back in their order. What may pass is tried again with exponential
back-off and jitter: 408, 409, 429, 5xx, a broken connection, a reply that is cut short or no JSON, a timeout; a server
that names a time to wait is obeyed. Everything else is an error at once. The API key is read from an environment
variable when a request is made; it is in no attribute, file, log line or message.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from unembed.encoders.endpoint import OPENAI, OPENAI_KEY, Endpoint, parse_endpoint
from unembed.encoders.identity import EncoderIdentity, make_identity
from unembed.encoders.pacing import RequestPace, Usage
from unembed.encoders.replies import (
    Reply,
    holds_part,
    most_bytes,
    parse_reply,
    read_reply,
    refusal,
    too_much,
    wait_asked_for,
)
from unembed.errors import EncoderError, InputError

if TYPE_CHECKING:
    import ssl

    import httpx2
    import numpy as np

_log = logging.getLogger(__name__)


@cache
def _tls() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes 40 ms, so one context serves all requests."""
    import httpx2

    return httpx2.create_ssl_context()


_PLAIN = {"Accept-Encoding": "identity"}
_PASSING = {408, 409, 425, 429}
_LONGEST_WAIT = 60.0
_PATIENCE = 600.0  # a server that asks for a longer pause is not waited for
_MOST_WORDS = 1 << 16  # bytes of a refusal that are read
_CHARACTERS = 4  # of a token, about, in English


class _PassingError(Exception):
    """A failure that may pass: what it was, and the seconds that the server wants to be left alone."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.what, self.wait = what, wait


class HttpEncoder:
    """A model on a server, behind the `Encoder` protocol.

    Args:
        endpoint: address, model and manners.
        tokenizer_json: the tokenizer whose tokens the denoiser writes; None to take the endpoint's by its name.

    Attributes:
        name: the model behind it, without the address: what shards and checkpoints keep.
        usage: requests, tokens and cost so far.
    """

    def __init__(self, endpoint: Endpoint, tokenizer_json: str | None = None) -> None:
        """Ask nothing yet."""
        self.endpoint = endpoint
        self.name = endpoint.name
        self.prompt = endpoint.prompt
        self.usage = Usage(price=endpoint.price)
        self._pace = RequestPace(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._tokenizer_json = tokenizer_json
        self._dimension = endpoint.dimensions
        self._model = ""

    def __repr__(self) -> str:  # asks nothing
        return f"<HttpEncoder {self.name!r} at {self.endpoint.url}, {self._dimension or 'unknown'} dimensions>"

    @property
    def dimension(self) -> int:
        """Length of a vector; asks the server where the spec does not say."""
        return self._dimension or self.identity.dimension

    @cached_property
    def identity(self) -> EncoderIdentity:
        """The identity; embeds three probe texts. Its revision is the name under which the server knows the model."""
        identity = make_identity(self, name=self.name, prompt=self.prompt)
        return replace(identity, revision="" if self._model == self.endpoint.model else self._model)

    def tokenizer_json(self) -> str | None:
        """The tokenizer of the spec as JSON; the model's own cannot be had over the protocol."""
        if self._tokenizer_json is None:
            self._tokenizer_json = _tokenizer(self.endpoint.tokenizer)
        return self._tokenizer_json

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 (n, dimension), in the order of `texts`; an empty text is sent as one space.

        Raises:
            InputError: an item is not a valid string.
            EncoderError: the server refuses, does not answer or answers something else, also after repetitions.
        """
        import httpx2
        import numpy as np

        texts = list(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not _encodable(text):
                raise InputError(f"Text {row} is not a valid Unicode string.", "Pass a list of strings.")
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        inputs = [self.prompt + text or " " for text in texts]
        batches = list(self._batches(inputs))
        headers, key = self._headers()
        stop = threading.Event()
        limits = httpx2.Limits(max_connections=self.endpoint.concurrency)
        threads = min(self.endpoint.concurrency, len(batches))
        with (
            httpx2.Client(headers=headers, timeout=self.endpoint.timeout, limits=limits, verify=_tls()) as client,
            ThreadPoolExecutor(threads, thread_name_prefix="embeddings") as pool,
        ):
            try:
                parts = []
                if not self._dimension:  # the first reply fixes the dimension that all others must have
                    parts.append(self._ask(client, inputs[batches[0]], key, stop).vectors)
                    self._dimension = parts[0].shape[1]
                rest = [pool.submit(self._ask, client, inputs[b], key, stop) for b in batches[len(parts) :]]
                wait(rest, return_when=FIRST_EXCEPTION)
                failed = next((f for f in rest if f.done() and f.exception() is not None), None)
                parts += [f.result().vectors for f in ([failed] if failed else rest)]
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        return np.concatenate(parts)

    def _batches(self, inputs: list[str]) -> Iterator[slice]:
        """Runs of inputs that fit into a request by their number and their estimated tokens."""
        start = size = 0
        for row, text in enumerate(inputs):
            tokens = _estimate(text)
            if row > start and (row - start >= self.endpoint.batch_size or size + tokens > self.endpoint.batch_tokens):
                yield slice(start, row)
                start, size = row, 0
            size += tokens
        yield slice(start, len(inputs))

    def _headers(self) -> tuple[dict[str, str], str]:
        """Headers of a request, and the key that must not be shown."""
        name = self.endpoint.key_env
        key = os.environ.get(name, "").strip()
        if not key:
            return dict(_PLAIN), ""
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise EncoderError(f"The environment variable {name} holds no API key.", "Put only the key into it.")
        parts = urlsplit(self.endpoint.url)
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            _log.warning("The key in %s goes to %s without encryption.", name, parts.hostname)
        return {**_PLAIN, "Authorization": f"Bearer {key}"}, key

    def _ask(self, client: httpx2.Client, inputs: list[str], key: str, stop: threading.Event) -> Reply:
        """Embed one batch, repeating what may pass."""
        tokens = sum(_estimate(text) for text in inputs)
        for attempt in range(self.endpoint.retries + 1):
            ticket = self._pace.enter(tokens, stop)
            if stop.is_set():
                raise EncoderError("Another request failed.", "See its message.")
            try:
                reply = self._post(client, inputs, key)
            except _PassingError as failure:
                pause = self._pause(failure, attempt)
                self.usage.add(retries=1)
                _log.log(logging.WARNING if attempt else logging.INFO, "%s; waiting %.1f s.", failure.what, pause)
                stop.wait(pause)
                continue
            counted = tokens if reply.tokens is None else reply.tokens
            self._pace.correct(ticket, counted)
            estimated = 0 if reply.tokens is not None else counted
            self.usage.add(requests=1, texts=len(inputs), tokens=counted, estimated=estimated)
            self._model = reply.model if reply.model.isprintable() and not holds_part(reply.model, key) else ""
            return reply
        raise AssertionError("unreachable")

    def _pause(self, failure: _PassingError, attempt: int) -> float:
        """Seconds before the next attempt; an error after the last one or where the server asks for too long."""
        if attempt >= self.endpoint.retries:
            times = f", {attempt + 1} times" if attempt else ""
            raise EncoderError(f"{failure.what}{times}.", "Check the server, or try again later.") from failure
        if failure.wait is not None and failure.wait > _PATIENCE:
            raise EncoderError(
                f"{failure.what} and asks to wait {failure.wait:.0f} s.", "Try again after that time."
            ) from failure
        backoff = min(self.endpoint.backoff * 2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.5)
        if failure.wait is None:
            return backoff
        self._pace.hold(failure.wait)
        return failure.wait + min(backoff, 1.0) * random.random()  # not all threads at the same moment

    def _post(self, client: httpx2.Client, inputs: list[str], key: str) -> Reply:
        """One request."""
        import httpx2

        where, endpoint = f"{self.endpoint.url} ({self.endpoint.model})", self.endpoint
        body: dict[str, Any] = {"model": endpoint.model, "input": inputs, "encoding_format": endpoint.encoding_format}
        if endpoint.dimensions:
            body["dimensions"] = endpoint.dimensions
        end = time.monotonic() + endpoint.timeout
        parts: list[bytes] = []
        size = 0
        try:
            with client.stream("POST", f"{endpoint.url}/embeddings", json=body) as response:
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise EncoderError(  # a few compressed bytes may become gigabytes
                        f"The endpoint {where} compresses its reply, which was not asked for.",
                        "Make the server obey Accept-Encoding: identity.",
                    )
                good = response.status_code == 200
                most = most_bytes(len(inputs), self._dimension) if good else _MOST_WORDS
                for part in response.iter_raw():
                    parts.append(part)
                    size += len(part)
                    if size > most and good:
                        raise too_much(where)
                    if size > most:
                        break
                    if time.monotonic() > end:
                        raise httpx2.ReadTimeout("the reply is slow")
        except httpx2.TimeoutException as error:
            raise _PassingError(f"The endpoint {where} did not answer within {endpoint.timeout:g} s") from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise EncoderError(f"The address {endpoint.url} cannot be used.", "Correct the address.") from error
        except httpx2.TransportError as error:
            raise _PassingError(f"The endpoint {where} cannot be reached ({_reason(error)})") from error
        except httpx2.HTTPError as error:
            raise _PassingError(f"The endpoint {where} sent a broken reply ({type(error).__name__})") from error
        content = b"".join(parts)
        if response.status_code != 200:
            self._refuse(response.status_code, dict(response.headers), content, key, where)
        try:
            value = parse_reply(content, len(inputs), where, self._dimension)
        except ValueError as error:
            raise _PassingError(f"The endpoint {where} answered with something that is not JSON") from error
        return read_reply(value, len(inputs), where, self._dimension)

    def _refuse(self, status: int, headers: dict[str, str], content: bytes, key: str, where: str) -> None:
        """Raise what a status other than 200 means."""
        said, code = refusal(status, content, key)
        failed = f"The endpoint {where} refuses ({said})"
        if code != "insufficient_quota" and (status in _PASSING or status >= 500):
            raise _PassingError(failed, wait_asked_for(headers))
        variable = self.endpoint.key_env
        if status in (401, 403):
            do = f"Check the key in {variable}." if key else f"Put a key into the environment variable {variable}."
        elif status == 404:
            do = f"Check the address and whether the server has the model {self.endpoint.model!r}."
        elif 300 <= status < 400:
            do = "Give the address that it redirects to; redirections are not followed with a key."
        elif status == 413:
            do = "Lower batch_size or batch_tokens."
        elif code == "insufficient_quota":
            do = "Raise the quota of the account."
        else:
            do = "Check the model, its dimensions and encoding_format, and lower batch_size."
        raise EncoderError(f"{failed}.", do)


def load_http(spec: str, **options: Any) -> HttpEncoder:
    """Open an endpoint; nothing is asked before the first use.

    Args:
        spec: see `encoders.endpoint`.
        options: attributes of `Endpoint`.

    Raises:
        EncoderError: a spec or an option that makes no sense, or no key where OpenAI or the spec itself wants one.
    """
    endpoint = parse_endpoint(spec, **options)
    wanted = endpoint.url == OPENAI or endpoint.key_env not in (Endpoint.key_env, OPENAI_KEY)  # one that a user names
    if wanted and not os.environ.get(endpoint.key_env, "").strip():
        raise EncoderError(
            f"The endpoint {endpoint.url} wants an API key; the environment variable {endpoint.key_env} holds none.",
            f"Set it: export {endpoint.key_env}=...",
        )
    return HttpEncoder(endpoint)


def _tokenizer(name: str) -> str | None:
    """The JSON of a tokenizer by the name of an encoder, or of a file."""
    if name == "minilm":
        from unembed.encoders.minilm import minilm_tokenizer_json

        return minilm_tokenizer_json()
    if name.partition(":")[0] == "hashing":
        from unembed.encoders.hashing import tokenizer_json

        return tokenizer_json()
    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EncoderError(
            f"There is no tokenizer {name!r}.", 'Use "minilm", "hashing", or a tokenizer.json file.'
        ) from error


def _reason(error: Exception) -> str:
    """The words of a transport error on one line, or its kind."""
    words = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()).rstrip(".")
    return words[:200] or type(error).__name__


def _estimate(text: str) -> int:
    """Tokens of a text, about."""
    return len(text) // _CHARACTERS + 1


def _encodable(text: str) -> bool:
    """Whether a text can be sent: no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
