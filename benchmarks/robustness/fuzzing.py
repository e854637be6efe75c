"""What the fuzzers share: damaged inputs one after another, in workers of bounded memory; one JSON line of outcomes.

Contents: `Case`, `Fuzzer` (what a fuzzer has to say), `mutate`, `try_cases`, `main`.

A fuzzer makes its inputs from a seed and a number, and tries each: "read", "refused" (one of our errors, in two
sentences), or whatever else is raised, which is a failure. A worker process tries many, in an address space that is
bounded to --memory MiB above what the good inputs take. Where it dies or needs more than --patience seconds for an
input, that input has failed and a new worker goes on behind it. Failed inputs are kept under --keep, exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unembed.errors import UnembedError

ROOT = Path(__file__).resolve().parents[2]
OUTCOMES = ("read", "refused", "failed")


@dataclass(frozen=True)
class Case:
    """One input: its kind (a row of the report), a name, its bytes."""

    kind: str
    name: str
    data: bytes


class Fuzzer:
    """What is fuzzed; a fuzzer overrides the three methods.

    Attributes:
        benchmark: its name in the report, and its file, which starts itself again as a worker.
        memory: MiB of address space that a worker may take beyond what the good inputs take.
    """

    benchmark = ""
    memory = 2048

    @property
    def worker(self) -> tuple[str, ...]:
        """The command of a worker, without its options."""
        return (sys.executable, "-m", f"benchmarks.robustness.{self.benchmark}", "--worker")

    def case(self, index: int, seed: int) -> Case:
        """Return input number `index` of a seed, always the same."""
        raise NotImplementedError

    def rehearse(self, folder: Path, seed: int) -> None:
        """Use the good inputs, before memory is bounded, so that all libraries are loaded."""
        raise NotImplementedError

    def attempt(self, case: Case, index: int, folder: Path) -> str:
        """Use an input, in a folder of the worker's own; return "read", or raise."""
        raise NotImplementedError


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes with one to four mutations, most often one."""
    part = bytearray(data)
    for _ in range(int(generator.choice([1, 1, 1, 2, 3, 4]))):
        if not part:
            break
        at = int(generator.integers(len(part)))
        length = int(generator.integers(1, 17))
        kind = int(generator.integers(7))
        if kind == 0:
            part[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            part[at : at + length] = generator.bytes(length)
        elif kind == 2:
            del part[at:]
        elif kind == 3:
            del part[at : at + length]
        elif kind == 4:
            part[at:at] = generator.bytes(length)
        elif kind == 5:
            part[at:at] = part[at : at + 8 * length]
        else:
            part[at : at + length] = bytes([int(generator.choice([0, 127, 255]))]) * length
    return bytes(part)


def try_cases(fuzzer: Fuzzer, first: int, count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Try the inputs first, first + 1, ... below `count` in this process; yield {index, name, outcome, seconds, ...}.

    A record without an outcome comes before each input, so that one knows which killed the process.
    """
    for index in range(first, count):
        case = fuzzer.case(index, seed)
        record: dict[str, Any] = {"index": index, "name": case.name}
        yield record
        before, start = peak_mib(), time.perf_counter()
        try:
            outcome = {"outcome": fuzzer.attempt(case, index, folder)}
        except UnembedError as error:
            outcome = {"outcome": "refused"}
            if not (error.what.endswith(".") and error.do.endswith((".", "?"))) or len(str(error)) > 2000:
                outcome = {"outcome": "failed", "error": f"these are not two sentences: {error}"[:300]}
        except Exception as error:
            outcome = {"outcome": "failed", "error": f"{type(error).__name__}: {error}"[:300]}
        seconds = time.perf_counter() - start
        yield {**record, **outcome, "seconds": seconds, "peak": peak_mib(), "grown": peak_mib() - before}


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(fuzzer: Fuzzer, args: argparse.Namespace) -> None:
    """Be a worker: use the good inputs, bound the memory, then print a JSON line before and after each input."""
    fuzzer.rehearse(args.folder, args.seed)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + args.memory * 2**20,) * 2)
    for record in try_cases(fuzzer, args.first, args.count, args.seed, args.folder):
        print(json.dumps(record), flush=True)


def watch(fuzzer: Fuzzer, args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Let workers try all inputs; yield the final record of each, also of those that a worker died of."""
    first = 0
    while first < args.count:
        options = ("--first", first, "--count", args.count, "--seed", args.seed, "--memory", args.memory)
        command = [*fuzzer.worker, *map(str, options), "--folder", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as worker:
            assert worker.stdout is not None
            record: dict[str, Any] = {"index": first, "name": "the good inputs"}
            rest, hung, begun = b"", False, False
            while True:
                # The first answer waits for the imports and the good inputs too.
                if not select.select([worker.stdout], [], [], args.patience if begun else args.patience + 60)[0]:
                    worker.kill()
                    hung = True
                data = os.read(worker.stdout.fileno(), 1 << 16)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    record, begun = json.loads(line), True
                    if "outcome" in record:
                        yield record
                if not data:
                    break
        if "outcome" not in record or record["index"] + 1 < args.count:
            what = f"no answer in {args.patience} seconds" if hung else f"the worker ended with {worker.returncode}"
            if "outcome" in record:
                record = {"index": record["index"] + 1, "name": "unknown"}
            yield {**record, "outcome": "failed", "error": what, "seconds": float(args.patience) if hung else 0.0}
        first = record["index"] + 1


def report(fuzzer: Fuzzer, args: argparse.Namespace, records: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Count outcomes by kind, keep failed inputs, note the slowest and the one that memory grew most by."""
    counts: dict[str, dict[str, int]] = {}
    failures: list[dict[str, Any]] = []
    slowest, greediest, peak, seen = (0.0, ""), (0.0, ""), 0.0, 0
    began = time.perf_counter()
    for record in records:
        case = fuzzer.case(record["index"], args.seed)
        name = f"{record['index']}-{case.name}"
        known = case.kind in counts
        row = counts.setdefault(case.kind, dict.fromkeys(OUTCOMES, 0))
        row[record["outcome"]] += 1
        seen += 1
        slowest = max(slowest, (record["seconds"], name))
        peak = max(peak, record.get("peak", 0.0))
        if known:  # the first input of a kind makes the libraries take their memory
            greediest = max(greediest, (record.get("grown", 0.0), name))
        if record["outcome"] == "failed":
            failures.append({"file": name, "error": record["error"]})
            if args.keep is not None and len(failures) <= 100:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / name.replace("/", "_")).write_bytes(case.data)
    return {
        "benchmark": fuzzer.benchmark,
        "count": seen,
        "seed": args.seed,
        "memory_limit_mib": args.memory,
        "patience_seconds": args.patience,
        **{key: sum(row[key] for row in counts.values()) for key in OUTCOMES},
        "formats": counts,
        "failures": failures[:20],
        "slowest_seconds": round(slowest[0], 3),
        "slowest": slowest[1],
        "peak_mib": round(peak, 1),
        "most_grown_mib": round(greediest[0], 1),
        "most_grown": greediest[1],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(fuzzer: Fuzzer, description: str | None) -> None:
    """Parse the options, try the inputs, print; exit 1 where one ended in another exception."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that failed")
    parser.add_argument("--out", type=Path, help="also write the line to this file, indented")
    parser.add_argument("--memory", type=int, default=fuzzer.memory, help="MiB beyond the good inputs'")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds for an input")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(fuzzer, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = report(fuzzer, args, watch(fuzzer, args, Path(folder)))
    print(json.dumps(found))
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found["failed"] or found["count"] != args.count else 0)
