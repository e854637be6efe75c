"""The one training loop: steps, time box, validation, log, state, cool-down, safe ends.

Contents: `train`, `TrainingResult`.

What is learnt is a task (`task.py`): a denoiser, a student encoder, a corrector. A run's folder holds `recipe.json`,
`log.jsonl` (a line a report), `curve.png`, `state.safetensors` (to resume), `checkpoint/` (the average of the weights)
and, where the recipe asks, earlier averages in `milestones/`. SIGTERM, Ctrl-C and the end of the time box all save the
state first. A cool-down leaves all of that alone and writes into `cooldown/`.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from unembed.errors import CheckpointError, RecipeError
from unembed.files import make_folder, remove_foreign_parts, remove_parts, write_json
from unembed.training.memory import keep_memory, limited_memory
from unembed.training.optimizer import learning_rate
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import parse_duration
from unembed.training.report import Horizon, Reporter
from unembed.training.state import (
    FILE,
    check_data,
    check_recipe,
    has_state,
    load_state,
    not_finite,
    read_facts,
    save_state,
)
from unembed.training.stepper import Stepper, make_task
from unembed.training.tasks.task import Task

_log = logging.getLogger(__name__)
COOLDOWN = "cooldown"
_RECENT = 8
"""A loss that is not finite once in a while leaves a step out; one that was finite in none of these ends the run."""
_COOLING_STEPS = 20
"""In fewer the rate falls in jumps, and the last step that is made has a rate far from zero."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        checkpoint: folder of the checkpoint, or the file of a student or corrector.
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
        _log.info("stopping: the state is saved, then validation and checkpoint; a second signal ends at once")

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


