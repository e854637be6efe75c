"""Load against an older tree in one run: both servers get the same requests, first one, then the other, in turns.

python -m benchmarks.speed.serve_pairs --old /tmp/old-tree   # docs/results/serve-pairs.json, a table of docs/serve.md
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.speed.serve_common import ROOT, Client, Served, examples, percentiles
from benchmarks.speed.serve_load import run_clients
from reports.marks import fill
from unembed.files import read_json, write_json


def table(found: dict[str, Any]) -> str:
    """The table of docs/serve.md."""
    lines = [
        f"{found['machine']['summary']}; load before: {found['machine']['load']:.1f}"
        + (f" ({found['note']})" if found["note"] else "")
        + f". Measured by `benchmarks/speed/serve_pairs.py`: before is {found['old']}; {found['rounds']} rounds, the "
        "order alternates; the ratio is the median of new to old texts a second, with the least and the greatest. "
        "Waits in milliseconds.",
        "",
        "| clients | requests | wrong or lost | old: texts/s | p50 | p99 | new: texts/s | p50 | p99 | ratio |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["levels"]:
        a, b = row["old"], row["new"]
        lines.append(
            f"| {row['clients']} | {row['requests']} | {row['wrong']} | {a['per_second']} | {a['p50']} | {a['p99']} | "
            f"{b['per_second']} | {b['p50']} | {b['p99']} | {row['ratio']} ({row['ratios'][0]} to {row['ratios'][1]}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="a worktree of the older commit")
    parser.add_argument("--clients", default=[1, 8, 64], type=lambda t: [int(part) for part in t.split(",")])
    parser.add_argument("--requests", type=int, default=64, help="of all clients together in a round, at least")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--strategy", default="adaptive")
    parser.add_argument("--model", default="default")
    parser.add_argument("--note", default="", help="what ran beside")
    parser.add_argument("--out", default=str(ROOT / "docs" / "results" / "serve-pairs.json"))
    args = parser.parse_args()
    before, options, levels = machine(), {"strategy": args.strategy}, []
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = str(args.old / "src")
    with Served("--model", args.model) as old:
        os.environ["PYTHONPATH"] = path or str(ROOT / "src")
        with Served("--model", args.model) as new:
            servers = {"old": old, "new": new}
            vectors = examples(64, Client(new.port).call("GET", "/v1/models")[1]["models"][0]["dimension"])
            alone = {name: run_clients(one.port, vectors, 1, 64, options)[2] for name, one in servers.items()}
            texts = dict(alone["old"])
            for clients in args.clients:
                rates: dict[str, list[float]] = {name: [] for name in servers}
                waits: dict[str, list[float]] = {name: [] for name in servers}
                wrong, each = 0, max(1, args.requests // clients)
                for turn in range(args.rounds):
                    for name in list(servers) if turn % 2 == 0 else list(servers)[::-1]:
                        seconds, found, answers = run_clients(servers[name].port, vectors, clients, each, options)
                        rates[name].append(clients * each / seconds)
                        waits[name] += found
                        wrong += clients * each - sum(text == texts[number] for number, text in answers)
                ratios = [b / a for a, b in zip(rates["old"], rates["new"], strict=True)]
                both = {
                    name: {"per_second": round(statistics.median(rates[name]), 2), **percentiles(waits[name])}
                    for name in servers
                }
                row = {"clients": clients, "requests": clients * each * args.rounds, "wrong": wrong, **both}
                row |= {"ratio": round(statistics.median(ratios), 2)}
                levels.append(row | {"ratios": [round(min(ratios), 2), round(max(ratios), 2)]})
                print(levels[-1], flush=True)
    out = {"kind": "serve-pairs", "machine": before, "note": args.note, "old": args.old.name, "rounds": args.rounds}
    write_json(args.out, out | {"strategy": args.strategy, "levels": levels})
    if args.out == parser.get_default("out"):
        fill(ROOT / "docs" / "serve.md", "serve-pairs", table(read_json(args.out)))


if __name__ == "__main__":
    main()
