"""Bodies of HTTP requests through the whole application: each is answered, or refused in the form of the contract.

    python -m benchmarks.robustness.fuzz_bodies --count 100000 --seed 0 --out docs/results/fuzz-bodies.json

Good bodies of every route that takes one are damaged in turn: bytes as in `fuzzing.mutate`, or values (a field of
another type, out of range, missing, unknown, repeated, nested, very long), and sent in pieces of any size to a server
of a tiny model. An answer of 2xx counts as read. Anything else than 2xx, 4xx and 503 is a failure, and so is a refusal
without its two sentences or without the security headers. `fuzzing.py` says how inputs are tried.
"""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness import fuzzing
from benchmarks.robustness.fuzzing import Case, Fuzzer, mutate
from tests.helpers.serving import some_vectors, tiny_checkpoint
from unembed import Inverter
from unembed.serve.app import create_app
from unembed.serve.guard import HEADERS
from unembed.serve.limits import Limits

CELL = {"id": 5, "text": "a", "masked": False, "confidence": 0.5, "chosen": True, "remasked": False}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embed", {"texts": ["the old man and the sea", "a small red house"]}),
    ("/v1/invert", {"vectors": some_vectors(2), "options": {"strategy": "adaptive", "passes": 2}, "tokens": True}),
    ("/v1/invert", {"texts": ["a dog"], "options": {"passes": 2, "lengths": 2}, "alternatives": True, "trace": True}),
    ("/v1/invert", {"vectors": some_vectors(1), "options": {"passes": 2}, "queries": 3, "refinement": "best-of"}),
    ("/v1/invert/stream", {"vectors": some_vectors(1), "transform": {"dimensions": 9, "noise": 0.1, "bits": 3}}),
    (
        "/v1/trace.svg",
        {
            "strategy": "adaptive",
            "dimension": 24,
            "recovered": "a b",
            "confidence": 0.5,
            "cosine": 0.9,
            "steps": [{"index": 0, "pass": 1, "canvas": [CELL, CELL]}],
            "refinements": [{"queries": 1, "cosine": 0.5, "tokens": ["a", "b"]}],
        },
    ),
]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    64,
    65,
    128,
    2**31,
    2**53,
    2**63,
    2**64,
    10**30,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "a",
    "\x00",
    "\u202e",
    "\ud800",
    "é" * 300,
    "a " * 12_000,
    "adaptive",
    "prior",
    "left-to-right",
    "remdm",
    [],
    [[]],
    [[[]]],
    {},
    {"a": {}},
    [1] * 8193,
    [[1.0] * 24] * 65,
    [[0.0] * 24],
    [[1e308] * 24],
    ["a"] * 65,
]
NAMES = [
    "vector",
    "texts",
    "vectors",
    "seed",
    "beam",
    "samples",
    "lengths",
    "temperature",
    "passes",
    "__class__",
    "",
    "\n",
]


def damaged(value: Any, generator: np.random.Generator) -> Any:
    """Change one or a few values somewhere within a body."""
    whole = [copy.deepcopy(value)]
    for _ in range(int(generator.choice([1, 1, 1, 2, 3]))):
        parent: Any = whole
        key: Any = 0
        while isinstance(parent[key], dict | list) and parent[key] and generator.random() < 0.75:
            parent = parent[key]
            key = list(parent)[generator.integers(len(parent))] if isinstance(parent, dict) else None
            key = int(generator.integers(len(parent))) if key is None else key
        kind = int(generator.integers(5))
        odd = copy.deepcopy(ODD[generator.integers(len(ODD))])  # or a later change would make a circle
        if kind == 0 and isinstance(parent, dict):
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[NAMES[generator.integers(len(NAMES))]] = odd
        elif kind == 2 and isinstance(parent, list):
            parent.extend([parent[key]] * int(generator.integers(1, 70)))
        elif kind == 3:
            for _ in range(int(generator.choice([1, 3, 40, 250]))):
                parent[key] = [parent[key]]
        else:
            parent[key] = odd
        if not whole or not isinstance(whole[0], dict | list) or not whole[0]:
            break
    return whole[0] if whole else None


class Bodies(Fuzzer):
    """Bodies, through the application."""

    benchmark = "fuzz_bodies"

    def case(self, index: int, seed: int) -> Case:
        """Return damaged body number `index`; the routes come in turn, bytes and values by chance."""
        path, good = GOOD[index % len(GOOD)]
        generator = np.random.default_rng([seed, index])
        by_bytes = generator.random() < 0.5
        text = json.dumps(good if by_bytes else damaged(good, generator), ensure_ascii=bool(generator.random() < 0.5))
        data = text.encode(errors="surrogatepass")
        return Case(path, f"{path}-{'bytes' if by_bytes else 'values'}", mutate(data, generator) if by_bytes else data)

    def rehearse(self, folder: Path, seed: int) -> None:
        """Start the application and send the good bodies."""
        inverter = Inverter.from_pretrained(tiny_checkpoint(folder / "tiny", token_prior=True), device="cpu")
        self.app = create_app(inverter, limits=Limits(rate=0, request_seconds=5), version="0")
        self.runner = asyncio.Runner()
        for index, (path, good) in enumerate(GOOD):
            found = self.attempt(Case(path, path, json.dumps(good).encode()), index, folder)
            assert found == "read", (path, found)

    def attempt(self, case: Case, index: int, folder: Path) -> str:
        """Send a body."""
        status, headers, body = self.runner.run(self._send(case, np.random.default_rng(index)))
        if not HEADERS.items() <= headers.items():
            raise AssertionError("the security headers are missing")
        if status == 200:
            return "read"
        error = json.loads(body)["error"]
        if not (400 <= status < 500 or status == 503):
            raise AssertionError(f"status {status}: {error}")
        if not (error["message"].endswith(".") and error["hint"].endswith((".", "?"))) or len(body) > 2000:
            raise AssertionError(f"these are not two sentences: {error}")
        if self.app.state.places.taken:
            raise AssertionError("a place is still held")
        return "refused"

    async def _send(self, case: Case, generator: np.random.Generator) -> tuple[int, dict[str, str], bytes]:
        cuts = sorted(generator.integers(0, len(case.data) + 1, size=int(generator.choice([0, 0, 1, 5]))).tolist())
        ends = [*cuts, len(case.data)]
        pieces = [case.data[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
        status, headers, body = 0, {}, b""
        never = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
            await never.wait()
            return {}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, headers, body
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                body += message["body"]

        head = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": case.kind, "raw_path": case.kind.encode(), "headers": head}
        rest = {
            "query_string": b"",
            "http_version": "1.1",
            "client": ("127.0.0.1", 1),
            "scheme": "http",
            "root_path": "",
        }
        await self.app({**scope, **rest}, receive, send)
        return status, headers, body


BODIES = Bodies()

if __name__ == "__main__":
    fuzzing.main(BODIES, __doc__)
