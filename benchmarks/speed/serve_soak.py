"""Five minutes with clients that vanish: memory, threads and places of the server over time.

    python -m benchmarks.speed.serve_soak                # docs/results/serve-soak.json and the table of docs/serve.md
    python -m benchmarks.speed.serve_soak --seconds 20 --out tried.json

Each of the clients sends one request after the other: vectors to invert, texts to embed, streams, refinements with a
few queries. A part of them closes its connection after a random time instead of reading the answer. Whoever reads an
answer to a known vector checks it. The server is asked for its places, and /proc for its memory and threads.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.common import machine
from benchmarks.speed.serve_common import ROOT, Client, Served, examples
from reports.marks import fill
from unembed.files import read_json, write_json

TEXTS = ["the invoice was paid in march", "she left before the doctor called", "a small red house near the station"]
ADAPTIVE = {"strategy": "adaptive"}


class Crowd:
    """Clients, and what became of their requests."""

    def __init__(self, port: int, vectors: list[list[float]], alone: list[str], vanish: float) -> None:
        self.port, self.vectors, self.alone, self.vanish = port, vectors, alone, vanish
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()

    def run(self, seed: int) -> None:
        """Send requests until it is over."""
        chance = random.Random(seed)
        while not self.over.is_set():
            client = Client(self.port, timeout=120)
            timer = None
            if chance.random() < self.vanish:
                sock_ready = client.connection
                sock_ready.connect()
                timer = threading.Timer(chance.expovariate(4), self._vanish, (client,))
                timer.start()
            try:
                kind = self._request(client, chance)
                if timer is not None and kind.startswith("cut"):
                    kind = "vanished"
                self.counts[kind] += 1
                if kind.startswith("status"):
                    self.over.wait(chance.uniform(0.5, 1.5))  # Retry-After is one second or more
            except Exception:  # the connection was closed under it
                self.counts["vanished" if timer is not None else "failed"] += 1
            finally:
                if timer is not None:
                    timer.cancel()
                client.close()

    def _vanish(self, client: Client) -> None:
        sock = client.connection.sock
        if sock is not None:
            sock.shutdown(2)
        client.close()

    def _request(self, client: Client, chance: random.Random) -> str:
        number = chance.randrange(len(self.vectors))
        kind = chance.choice(["invert", "invert", "stream", "stream", "embed", "default", "queries"])
        body: dict[str, Any] = {"vectors": [self.vectors[number]], "options": ADAPTIVE}
        if kind == "stream":
            last = ""
            for name, value in client.events(body):
                last = name
                text = value["result"]["text"] if name == "done" else ""
            if last.startswith("status"):
                return last
            if last != "done":
                return f"cut after {last}"
            return "right" if text == self.alone[number] else "wrong"
        path = "/v1/embed" if kind == "embed" else "/v1/invert"
        if kind == "embed":
            body = {"texts": TEXTS}
        elif kind == "default":
            body = {"vectors": self.vectors[number : number + 3]}
        elif kind == "queries":
            body = {**body, "queries": 8}
        status, found = client.call("POST", path, body)
        if status != 200:
            return f"status {status}"
        if kind == "invert":
            return "right" if found["results"][0]["text"] == self.alone[number] else "wrong"
        return kind


def table(found: dict[str, Any]) -> str:
    """The table of docs/serve.md."""
    counts, samples = found["requests"], found["samples"]
    wrong = sum(n for name, n in counts.items() if name.startswith(("wrong", "failed", "cut")))
    lines = [
        f"{found['machine']['summary']}; load before: {found['machine']['load']:.1f}"
        + (f" ({found['note']})" if found["note"] else "")
        + f". Measured by `benchmarks/speed/serve_soak.py`: {found['seconds']:.0f} seconds, {found['clients']} "
        f"clients, {sum(counts.values())} requests, of which {counts.get('vanished', 0)} vanished; "
        f"{counts.get('right', 0)} answers checked and right, {wrong} wrong or failed, "
        f"{counts.get('status 503', 0)} refused for want of a place.",
        "",
        "| seconds | memory (MiB) | threads | places taken |",
        "|---:|---:|---:|---:|",
    ]
    step = max(1, len(samples) // 10)
    for sample in [*samples[:-1:step], samples[-1]]:
        lines.append(f"| {sample['seconds']:.0f} | {sample['mib']:.0f} | {sample['threads']} | {sample['taken']} |")
    lines += [
        "",
        f"The last row is after the last client had left. From the second fifth of the run to its last fifth, memory "
        f"went from {found['mib_early']:.0f} to {found['mib_late']:.0f} MiB on average.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--vanish", type=float, default=0.4, help="share of the requests that nobody waits for")
    parser.add_argument("--every", type=float, default=5)
    parser.add_argument("--model", default="default")
    parser.add_argument("--note", default="", help="what ran beside")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results" / "serve-soak.json"))
    args = parser.parse_args()
    before = machine()
    samples: list[dict[str, float]] = []
    with Served("--model", args.model, "--queue", "10") as server:
        client = Client(server.port)
        vectors = examples(16, client.call("GET", "/v1/models")[1]["models"][0]["dimension"])
        alone = [
            client.call("POST", "/v1/invert", {"vectors": [v], "options": ADAPTIVE})[1]["results"][0]["text"]
            for v in vectors
        ]
        crowd = Crowd(server.port, vectors, alone, args.vanish)
        threads = [threading.Thread(target=crowd.run, args=(i,)) for i in range(args.clients)]
        begin = time.monotonic()

        def sample() -> None:
            samples.append(
                {
                    "seconds": round(time.monotonic() - begin, 1),
                    "mib": round(server.resident / 2**20, 1),
                    "threads": server.threads,
                    "taken": server.taken,
                }
            )

        for thread in threads:
            thread.start()
        while time.monotonic() - begin < args.seconds:
            sample()
            time.sleep(args.every)
        crowd.over.set()
        for thread in threads:
            thread.join()
        end = time.monotonic() + 60
        while server.taken and time.monotonic() < end:
            time.sleep(0.2)
        sample()
    memory = np.array([row["mib"] for row in samples[:-1]])
    fifth = max(1, len(memory) // 5)
    found = {
        "kind": "serve-soak",
        "machine": before,
        "note": args.note,
        "seconds": args.seconds,
        "clients": args.clients,
        "vanish": args.vanish,
        "requests": dict(sorted(crowd.counts.items())),
        "mib_early": round(float(memory[fifth : 2 * fifth].mean() if len(memory) > fifth else memory.mean()), 1),
        "mib_late": round(float(memory[-fifth:].mean()), 1),
        "samples": samples,
    }
    write_json(args.out, found)
    print({k: v for k, v in found.items() if k not in ("samples", "machine")}, samples[0], samples[-1], flush=True)
    if args.out == parser.get_default("out"):
        fill(ROOT / "docs" / "serve.md", "serve-soak", table(read_json(args.out)))


if __name__ == "__main__":
    main()