@limited_memory()
def train(
    recipe: Recipe,
    out: str | Path,
    *,
    max_time: str | float | None = None,
    resume: bool = False,
    cooldown: str | float | None = None,
    init_from: str | Path | None = None,
    progress: bool = False,
    device: str | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Train what a recipe's task names.

    Args:
        recipe: what to train, on what, for how long.
        out: folder of the run.
        max_time: time box of this session, seconds or "9m"; overrides the recipe's.
        resume: continue from the state in `out`; on a CPU the result equals an unbroken run bit for bit where the
            horizon is fixed in steps.
        cooldown: from the state in `out`, let the learning rate fall to zero within this time, seconds or "20m", and
            write what comes of it to `out/cooldown`; the state stays as it is, and the run can continue from it.
        init_from: checkpoint whose weights a new run starts from; weights of the same name and shape are taken. For a
            student or corrector the file of one, or its folder.
        progress: show a progress bar on stderr; without one the loggers of this package get lines.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        on_step: called after each step with its number and loss.

    Returns:
        How the run ended, and where its checkpoint is.

    Raises:
        RecipeError, DataError, CheckpointError: see `make_task` and `load_state`; a folder that cannot be written; a
            time box that is over before the first step; loss or weights that are not finite any more, of which nothing
            is kept: the state that was saved before stays.
        InputError: a batch that does not fit into memory.
        KeyboardInterrupt: at a second SIGINT or SIGTERM.
    """
    started = time.monotonic()
    home = make_folder(out)
    for folder in [home / COOLDOWN, *([home] if cooldown is None else [])]:  # else a run may be saving here
        remove_parts(folder, "recipe.json", "log.jsonl", "curve.png", FILE)
        if has_state(home):  # then these are ours, and what safetensors left in them too
            remove_parts(folder / "checkpoint")
            remove_foreign_parts(folder)
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    keep_memory()
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    box = _seconds(cooldown) or _seconds(max_time) or parse_duration(recipe.run.max_time)
    cooling = cooldown is not None
    if cooling and not _seconds(cooldown):
        raise RecipeError("The cool-down has no length.", 'Give it a time, such as "20m".')
    if recipe.data.texts and not (recipe.data.shards or recipe.run.steps or box):
        raise RecipeError(
            "Texts are embedded online, but the recipe fixes no end.", "Set run.steps, or give --max-time."
        )
    again = resume or cooling
    known = check_folder(home, recipe, resume, cooling)
    task = make_task(recipe, target, known=known, init_from=None if again else init_from, box=box)
    stepper = Stepper(task, recipe)
    facts: dict[str, Any] = {"step": 0, "texts": 0, "seconds": 0.0, "horizon": recipe.run.steps}
    if again:
        facts |= load_state(home, stepper)
        check_data(facts, task, home)
        if list(facts.get("data", task.data)) == list(task.data) and "place" in facts:
            task.restore(facts["place"])
        _log.info("continuing after step %d, %s texts", facts["step"], f"{facts['texts']:,}")
    facts["data"], facts["recipe"], facts["notes"] = list(task.data), recipe.to_dict(), task.notes()
    facts["encoder"] = task.identity.to_dict()
    horizon = Horizon(recipe.run, box, started, 0 if cooling else facts["horizon"], "time" if cooling else None)
    run_folder = home / COOLDOWN if cooling else home
    run = _Run(recipe, run_folder, task, stepper, horizon, facts, cooling)
    run.warm_up()
    write_json(make_folder(run_folder) / "recipe.json", recipe.to_dict())
    with Reporter(run_folder, progress, facts["step"] if resume and not cooling else None) as reporter:
        with _Stop() as stop:
            metrics = run.loop(reporter, stop, on_step)
        path = run.keep(run_folder / "checkpoint", metrics)
        reporter.figure()
    spent = facts["step"], facts["texts"], round(facts["seconds"], 2)
    return TrainingResult(str(path), *spent, run.finished, metrics, stop.asked)


def check_folder(home: Path, recipe: Recipe, resume: bool, cooling: bool) -> dict[str, Any]:
    """Check that a run may begin in a folder, or continue there; return the facts of its state, empty for a new run.

    Raises:
        CheckpointError, RecipeError: a new run would overwrite a state, or there is none that fits.
    """
    if not (resume or cooling):
        if has_state(home):
            raise CheckpointError(
                f"{home} holds the state of a run, which a new one would overwrite.",
                "Continue with --resume, or give another folder.",
            )
        return {}
    known = read_facts(home)
    check_recipe(known, recipe, home, cooling)
    return known


def _seconds(value: str | float | None) -> float:
    return parse_duration(value) if isinstance(value, str) else float(value or 0)


@dataclass
class _Run:
    """One session of a run, or a cool-down from its state."""

    recipe: Recipe
    out: Path
    task: Task
    stepper: Stepper
    horizon: Horizon
    facts: dict[str, Any]
    cooling: bool
    finished: bool = False
    recent: deque[torch.Tensor] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def keep(self, path: Path, metrics: dict[str, Any]) -> Path:
        """Write a checkpoint of the average of the weights, with what it took so far."""
        self._check_finite(metrics)
        facts, task = self.facts, self.task
        notes = {
            "steps": facts["step"],
            "texts_seen": facts["texts"],
            "seconds": round(facts["seconds"], 1),
            "finished": self.finished,
            "precision": task.precision,
            "metrics": metrics,
            "data": list(task.data),
            **task.notes(),
        }
        began = time.monotonic()
        written = task.save(path, notes, self.stepper.ema.state(task.model))
        self.horizon.took("checkpoint", time.monotonic() - began)
        return written

    def loop(self, reporter: Reporter, stop: _Stop, on_step: Callable[[int, float], None] | None) -> dict[str, Any]:
        """Step until the horizon, the end of the box, or a signal; return the last validation's figures."""
        facts, run, horizon = self.facts, self.recipe.run, self.horizon
        horizon.begin(facts["step"])
        begun = last_check = last_save = time.monotonic()
        earlier, first = facts["seconds"], facts["step"]
        due = sorted((t, name) for name in run.milestones if (t := parse_duration(name)) > earlier)
        while True:
            share = horizon.progress(facts["step"])
            self.finished = share >= 1.0
            if self.finished or horizon.out_of_time or stop.asked:
                self.finished |= horizon.kind == "time" and not stop.asked  # the clock has gone on since `share`
                break
            before = time.monotonic()
            rate = learning_rate(self.recipe.optimizer, self._warmth(first), share, horizon.kind != "none")
            loss, texts = self.stepper.step(facts["step"], rate)
            self.recent.append(loss)
            if horizon.kind == "steps" and not horizon.steps:
                self.stepper.wait()
            now = time.monotonic()
            facts["step"] += 1
            facts["texts"] += texts
            facts["seconds"] = earlier + now - begun
            facts["place"] = self.task.place()
            horizon.fix(facts["step"], now - before, self.task.batches_per_epoch // self.recipe.optimizer.accumulate)
            facts["horizon"] = horizon.steps
            if on_step is not None:
                on_step(facts["step"], float(loss))
            reporter.left = horizon.left(facts["step"])
            reporter.step(facts, loss, texts, now - before, share, rate, self.stepper.left_out)
            while due and earlier + now - horizon.started >= due[0][0]:
                self.keep(self.out / "milestones" / due.pop(0)[1], {})
            if now - last_check >= run.validate_every and not horizon.out_of_time:
                self._validate(reporter)
                last_check = time.monotonic()
            if now - last_save >= run.save_every and not self.cooling and math.isfinite(loss):
                self._save()
                last_save = time.monotonic()
        facts["seconds"] = earlier + time.monotonic() - begun
        reporter.flush(facts, self.stepper.left_out)
        if self.cooling and self.finished and facts["step"] - first < _COOLING_STEPS:
            _log.warning("the cool-down made only %d steps: give it more time", facts["step"] - first)
        if self.recent and not math.isfinite(self.recent[-1]):  # what was learnt may be spoilt by the last step
            self._check_finite(self._validate(reporter))
        if not self.cooling:
            self._save()
        metrics = self._validate(reporter, horizon.end)
        return metrics

    def _warmth(self, first: int) -> int:
        """The step number that the warm-up counts with: a cool-down begins at the full rate."""
        step: int = self.facts["step"]
        return self.recipe.optimizer.warmup + step - first if self.cooling else step

    def warm_up(self) -> None:
        """Compile before the clock of the steps starts and anything is written; refuse a box that is over by then."""
        before = time.monotonic()
        self.stepper.warm_up()
        took = time.monotonic() - before
        horizon = self.horizon
        if horizon.out_of_time:
            longer = "Give a longer --cooldown" if self.cooling else "Give a longer --max-time"
            raise RecipeError(
                f"The time box of {horizon.box:.0f} s is over before the first step: preparing took "
                f"{before - horizon.started:.0f} s and compiling {took:.0f} s.",
                f'{longer}, or set run.compile = "no".' if took >= 1 else f"{longer}.",
            )

    def _check_finite(self, figures: dict[str, Any] | None = None) -> None:
        """Refuse to keep anything of a run whose loss, weights or figures are not finite."""
        what = ""
        values = [*self.task.model.parameters(), *self.stepper.ema.values]
        if not all(bool(torch.isfinite(value).all()) for value in values):
            what = "The weights are not finite"
        elif self.recent and not bool(torch.isfinite(torch.stack(list(self.recent))).any()):
            what = "The loss is not finite"
        elif wrong := [k for k, v in (figures or {}).items() if isinstance(v, float) and not math.isfinite(v)]:
            what = f"The validation's {wrong[0]} is not finite"
        if what:
            raise not_finite(f"{what} at step {self.facts['step']}", self.out.parent if self.cooling else self.out)

    def _save(self) -> None:
        self._check_finite()
        began = time.monotonic()
        save_state(self.out, self.stepper, self.facts)
        self.horizon.took("state", time.monotonic() - began)

    def _validate(self, reporter: Reporter, decode_until: float | None = None) -> dict[str, Any]:
        model, ema = self.task.model, self.stepper.ema
        began = time.monotonic()
        ema.swap(model)
        try:
            metrics = self.task.validate(decode_until)
        finally:
            ema.swap(model)
        if decode_until is None:
            self.horizon.took("validation", time.monotonic() - began)
        reporter.validation(self.facts, metrics)
        return metrics


def with_run(recipe: Recipe, **values: Any) -> Recipe:
    """Return the recipe with some keys of its `run` part replaced."""
    return replace(recipe, run=replace(recipe.run, **values))
