"""The training loop: steps, time box, validation, log, safe ends.

Contents: `train`, `TrainingResult`.

A run's folder holds `recipe.json`, `log.jsonl` (a line a report), `curve.png`, `state.safetensors` (to resume),
`checkpoint/` (the average of the weights) and, where the recipe asks, earlier averages in `milestones/`. SIGTERM,
Ctrl-C and the end of the time box all save the state first.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from unembed.data.feed import Feed
from unembed.errors import CheckpointError, RecipeError
from unembed.files import make_folder, remove_parts, write_json
from unembed.model.block import compile_blocks
from unembed.model.checkpoint import load_checkpoint, save_checkpoint
from unembed.training.distributed import GradientWorkers
from unembed.training.ema import Ema
from unembed.training.memory import keep_memory, resolve_precision
from unembed.training.optimizer import learning_rate, make_optimizer
from unembed.training.prepare import Prepared, prepare
from unembed.training.recipe import Recipe
from unembed.training.recipe_parts import parse_duration
from unembed.training.report import Reporter
from unembed.training.shortlist import Shortlist
from unembed.training.state import load_state, save_state
from unembed.training.step import StepLoss

_log = logging.getLogger(__name__)
_TIMED_STEPS = 12
_SKIPPED_STEPS = 4


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        checkpoint: folder of the checkpoint.
        steps: steps done, over all sessions of the run.
        texts: texts seen.
        seconds: time spent in the loop.
        finished: whether the horizon was reached; otherwise the run can be resumed.
        metrics: the last validation.
        signal: number of the signal that ended the session, 0 for none.
    """

    checkpoint: str
    steps: int
    texts: int
    seconds: float
    finished: bool
    metrics: dict[str, Any]
    signal: int = 0


