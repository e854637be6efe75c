"""What a run would cost, measured before it begins. Contents: `Estimate`, `estimate`, `Pace`, `measure_pace`.

The steps measured are those of `train`: masks, shortlist, forward, backward, clipping, optimizer, average. Operations
follow the arithmetic of the design: 6 A n for A block parameters over n tokens, and 6 x rows x columns x width for the
head; modulation, prefix tokens and attention scores are not counted.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from unembed.data.shards import ShardDataset
from unembed.model.block import compile_blocks
from unembed.training import step as step_module
from unembed.training.ema import Ema
from unembed.training.memory import keep_memory, resolve_precision
from unembed.training.optimizer import make_optimizer
from unembed.training.prepare import Prepared, prepare
from unembed.training.recipe import Recipe
from unembed.training.recipe_parts import parse_duration
from unembed.training.shortlist import Shortlist

_FITTED_TEXTS = 20_000


@dataclass(frozen=True)
class Pace:
    """How fast the steps of a recipe are on this machine.

    Attributes:
        steps: timed steps.
        texts, tokens: texts of the timed steps, and positions that went through the blocks.
        seconds: their time.
        warmup_seconds: time of the steps before, compilation included.
        operations: floating-point operations of the timed steps, by the arithmetic above.
        precision: "fp32" or "bf16".
        compiled: whether the blocks are compiled.
    """

    steps: int
    texts: int
    tokens: int
    seconds: float
    warmup_seconds: float
    operations: float
    precision: str
    compiled: bool

    @property
    def texts_per_second(self) -> float:
        """Texts a second of one process."""
        return self.texts / self.seconds


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to cost.

    Attributes:
        parameters: trainable parameters: total, vocabulary, blocks.
        operations_per_text: floating-point operations of one text.
        texts_per_second: of all processes together, measured with one.
        texts: training texts of an epoch; 0 where they are embedded online.
        hours: length of the run: the time box, or what its steps take.
        epochs: times that each text is seen in it; 0 where that is unknown.
        memory_bytes: largest resident memory of this process while it was measured; for a GPU the memory it reserved.
        pace: what was measured.
    """

    parameters: dict[str, int]
    operations_per_text: float
    texts_per_second: float
    texts: int
    hours: float
    epochs: float
    memory_bytes: int
    pace: Pace

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


class _Arithmetic:
    """Counts positions and head cells by standing before `rows_loss`."""

    def __init__(self) -> None:
        self.positions = 0
        self.cells = 0
        self.inner = step_module.rows_loss

    def __call__(self, denoiser: Any, condition: Any, rows: Any, columns: Any, *rest: Any) -> Any:
        """Count, then do what `rows_loss` does."""
        self.positions += rows.ids.numel() + len(rows.ids) * denoiser.config.stream_prefix
        self.cells += len(rows.owner) * len(columns.correction)
        return self.inner(denoiser, condition, rows, columns, *rest)


