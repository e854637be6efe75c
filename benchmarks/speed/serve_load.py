"""Load on loopback: clients at a time, batching against none as a ratio in one run, time to the first token.

    python -m benchmarks.speed.serve_load                     # docs/results/serve.json and the tables of docs/serve.md
    python -m benchmarks.speed.serve_load --clients 1,2 --requests 2 --rounds 1 --streams 3 --out tried.json

Two servers run, one that joins requests and one that does not (--no-batching); in each round first one, then the other
gets the same requests, and the order alternates. Each client sends vectors of its own, one a request, and checks that
each answer is the text that the vector alone has given before. Clients are threads of one other process on the same
machine, so what they take is part of the figures.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from typing import Any

from benchmarks.common import machine
from benchmarks.speed.serve_common import ROOT, Client, Served, examples, percentiles
from reports.marks import fill
from unembed.files import read_json, write_json


def run_clients(
    port: int, vectors: list[list[float]], clients: int, requests: int, options: dict[str, Any]
) -> tuple[float, list[float], list[tuple[int, str]]]:
    """Let clients send at the same time; returns seconds, waits, and (number of the vector, text) of each answer."""
    waits: list[float] = []
    answers: list[tuple[int, str]] = []
    ready = threading.Barrier(clients + 1)

    def work(number: int) -> None:
        client = Client(port)
        ready.wait()
        for turn in range(requests):
            mine = (number * requests + turn) % len(vectors)
            begin = time.perf_counter()
            status, body = client.call("POST", "/v1/invert", {"vectors": [vectors[mine]], "options": options})
            waits.append(time.perf_counter() - begin)
            answers.append((mine, body["results"][0]["text"] if status == 200 else f"status {status}"))
        client.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin, waits, answers


def first_tokens(port: int, vectors: list[list[float]], options: dict[str, Any]) -> dict[str, float]:
    """Time from sending a vector to the first event that shows a token, one stream after the other."""
    waits = []
    for vector in vectors:
        client = Client(port)
        begin = time.perf_counter()
        for name, value in client.events({"vectors": [vector], "options": options}):
            if name in ("preview", "step") and any(not place["masked"] for place in value["canvas"]):
                waits.append(time.perf_counter() - begin)
                break
        client.close()
    return percentiles(waits)


def levels(
    servers: dict[str, Served], vectors: list[list[float]], args: argparse.Namespace, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Measure each number of clients on both servers in turn."""
    alone: list[str] = []
    client = Client(servers["batching"].port)
    for vector in vectors:
        alone.append(
            client.call("POST", "/v1/invert", {"vectors": [vector], "options": options})[1]["results"][0]["text"]
        )
    out = []
    for clients in args.clients:
        rates: dict[str, list[float]] = {name: [] for name in servers}
        waits: dict[str, list[float]] = {name: [] for name in servers}
        wrong = lost = 0
        requests = max(1, args.requests // clients) if clients < 8 else max(1, args.requests * 2 // clients)
        for turn in range(args.rounds):
            order = list(servers) if turn % 2 == 0 else list(servers)[::-1]
            for name in order:
                seconds, found, answers = run_clients(servers[name].port, vectors, clients, requests, options)
                rates[name].append(clients * requests / seconds)
                waits[name] += found
                wrong += sum(text != alone[number] for number, text in answers)
                lost += clients * requests - len(answers)
        ratios = [a / b for a, b in zip(rates["batching"], rates["none"], strict=True)]
        out.append(
            {
                "clients": clients,
                "requests": clients * requests * args.rounds,
                "wrong": wrong,
                "lost": lost,
                "ratio": round(statistics.median(ratios), 2),
                "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
                **{
                    name: {"per_second": round(statistics.median(rates[name]), 2), **percentiles(waits[name])}
                    for name in servers
                },
            }
        )
        print(out[-1], flush=True)
    return out


def table(found: dict[str, Any]) -> str:
    """The tables of docs/serve.md."""
    lines = [
        f"{found['machine']['summary']}; load before: {found['machine']['load']:.1f}"
        + (f" ({found['note']})" if found["note"] else "")
        + f". Measured by `benchmarks/speed/serve_load.py`, {found['rounds']} rounds; one vector a request; the ratio "
        "is the median over rounds, with the least and the greatest. Waits in milliseconds.",
        "",
        "| strategy | clients | requests | wrong or lost | batching: texts/s | p50 | p99 | none: texts/s | p50 | p99 "
        "| ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in found["strategies"].items():
        for row in rows:
            a, b = row["batching"], row["none"]
            low, high = row["ratios"]
            lines.append(
                f"| {name} | {row['clients']} | {row['requests']} | {row['wrong'] + row['lost']} | {a['per_second']} | "
                f"{a['p50']} | {a['p99']} | {b['per_second']} | {b['p50']} | {b['p99']} | "
                f"{row['ratio']} ({low} to {high}) |"
            )
    lines += [
        "",
        f"From sending a vector to the first event that shows a token, over {found['streams']} streams, one at a time:",
        "",
        "| strategy | p50 | p99 | max |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {k} | {v['p50']} | {v['p99']} | {v['max']} |" for k, v in found["first_token"].items()]
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default=[1, 8, 64], type=lambda t: [int(part) for part in t.split(",")])
    parser.add_argument("--requests", type=int, default=64, help="of all clients together in a round, at least")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--strategies", default="adaptive,default")
    parser.add_argument("--vectors", type=int, default=64)
    parser.add_argument("--model", default="default")
    parser.add_argument("--note", default="", help="what ran beside")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results" / "serve.json"))
    args = parser.parse_args()
    options = {name: {} if name == "default" else {"strategy": name} for name in args.strategies.split(",")}
    before = machine()
    with Served("--model", args.model) as one, Served("--model", args.model, "--no-batching") as other:
        servers = {"batching": one, "none": other}
        model = Client(one.port).call("GET", "/v1/models")[1]["models"][0]
        vectors = examples(args.vectors, model["dimension"])
        first = {}
        for name, option in options.items():
            first_tokens(one.port, vectors[:3], option)
            shown = f"{name} ({model['defaults']['strategy']})" if name == "default" else name
            first[shown] = first_tokens(one.port, examples(args.streams, model["dimension"]), option)
            print(shown, first[shown], flush=True)
        strategies = {
            f"{name} ({model['defaults']['strategy']})" if name == "default" else name: levels(
                servers, vectors, args, option
            )
            for name, option in options.items()
        }
    write_json(
        args.out,
        {
            "kind": "serve-load",
            "machine": before,
            "note": args.note,
            "model": {"name": model["name"], "sha256": model["sha256"]},
            "rounds": args.rounds,
            "streams": args.streams,
            "strategies": strategies,
            "first_token": first,
        },
    )
    if args.out == parser.get_default("out"):
        fill(ROOT / "docs" / "serve.md", "serve-load", table(read_json(args.out)))


if __name__ == "__main__":
    main()
