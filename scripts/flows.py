"""Count the files that the four flows enter: invert a file, train, POST /v1/invert, a query budget.

    python scripts/flows.py                         a table
    python scripts/flows.py --json                  the figures, with the files of each flow
    python scripts/flows.py --flow invert --files   one flow, with its files
    PYTHONPATH=TREE/src python scripts/flows.py     of another tree

A file counts where one of its functions is called between the start of the command and its end. Bodies of modules and
of classes, which run at import, do not count; a function that an import calls does. Of the server only what runs from
the first byte of the request to the last of the answer counts. Each flow runs in a process of its own, on one thread,
with a trace function that hears of calls alone. Only the public surface is named, so that the count outlives moves.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "vectors.parquet"
FLOWS = {
    "invert": "invert a file",
    "train": "train",
    "serve": "POST /v1/invert",
    "queries": "a query budget",
}
BOUNDS = {"invert": 65, "train": 64, "serve": 46, "queries": 80}
"""Files at most; tests/integration/test_flows.py holds the tree to them. Lower them when a flow gets shorter."""

RECIPE = """
[model]
width = 32
layers = 1
heads = 2
token_prior = true
init_embeddings = false
[data]
shards = "shards"
encoder = "hashing:32"
limit = 12
batch_size = 16
[objective]
shortlist_frequent = 100
shortlist_sampled = 50
[run]
steps = 4
compile = "no"
precision = "fp32"
threads = 1
[validation]
texts = 16
decoded = 4
"""
WORDS = "the a cat dog saw found old red house tree near behind and under small bird".split()


class Calls:
    """The code objects of functions that were called since `clear`."""

    def __init__(self) -> None:
        self.found: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Take note of a call; returning None leaves the lines within it alone."""
        self.found.add(frame.f_code)

    def files(self, package: Path) -> list[str]:
        """Files of a package, relative to it, in which a function was called."""
        optimized = 0x1  # CO_OPTIMIZED: functions have it, bodies of modules and classes do not
        names = {Path(code.co_filename) for code in list(self.found) if code.co_flags & optimized}
        return sorted(str(name.relative_to(package)) for name in names if name.is_relative_to(package))


def run_command(calls: Calls, *words: str) -> None:
    """Run a command of `unembed` in this process and count its calls.

    Raises:
        SystemExit: the command failed.
    """
    sys.argv = ["unembed", *words]
    threading.settrace(calls)
    sys.settrace(calls)
    try:
        runpy.run_module("unembed", run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0, 128 + signal.SIGINT):
            raise
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def run_server(calls: Calls, model: str) -> list[str]:
    """Run `unembed serve` in this process and send it one vector; returns the files that the request entered."""
    package = package_folder()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found: list[str] = []

    def send() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            try:
                client.connect()
                break
            except OSError:
                time.sleep(0.1)
        try:
            client.request("GET", "/v1/models")
            width = json.loads(client.getresponse().read())["models"][0]["dimension"]
            body = json.dumps({"vectors": [[1 / (1 + place) for place in range(width)]]})
            calls.found.clear()
            client.request("POST", "/v1/invert", body, {"Content-Type": "application/json"})
            answer = client.getresponse()
            answer.read()
            if answer.status == 200:
                found.extend(calls.files(package))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()  # before the trace function is set for threads
    run_command(calls, "serve", "--port", str(port), "--no-open", "--model", model)
    return found


def package_folder() -> Path:
    """Where the package lies whose functions count."""
    import unembed

    return Path(unembed.__file__).resolve().parent


def run_flow(name: str, model: str) -> list[str]:
    """Run a flow in this process, in the current folder; returns the files that it entered."""
    calls = Calls()
    if name == "serve":
        return run_server(calls, model)
    if name == "train":
        texts = (" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 4 + i % 5)) for i in range(80))
        Path("texts.txt").write_text("\n".join(texts))
        Path("recipe.toml").write_text(RECIPE)
        run_command(
            Calls(), "embed", "texts.txt", "--shards", "shards", "--encoder", "hashing:32", "--limit", "12", "-q"
        )
        run_command(calls, "train", "recipe.toml", "--out", "run", "--device", "cpu", "-q")
    else:
        more = ["--queries", "8"] if name == "queries" else []
        count = "1" if name == "queries" else "2"
        words = [str(EXAMPLES), "--limit-rows", count, "--model", model, "--out", "texts.csv", "-q", *more]
        run_command(calls, "invert", *words)
    return calls.files(package_folder())


def measure(name: str, model: str) -> list[str]:
    """Run a flow in a process and a folder of its own; returns the files that it entered.

    Raises:
        SystemExit: it failed, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--here", "--flow", name, "--model", model]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        found = Path(folder, "files.json")
        if result.returncode or not found.exists():
            raise SystemExit(f"The flow {name} failed:\n{result.stdout}{result.stderr}")
        files: list[str] = json.loads(found.read_text())
    if not files:
        raise SystemExit(f"The flow {name} entered no file:\n{result.stdout}{result.stderr}")
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", action="append", choices=FLOWS, help="only this one; may be repeated")
    parser.add_argument("--model", default="default", help="checkpoint of all flows but train")
    parser.add_argument("--files", action="store_true", help="also the names of the files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.flow or list(FLOWS)
    if options.here:
        Path("files.json").write_text(json.dumps(run_flow(names[0], options.model)))
        return
    found = {name: measure(name, options.model) for name in names}
    if options.json:
        print(json.dumps({name: {"count": len(files), "files": files} for name, files in found.items()}, indent=1))
        return
    for name, files in found.items():
        print(f"{len(files):4d} of at most {BOUNDS[name]:4d}  {FLOWS[name]}")
        if options.files:
            print("".join(f"      {file}\n" for file in files), end="")


if __name__ == "__main__":
    main()