def measure_pace(
    recipe: Recipe,
    prepared: Prepared,
    device: torch.device,
    warmup: int = 6,
    steps: int = 0,
    seconds: float = 10.0,
    on_step: Callable[[float], None] | None = None,
) -> Pace:
    """Run some steps of a recipe on a network that is thrown away.

    Args:
        recipe: what to train.
        prepared: of the recipe.
        device: where.
        warmup: steps before the clock starts; they compile.
        steps: timed steps; 0 runs until `seconds` have passed.
        seconds: see `steps`.
        on_step: called after each timed step with the share of the measurement that is done, 0 to 1.
    """
    keep_memory()
    precision = resolve_precision(recipe.run.precision, device)
    denoiser = prepared.denoiser.to(device).train()
    compiled = recipe.run.compiles(device.type)
    if compiled:
        compile_blocks(denoiser, static=bool(recipe.data.buckets))
    optimizer, ema = make_optimizer(denoiser, recipe.optimizer), Ema(denoiser, recipe.optimizer.ema)
    part = recipe.objective
    shortlist = Shortlist.of(part, prepared.counts, denoiser.banned)
    loss = step_module.StepLoss(denoiser, part, shortlist, prepared.counts, precision, recipe.data.noise)
    generator = torch.Generator().manual_seed(recipe.run.seed)
    active, width = denoiser.parameter_counts()["blocks"], denoiser.embedding.weight.shape[1]
    arithmetic = _Arithmetic()
    step_module.rows_loss = arithmetic  # type: ignore[assignment]
    begun = time.perf_counter()
    timed, texts, tokens, operations, took = 0, 0, 0, 0.0, 0.0
    try:
        for index in _counting():
            start = time.perf_counter()
            arithmetic.positions = arithmetic.cells = 0
            count = 0
            optimizer.zero_grad(set_to_none=True)
            for group in prepared.feed.next():
                lengths = None if group.lengths is None else torch.from_numpy(group.lengths)
                loss.backward(torch.from_numpy(group.ids), torch.from_numpy(group.vectors), generator, 1.0, lengths)
                count += len(group)
            torch.nn.utils.clip_grad_norm_(denoiser.parameters(), recipe.optimizer.clip)
            optimizer.step()
            ema.update(denoiser, index)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if index < warmup:
                continue
            if index == warmup:
                before = start - begun
            timed, texts, tokens = timed + 1, texts + count, tokens + arithmetic.positions
            operations += 6.0 * active * arithmetic.positions + 6.0 * arithmetic.cells * width
            took += time.perf_counter() - start
            if on_step is not None:
                on_step(min(1.0, timed / steps if steps else took / seconds))
            if timed == steps or (not steps and took >= seconds):
                break
    finally:
        step_module.rows_loss = arithmetic.inner
    return Pace(timed, texts, tokens, took, before, operations, precision, compiled)


def _counting() -> Iterator[int]:
    index = 0
    while True:
        yield index
        index += 1


def estimate(
    recipe: Recipe,
    device: str | None = None,
    seconds: float = 10.0,
    warmup: int = 6,
    on_step: Callable[[float], None] | None = None,
) -> Estimate:
    """Measure what a run of a recipe would cost; nothing is written.

    Args:
        recipe: what to train. The closed-form parts are fitted on a few texts only.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        seconds: length of the measurement after the warm-up.
        warmup: steps before it.
        on_step: see `measure_pace`.

    Raises:
        RecipeError, DataError: as `prepare`.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = recipe.run
    if run.threads or run.processes > 1:
        torch.set_num_threads(run.threads or 1)
    texts = _texts(recipe)
    few = dataclasses.replace(recipe.data, max_texts=min(texts, _FITTED_TEXTS)) if texts else recipe.data
    prepared = prepare(dataclasses.replace(recipe, data=few))
    counts = prepared.denoiser.parameter_counts()
    pace = measure_pace(recipe, prepared, target, warmup=warmup, seconds=seconds, on_step=on_step)
    rate = pace.texts_per_second * run.processes
    box = parse_duration(run.max_time)
    per_step = pace.texts / pace.steps * run.processes * recipe.optimizer.accumulate
    if run.steps:
        hours = run.steps * per_step / rate / 3600
    else:
        hours = box / 3600 if box else texts / rate / 3600
    return Estimate(
        parameters=counts,
        operations_per_text=pace.operations / pace.texts,
        texts_per_second=rate,
        texts=texts,
        hours=hours,
        epochs=hours * 3600 * rate / texts if texts else 0.0,
        memory_bytes=_memory(target),
        pace=pace,
    )


def _texts(recipe: Recipe) -> int:
    """Training texts of an epoch: of the shards, without the sources and texts that are left out."""
    import numpy as np

    if not recipe.data.shards:
        return 0
    dataset = ShardDataset(recipe.data.shards)
    left_out = [i for i, name in enumerate(dataset.source_names) if name in recipe.data.exclude_sources]
    kept = int((~np.isin(dataset.sources, left_out)).sum())
    if not recipe.validation.shards:
        kept -= recipe.validation.texts
    return max(0, min(kept, recipe.data.max_texts or kept))


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