class _Stop:
    """Remember a SIGTERM or Ctrl-C until the step is done and saved; a second one ends the run at once."""

    def __init__(self) -> None:
        self.asked = 0
        self._old: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        _log.info("stopping; the state is saved first")

    def __enter__(self) -> _Stop:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: the caller handles signals
            pass
        return self

    def __exit__(self, *details: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    max_time: str | float | None = None,
    resume: bool = False,
    init_from: str | Path | None = None,
    progress: bool = False,
    device: str | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Train a denoiser.

    Args:
        recipe: what to train, on what, for how long.
        out: folder of the run.
        max_time: time box of this session, seconds or "9m"; overrides the recipe's.
        resume: go on from the state in `out`; on a CPU the result equals an unbroken run bit for bit where the
            horizon is fixed in steps.
        init_from: checkpoint whose weights a new run starts from; weights of the same name and shape are taken.
        progress: show a progress bar on stderr.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        on_step: called after each step with its number and loss.

    Returns:
        How the run ended, and where its checkpoint is.

    Raises:
        RecipeError, DataError, CheckpointError: see `prepare` and `load_state`; a folder that cannot be written.
        KeyboardInterrupt: at a second SIGINT or SIGTERM.
    """
    out = make_folder(out)
    remove_parts(out)
    remove_parts(out / "checkpoint")
    several = recipe.run.processes > 1
    if recipe.run.threads or several:
        torch.set_num_threads(recipe.run.threads or 1)
    keep_memory()
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = resolve_precision(recipe.run.precision, target)
    box = parse_duration(max_time) if isinstance(max_time, str) else float(max_time or 0)
    box = box or parse_duration(recipe.run.max_time)
    started = time.monotonic()
    if recipe.data.texts and not (recipe.data.shards or recipe.run.steps or box):
        raise RecipeError(
            "Texts are embedded online, but the recipe fixes no end.", "Set run.steps, or give --max-time."
        )
    if several and (recipe.data.texts or target.type != "cpu"):
        raise RecipeError(
            "Several processes train from cached shards on a CPU only.", "Set run.processes = 1, or make shards."
        )
    prepared = prepare(recipe)
    denoiser = prepared.denoiser.to(target)
    if init_from is not None and not resume:
        _take_weights(denoiser, Path(init_from))
    compiled = recipe.run.compiles(target.type)
    if compiled:
        compile_blocks(denoiser, static=bool(recipe.data.buckets))
    optimizer = make_optimizer(denoiser, recipe.optimizer)
    ema = Ema(denoiser, recipe.optimizer.ema)
    generator = torch.Generator().manual_seed(recipe.run.seed)
    facts: dict[str, Any] = {"step": 0, "texts": 0, "seconds": 0.0, "horizon": recipe.run.steps}
    if resume:
        facts |= load_state(out, denoiser, ema, optimizer, generator)
        if "feed" in facts:
            prepared.feed.restore(facts["feed"])
        if Recipe.from_dict(facts.get("recipe", {})) != recipe:
            raise CheckpointError(
                f"The run in {out} began with another recipe.", "Resume with the same recipe and overrides."
            )
        if facts.get("data", prepared.fingerprint) != prepared.fingerprint:
            raise CheckpointError(
                f"The run in {out} began with other texts or vectors in {recipe.data.shards}.",
                "Restore those shards, or begin a new run.",
            )
    facts["data"] = prepared.fingerprint
    facts["recipe"] = recipe.to_dict()
    write_json(out / "recipe.json", recipe.to_dict())
    shortlist = Shortlist.of(recipe.objective, prepared.counts, denoiser.banned)
    step_loss = StepLoss(denoiser, recipe.objective, shortlist, prepared.counts, precision, recipe.data.noise)
    run = _Run(recipe, out, prepared, step_loss, optimizer, ema, generator, facts, started, box)
    with contextlib.ExitStack() as stack:
        if several:
            assert isinstance(prepared.feed, Feed)
            threads = torch.get_num_threads()
            run.workers = GradientWorkers(
                step_loss, prepared.feed, recipe.run.processes - 1, recipe.run.seed, threads, compiled
            )
            stack.callback(run.workers.close)
        reporter = stack.enter_context(Reporter(out, progress, facts["step"] if resume else None))
        stop = stack.enter_context(_Stop())
        metrics = run.loop(reporter, stop, on_step)
    run.keep(out / "checkpoint", metrics)
    reporter.figure()
    spent = facts["step"], facts["texts"], round(facts["seconds"], 2)
    return TrainingResult(str(out / "checkpoint"), *spent, run.finished, metrics, stop.asked)


def _take_weights(denoiser: torch.nn.Module, path: Path) -> None:
    source = load_checkpoint(path).denoiser.state_dict()
    own = denoiser.state_dict()
    fitting = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    if not any(k.startswith("blocks.") for k in fitting):
        raise CheckpointError(
            f"No block of {path} fits this recipe's model.", "Use the width and layers of that checkpoint."
        )
    denoiser.load_state_dict(fitting, strict=False)
    _log.info("took %d of %d tensors from %s", len(fitting), len(own), path)


@dataclass
class _Run:
    recipe: Recipe
    out: Path
    prepared: Prepared
    step_loss: StepLoss
    optimizer: torch.optim.Optimizer
    ema: Ema
    generator: torch.Generator
    facts: dict[str, Any]
    started: float
    box: float
    finished: bool = False
    workers: GradientWorkers | None = None

    def _progress(self, begun: float) -> float:
        if self.recipe.run.horizon == "time" and self.box:
            reserve = float(self.facts.get("reserve", 0.0))
            return (time.monotonic() - begun) / max(self.box - (begun - self.started) - reserve, 1e-9)
        return self.facts["step"] / self.facts["horizon"] if self.facts["horizon"] else 0.0

    def keep(self, path: Path, metrics: dict[str, Any]) -> None:
        """Write a checkpoint of the average of the weights, with what it took so far."""
        facts, denoiser, prepared = self.facts, self.prepared.denoiser, self.prepared
        notes = {
            "steps": facts["step"],
            "texts_seen": facts["texts"],
            "seconds": round(facts["seconds"], 1),
            "finished": self.finished,
            "precision": self.step_loss.precision,
            "metrics": metrics,
            "parameters": denoiser.parameter_counts(),
        }
        save_checkpoint(
            path,
            denoiser,
            prepared.tokenizer.to_json(),
            prepared.identity.to_dict(),
            self.recipe.to_dict(),
            notes=notes,
            dtype=self.recipe.run.store_dtype,
            state=self.ema.state(denoiser),
        )

    def loop(self, reporter: Reporter, stop: _Stop, on_step: Callable[[int, float], None] | None) -> dict[str, Any]:
        """Step until the horizon, the end of the box, or a signal; return the last validation's figures."""
        facts, run = self.facts, self.recipe.run
        denoiser = self.prepared.denoiser
        begun = last_check = last_save = time.monotonic()
        earlier = facts["seconds"]
        timed: list[float] = []
        by_clock = run.horizon == "time" and bool(self.box)
        due = sorted((t, name) for name in run.milestones if (t := parse_duration(name)) > earlier)
        while True:
            share = self._progress(begun)
            self.finished = share >= 1.0
            out_of_time = bool(self.box) and time.monotonic() - self.started >= self.box
            if self.finished or out_of_time or stop.asked:
                break
            before = time.monotonic()
            loss, texts = self._step(share)
            now = time.monotonic()
            facts["step"] += 1
            facts["texts"] += texts
            facts["seconds"] = earlier + now - begun
            if not facts["horizon"] and not by_clock:
                timed.append(now - before)
                self._fix_horizon(timed, now)
            if on_step is not None:
                on_step(facts["step"], loss)
            reporter.step(facts, loss, texts, now - before, share, self.optimizer.param_groups[0]["lr"])
            while due and earlier + now - self.started >= due[0][0]:
                self.keep(self.out / "milestones" / due.pop(0)[1], {})
            if now - last_check >= run.validate_every:
                self._validate(reporter, decoded=False)
                last_check = time.monotonic()
            if now - last_save >= run.save_every:
                self._save()
                last_save = time.monotonic()
        facts["seconds"] = earlier + time.monotonic() - begun
        self._save()
        metrics = self._validate(reporter, decoded=True)
        denoiser.train(False)
        return metrics

    def _fix_horizon(self, timed: list[float], now: float) -> None:
        if not self.box:
            epoch = self.prepared.feed.batches_per_epoch
            self.facts["horizon"] = max(1, epoch // self.recipe.optimizer.accumulate // self.recipe.run.processes)
        elif len(timed) == _TIMED_STEPS:
            pace = sorted(timed[_SKIPPED_STEPS:])[(_TIMED_STEPS - _SKIPPED_STEPS) // 2]
            left = max(0.0, self.box - (now - self.started))
            self.facts["horizon"] = self.facts["step"] + max(1, int(0.95 * left / pace))
            _log.info("the horizon is %d steps, at %.2f s a step", self.facts["horizon"], pace)

    def _step(self, progress: float) -> tuple[float, int]:
        part = self.recipe.optimizer
        rate = learning_rate(part, self.facts["step"], progress)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters.get("scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        denoiser = self.prepared.denoiser
        denoiser.train(True)
        loss = 0.0
        texts = 0
        scale = 1.0 / part.accumulate / self.recipe.run.processes
        for _ in range(part.accumulate):
            groups = self.prepared.feed.next()
            size = sum(len(group) for group in groups)
            if self.workers is not None:
                assert isinstance(self.prepared.feed, Feed)
                self.workers.begin(self.prepared.feed.skip(len(self.workers)), scale)
            for group in groups:
                share = len(group) / size
                lengths = None if group.lengths is None else torch.from_numpy(group.lengths)
                inputs = torch.from_numpy(group.ids), torch.from_numpy(group.vectors)
                loss += share * self.step_loss.backward(*inputs, self.generator, share * scale, lengths)
            texts += size
            if self.workers is not None:
                for theirs, count in self.workers.collect():
                    loss += theirs
                    texts += count
        self.facts["feed"] = self.prepared.feed.state()
        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self.recipe.run.processes)  # the workers wait meanwhile
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), part.clip)
        self.optimizer.step()
        self.ema.update(denoiser, self.facts["step"])
        torch.set_num_threads(threads)
        return loss / part.accumulate / self.recipe.run.processes, texts

    def _save(self) -> None:
        save_state(self.out, self.prepared.denoiser, self.ema, self.optimizer, self.generator, self.facts)

    def _validate(self, reporter: Reporter, decoded: bool) -> dict[str, Any]:
        denoiser = self.prepared.denoiser
        denoiser.train(False)
        self.ema.swap(denoiser)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self.recipe.run.processes)  # the workers wait meanwhile
        try:
            metrics: dict[str, Any] = dict(self.prepared.validation.loss(denoiser))
            if decoded:
                metrics |= self.prepared.validation.decoded(denoiser)
        finally:
            torch.set_num_threads(threads)
            self.ema.swap(denoiser)
        reporter.validation(self.facts, metrics)
        return metrics


def with_run(recipe: Recipe, **values: Any) -> Recipe:
    """Return the recipe with some keys of its `run` part replaced."""
    return replace(recipe, run=replace(recipe.run, **values))
