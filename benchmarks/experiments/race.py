"""The race: ways to draft a text from a vector, trained for the same wall-clock on one core each.

    python -m benchmarks.experiments.race --shards data/train --validation data/validation

Contestants train two at a time, each on a core of its own, and keep checkpoints at milestones. When all have trained,
the checkpoints are decoded, again one on each core, so that decoding takes nothing from training. What is finished is
kept under --runs with its settings and skipped when the script is started again; a contestant that was cut off in
training starts anew. Writes docs/results/race.json, race.svg beside it, and docs/race.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiments.race_contestants import CONTESTANTS, Contestant
from reports import race_page
from unembed.files import write_json
from unembed.machine import describe
from unembed.training.recipes.recipe_parts import parse_duration

METRICS = ("token_f1", "token_accuracy", "exact_match", "bleu", "rouge_l", "length_error")


@dataclass(frozen=True)
class Job:
    """A child process: what it is, the settings it depends on, and the file it leaves."""

    kind: str
    name: str
    settings: dict[str, Any]
    result: Path

    @property
    def done(self) -> bool:
        """Whether the file is there, from the same settings."""
        if not self.result.exists():
            return False
        kept: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return bool(kept["settings"] == self.settings)


def overrides(contestant: Contestant, arguments: argparse.Namespace) -> list[str]:
    """Everything that is set for one contestant: the race's own keys, then the contestant's."""
    return [
        f"data.shards='{arguments.shards}'",
        f"validation.shards='{arguments.validation}'",
        f"data.exclude_sources={json.dumps(arguments.exclude)}",
        f"data.max_texts={arguments.texts}",
        f"run.seed={arguments.seed}",
        f"run.max_time='{arguments.time}'",
        f"run.milestones={json.dumps(list(arguments.milestones))}",
        f"run.compile='{arguments.compile}'",
        "run.horizon='time'",
        "run.threads=1",
        "run.validate_every=1e9",
        "run.save_every=1e9",
        "run.store_dtype='fp16'",
        "validation.texts=512",
        "validation.decoded=0",
        *contestant.overrides,
        *arguments.set,
    ]


def train_jobs(arguments: argparse.Namespace) -> list[Job]:
    """One for each contestant."""
    jobs = []
    for name in arguments.contestants:
        contestant = CONTESTANTS[name]
        settings = {"recipe": contestant.recipe, "overrides": overrides(contestant, arguments)}
        jobs.append(Job("train", name, settings, Path(arguments.runs) / name / "trained.json"))
    return jobs


def cost_jobs(arguments: argparse.Namespace) -> list[Job]:
    """Operations of a training text, one for each contestant."""
    trained = train_jobs(arguments)
    runs = Path(arguments.runs)
    return [Job("cost", job.name, job.settings, runs / f"{job.name}-cost.json") for job in trained]


def decode_jobs(arguments: argparse.Namespace) -> list[Job]:
    """One for each checkpoint; earlier ones are decoded in the ways that the figure shows."""
    jobs = []
    for job in train_jobs(arguments):
        ways = CONTESTANTS[job.name].ways
        for when in (*arguments.milestones, "end"):
            chosen = [asdict(way) for way in ways if when == "end" or way.curve]
            settings = {**job.settings, "when": when, "ways": chosen, "n": arguments.n, "seed": arguments.seed}
            jobs.append(Job("decode", job.name, settings, job.result.parent / f"decoded-{when}.json"))
    return jobs


def work(jobs: list[Job], arguments: argparse.Namespace) -> list[Job]:
    """Run the jobs that are not done, one on each core; return those that failed."""
    waiting = [job for job in jobs if not job.done]
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    failed = []
    try:
        while waiting or running:
            for core in arguments.cores:
                if core not in running and waiting:
                    job = waiting.pop(0)
                    running[core] = (job, _start(job, arguments, core))
            time.sleep(0.2)
            for core, (job, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[core]
                if not job.done:
                    failed.append(job)
                    log = job.result.with_suffix(".log")
                    sys.stderr.write(f"{job.kind} {job.name} failed with {process.returncode}; see {log}\n")
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()
    return failed


def _start(job: Job, arguments: argparse.Namespace, core: int) -> subprocess.Popen[bytes]:
    folder = job.result.parent
    if job.kind == "train" and folder.exists():
        shutil.rmtree(folder)  # cut off, or of other settings: a contestant's time is not to be had in pieces
    folder.mkdir(parents=True, exist_ok=True)
    task = {"kind": job.kind, "folder": str(folder), "result": str(job.result), "settings": job.settings}
    task["validation"] = arguments.validation
    command = [sys.executable, "-m", "benchmarks.experiments.race", "--child", json.dumps(task)]
    if shutil.which("taskset"):
        command = ["taskset", "-c", str(core), *command]
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} core {core}: {job.kind} {job.name} {job.result.stem}\n")
    with open(job.result.with_suffix(".log"), "wb") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


# ---------------------------------------------------------------------- in the child


def child_train(task: dict[str, Any]) -> dict[str, Any]:
    """Train one contestant for the box that its overrides name."""
    from unembed.training.loop import train
    from unembed.training.recipes.recipe import Recipe

    load = os.getloadavg()[0]
    recipe = Recipe.load(task["settings"]["recipe"], task["settings"]["overrides"])
    begun = time.monotonic()
    result = train(recipe, task["folder"], device="cpu")
    return {
        "texts_seen": result.texts,
        "steps": result.steps,
        "loop_seconds": result.seconds,
        "seconds": round(time.monotonic() - begun, 1),
        "load": [load, os.getloadavg()[0]],
        "losses": result.metrics,
    }


def child_cost(task: dict[str, Any]) -> dict[str, Any]:
    """Count parameters and the operations of matrix products of one training text, forward and backward."""
    import torch
    from common import MatrixProducts

    from unembed.training.losses.cross_entropy import Shortlist
    from unembed.training.recipes.recipe import Recipe
    from unembed.training.tasks.denoiser_task import StepLoss
    from unembed.training.tasks.prepare import prepare

    torch.set_num_threads(1)
    recipe = Recipe.load(task["settings"]["recipe"], [*task["settings"]["overrides"], "data.max_texts=5000"])
    prepared = prepare(recipe)
    denoiser = prepared.denoiser.train()
    shortlist = Shortlist.of(recipe.objective, prepared.counts, denoiser.banned)
    loss = StepLoss(denoiser, recipe.objective, shortlist, "fp32")
    generator = torch.Generator().manual_seed(0)
    texts = tokens = 0
    counter = MatrixProducts()
    with counter:
        for _ in range(4):
            for group in prepared.feed.next():
                loss(torch.from_numpy(group.ids), torch.from_numpy(group.vectors), generator).backward()
                texts, tokens = texts + len(group), tokens + group.ids.size
    counts = denoiser.parameter_counts()
    own = counts["total"] - counts["vocabulary"]
    return {
        "parameters": {**counts, "without_vocabulary": own},
        "training_gflop_per_text": round(counter.operations / texts / 1e9, 4),
        "tokens_per_text": round(tokens / texts, 2),
        "batch_size": recipe.data.batch_size,
    }


def child_decode(task: dict[str, Any]) -> dict[str, Any]:
    """Decode held-out texts from one checkpoint in every way that is asked for."""
    import torch
    from common import MatrixProducts

    from unembed.data.shards import ShardDataset
    from unembed.evaluation.harness import Setting, evaluate_set
    from unembed.evaluation.sets import EvaluationSet
    from unembed.inverter import Inverter

    torch.set_num_threads(1)
    settings, folder = task["settings"], Path(task["folder"])
    when = settings["when"]
    path = folder / "checkpoint" if when == "end" else folder / "milestones" / when
    if not path.exists():  # the box ended before
        return {"rows": []}
    inverter = Inverter.from_pretrained(path, device="cpu")
    notes = json.loads((path / "config.json").read_text(encoding="utf-8"))["notes"]
    data = EvaluationSet.from_rows("validation", ShardDataset(task["validation"]), settings["n"], settings["seed"])
    rows = []
    for way in settings["ways"]:
        few = data.subset(32, settings["seed"])  # enough to count
        counter = MatrixProducts()
        with counter:
            inverter.invert(few.vectors, strategy=way["strategy"], **way["options"])
        found = evaluate_set(
            inverter, data, Setting(way["strategy"], way["options"], way["name"]), seed=settings["seed"], batch_size=50
        )
        rows.append(
            {
                "way": way["name"],
                "strategy": way["strategy"],
                "options": way["options"],
                "texts_seen": notes["texts_seen"],
                "steps": notes["steps"],
                "milliseconds_per_text": round(1000 * found["seconds"] / len(data), 1),
                "passes": round(found["passes"], 2),
                "gflop_per_text": round(counter.operations / len(few) / 1e9, 3),
                "n": len(data),
                "metrics": {name: found["metrics"][name] for name in METRICS},
                "examples": found["examples"][:3],
            }
        )
    return {"rows": rows}


CHILDREN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "train": child_train,
    "cost": child_cost,
    "decode": child_decode,
}


# ---------------------------------------------------------------------- the result


def collect(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is done, as the JSON of the page."""
    contestants = []
    for job in train_jobs(arguments):
        contestant = CONTESTANTS[job.name]
        entry: dict[str, Any] = {
            "name": job.name,
            "about": contestant.about,
            "recipe": contestant.recipe,
            "overrides": list(contestant.overrides),
        }
        for part in (job, *(c for c in cost_jobs(arguments) if c.name == job.name)):
            if part.done:
                entry[part.kind] = json.loads(part.result.read_text(encoding="utf-8"))["found"]
        entry["decoded"] = []
        for part in decode_jobs(arguments):
            if part.name == job.name and part.done:
                when = part.settings["when"]
                seconds = parse_duration(arguments.time if when == "end" else when)
                found = json.loads(part.result.read_text(encoding="utf-8"))["found"]
                entry["decoded"] += [{"seconds": seconds, "end": when == "end", **row} for row in found["rows"]]
        contestants.append(entry)
    return {
        "time": arguments.time,
        "seed": arguments.seed,
        "n": arguments.n,
        "training_texts": arguments.texts,
        "data": {"train": Path(arguments.shards).name, "validation": Path(arguments.validation).name},
        "left_out": arguments.exclude,
        "milestones": list(arguments.milestones),
        "compile": arguments.compile,
        "set": arguments.set,
        "cores_each": 1,
        "side_by_side": len(arguments.cores),
        "machine": describe()["summary"],
        "contestants": contestants,
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--shards", default="shards/train")
    parser.add_argument("--validation", default="shards/validation")
    parser.add_argument("--exclude", nargs="*", default=["scitldr", "cfpb-regulations"], help="sources left out")
    parser.add_argument("--time", default="12m", help="wall-clock of each contestant")
    parser.add_argument("--milestones", nargs="*", default=["90s", "3m", "6m", "9m"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=400_000, help="training texts")
    parser.add_argument("--n", type=int, default=300, help="held-out texts decoded")
    parser.add_argument("--compile", default="yes", choices=("yes", "no"))
    parser.add_argument("--cores", nargs="*", type=int, default=[0, 1], help="one contestant runs on each")
    parser.add_argument("--contestants", nargs="*", default=[n for n, c in CONTESTANTS.items() if c.regular])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="for every contestant")
    parser.add_argument("--runs", default="runs/race")
    parser.add_argument("--out", default="docs/results/race.json", help="race.svg goes beside it")
    parser.add_argument("--page", default="docs/race.md")
    parser.add_argument("--page-only", action="store_true", help="only write figure and page from the JSON again")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.contestants if name not in CONTESTANTS]
    if unknown:
        parser.error(f"no contestant is called {unknown[0]}; there are {', '.join(CONTESTANTS)}")
    return arguments


def main() -> int:
    """Run what is not done yet, then write the results."""
    arguments = parse()
    if arguments.child:
        task = json.loads(arguments.child)
        found = CHILDREN[task["kind"]](task)
        write_json(Path(task["result"]), {"settings": task["settings"], "found": found})
        return 0
    failed: list[Job] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children end too
    if not arguments.page_only:
        for jobs in (cost_jobs, train_jobs, decode_jobs):
            every = [job for job in jobs(arguments) if job.name not in {f.name for f in failed}]
            failed += work(every, arguments)
        result = collect(arguments)
        if any(entry["decoded"] for entry in result["contestants"]):
            write_json(Path(arguments.out), result)
    race_page.write(Path(arguments.out), Path(arguments.page))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
