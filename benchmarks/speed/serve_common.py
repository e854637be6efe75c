"""What the server's benchmarks share: a server in a process of its own, a plain client, and what a process takes.

Contents: `Served`, `Client`, `examples`, `percentiles`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
JSON = {"Content-Type": "application/json"}


class Served:
    """`unembed serve` on a free port of loopback; ends with the block.

    Args:
        options: more options of the command.
    """

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "unembed", "serve", "--port", "0", "--no-open", "--rate", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r":(\d+)/", line)
        if found is None:
            raise SystemExit(f"The server did not start: {line}")
        self.port = int(found[1])

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def resident(self) -> int:
        """Bytes in memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def threads(self) -> int:
        """Threads of the process."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return int(Client(self.port).call("GET", "/v1/models")[1]["load"]["taken"])


class Client:
    """A connection that is kept open."""

    def __init__(self, port: int, timeout: float = 600) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request and read the answer."""
        self.connection.request(method, path, None if body is None else json.dumps(body), JSON)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def events(self, body: Any) -> Iterator[tuple[str, Any]]:
        """Events of a stream as they come."""
        self.connection.request("POST", "/v1/invert/stream", json.dumps(body), JSON)
        answer = self.connection.getresponse()
        if answer.status != 200:
            answer.read()
            yield f"status {answer.status}", None
            return
        name = ""
        while line := answer.readline():
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                yield name, json.loads(line[6:])

    def close(self) -> None:
        """Close the connection, in the middle of whatever it does."""
        with contextlib.suppress(OSError):
            self.connection.close()


def examples(count: int, dimension: int) -> list[list[float]]:
    """Vectors of example texts; random ones for a model of another dimension than the shipped one's."""
    table = pq.read_table(ROOT / "examples" / "vectors.parquet", columns=["embedding"])
    rows: list[list[float]] = table["embedding"].to_pylist()
    if len(rows[0]) != dimension:
        rows = np.random.default_rng(0).normal(size=(count, dimension)).tolist()
    return [rows[i % len(rows)] for i in range(count)]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and greatest of waits, in milliseconds."""
    values = 1000 * np.asarray(seconds)
    return {
        "p50": round(float(np.percentile(values, 50)), 1),
        "p99": round(float(np.percentile(values, 99)), 1),
        "max": round(float(values.max()), 1),
    }
