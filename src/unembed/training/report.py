"""Where a run stands: its clock, and what it reports: a bar, lines for a logger, a JSONL log, a figure of its curve.

Contents: `Reporter`, `read_log`, `Horizon`.

A run's horizon is a number of steps, the end of a time box, or nothing: then the rate stays at its peak for ever, and a
cool-down from the run's state makes a checkpoint whenever one is wanted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from unembed.errors import DataError
from unembed.files import atomic_path, atomic_write_bytes
from unembed.training.recipes.recipe_parts import RunPart, parse_duration
from unembed.training.state import not_finite

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_LOG_EVERY = 10.0
_TELL_EVERY = 60.0
_PENDING = 4096
"""Losses that wait on the device at most; then they are read."""
_WITHOUT_END, _WITH_END = "{desc}{bar:0}", "{percentage:3.0f}%|{bar:20}| {desc}"
_JUDGED = 8
"""Fewer steps say nothing of a run whose loss was not finite in them."""


class Reporter:
    """Progress and log of a run.

    Args:
        out: folder of the run.
        progress: show a bar on stderr; without one the module's logger gets a line a minute and one a validation.
        step: of the state that the run continues from: later lines of an existing log are dropped, since those steps
            come again; None begins a new log.

    Attributes:
        left: seconds until the session ends; infinite where that is not known.

    Raises:
        DataError: the log cannot be written.
    """

    def __init__(self, out: Path, progress: bool, step: int | None) -> None:
        self.out = out
        self._path = out / "log.jsonl"
        self._earlier = [line for line in read_log(self._path) if line["step"] <= step] if step is not None else []
        self._stream = self._begin()
        self._bar: Any = None
        self._shown, self.left = 0.0, math.inf
        if progress:
            from tqdm import tqdm

            self._bar = tqdm(total=100.0, unit="%", bar_format=_WITHOUT_END)
        self._last = self._told = time.monotonic()
        self._losses: list[Tensor] = []
        self._texts = 0
        self._pace: float = 0.0
        self._left_out = 0.0
        self._rate = self._share = 0.0

    def _begin(self) -> TextIO:
        atomic_write_bytes(self._path, "".join(json.dumps(line) + "\n" for line in self._earlier).encode())
        return open(self._path, "a", encoding="utf-8")

    def __enter__(self) -> Reporter:
        """Return self."""
        return self

    def __exit__(self, *details: object) -> None:
        """Close the bar and the log."""
        if self._bar is not None:
            self._bar.close()
        with contextlib.suppress(OSError):  # a full disk: what could not be written was reported before
            self._stream.close()

    def _write(self, values: dict[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(values) + "\n")
            self._stream.flush()
        except OSError as error:
            raise DataError(
                f"Writing {self._path} failed: {error.strerror}.", "Free disk space, then continue with --resume."
            ) from error

    def step(
        self,
        facts: dict[str, Any],
        loss: Tensor,
        texts: int,
        seconds: float,
        share: float,
        rate: float,
        left_out: Tensor,
    ) -> None:
        """Take in one step; every ten seconds the losses are read from the device and a line is written.

        Raises:
            RecipeError: more than half of eight or more steps were left out because they were not finite.
        """
        self._losses.append(loss)
        self._texts += texts
        self._rate, self._share = rate, share
        now = time.monotonic()
        if now - self._last >= _LOG_EVERY or facts["step"] == 1 or len(self._losses) >= _PENDING:
            self.flush(facts, left_out, seconds)

    def flush(self, facts: dict[str, Any], left_out: Tensor, seconds: float = 0.0) -> None:
        """Write what came in since the last line.

        Raises:
            RecipeError: see `step`.
        """
        import torch

        if not self._losses:
            return
        losses = torch.stack(self._losses)
        fine = losses[torch.isfinite(losses)]
        out, now = float(left_out), time.monotonic()
        if len(self._losses) >= _JUDGED and (out - self._left_out > len(self._losses) / 2 or not len(fine)):
            raise not_finite(
                f"The loss is not finite any more: of {len(self._losses)} steps before step {facts['step']}, "
                f"{out - self._left_out:.0f} were left out",
                self.out,
            )
        if not len(fine):
            return  # these steps wait for the next line
        loss = float(fine.mean())
        self._pace = self._texts / max(now - self._last, seconds, 1e-9)
        values = {
            "kind": "train",
            "step": facts["step"],
            "texts": facts["texts"],
            "seconds": round(facts["seconds"], 2),
            "loss": round(loss, 5),
            "texts_per_second": round(self._pace, 1),
            "learning_rate": self._rate,
            "share": round(self._share, 5),
        }
        self._write(values | ({"left_out": int(out)} if out else {}))
        self._show(facts, loss)
        self._last, self._losses, self._texts, self._left_out = now, [], 0, out

    def _show(self, facts: dict[str, Any], loss: float) -> None:
        step, share = f"step {facts['step']:,}", min(self._share, 1.0)
        words = f"{facts['texts']:,} texts, loss {loss:.3f}, {self._pace:.0f} texts/s"
        if math.isfinite(self.left):
            words += f", {self.left / 60:.1f} min left"
        if self._bar is None:
            if time.monotonic() - self._told >= _TELL_EVERY:
                self._tell(f"{step}: {words}")
            return
        with contextlib.suppress(OSError):
            if share > 0:
                self._bar.bar_format = _WITH_END
            self._bar.set_description_str(f"{step}: {words}", refresh=False)
            self._bar.update(max(0.0, 100 * share - self._shown))
            self._shown = 100 * share

    def _tell(self, words: str) -> None:
        """Write a line, above the bar where there is one."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # a terminal that went away ends no run
                self._bar.write(words, file=sys.stderr)
        else:
            _log.info("%s", words)
        self._told = time.monotonic()

    def validation(self, facts: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Write a validation; one of the same step, after which the run was killed before it ended, goes."""
        again = [line for line in self._earlier if (line["kind"], line["step"]) == ("validation", facts["step"])]
        if again:
            self._earlier = [line for line in self._earlier if line not in again]
            self._stream.close()
            self._stream = self._begin()
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in metrics.items()}
        kept = {"step": facts["step"], "texts": facts["texts"], "seconds": round(facts["seconds"], 2)}
        self._write({"kind": "validation", **kept, **rounded})
        figures = ", ".join(f"{k} {v:.3f}" for k, v in metrics.items() if isinstance(v, float))
        self._tell(f"validation at step {facts['step']:,}: {figures}")

    def figure(self) -> None:
        """Draw loss and bound over time into `curve.png`; nothing where matplotlib is absent."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        rows = read_log(self._path)
        figure = Figure(figsize=(7, 4))
        axis = figure.add_axes((0.1, 0.13, 0.87, 0.83))
        for kind, key, label in (
            ("train", "loss", "training loss"),
            ("validation", "bound", "validation bound"),
            ("validation", "causal_nll", "validation left to right"),
            ("validation", "cosine", "cosine to the encoder"),
        ):
            points = [(r["seconds"] / 60, r[key]) for r in rows if r["kind"] == kind and key in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker="o" if kind == "validation" else None, ms=3)
        axis.set_xlabel("minutes")
        axis.set_ylabel("nats per token (cosine: none)")
        axis.grid(alpha=0.3)
        axis.legend(loc="upper right")
        with atomic_path(self.out / "curve.png") as part:
            figure.savefig(part, dpi=120, format="png", pil_kwargs={"compress_level": 1})


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a run's `log.jsonl`; none where it is absent, and without the last line where a kill has cut it short."""
    path = Path(path)
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


_TIMED_STEPS = 12
_SKIPPED_STEPS = 4
_RESERVED = 0.03
"""Share of a time box that is kept for saving before anything was saved or measured."""


class Horizon:
    """The clock of one session of a run.

    Args:
        run: steps, horizon, reserve.
        box: seconds of this session, 0 for no end.
        started: `time.monotonic()` at the session's start, preparation included.
        steps: the horizon that the run has already, 0 for none.
        kind: "steps", "time" or "none"; None takes the recipe's.
    """

    def __init__(self, run: RunPart, box: float, started: float, steps: int = 0, kind: str | None = None) -> None:
        self.kind = kind or run.horizon
        if self.kind == "time" and not box:  # no clock to follow
            self.kind = "steps"
        self.box, self.started, self.steps = box, started, steps or run.steps
        self._fixed_reserve = parse_duration(run.reserve)
        self._measured: dict[str, float] = {}
        self._timed: list[float] = []
        self.begun, self._first = started, 0

    def begin(self, step: int = 0) -> None:
        """The first step of the session, which has this number, comes now."""
        self.begun, self._first = time.monotonic(), step

    def took(self, what: str, seconds: float) -> None:
        """Note how long a part of the end ("validation", "state", "checkpoint") took, for the reserve."""
        self._measured[what] = max(seconds, self._measured.get(what, 0.0))

    @property
    def reserve(self) -> float:
        """Seconds of the box in which no step begins."""
        if self._fixed_reserve:
            return min(self._fixed_reserve, self.box / 2)
        return min(max(_RESERVED * self.box, 1.3 * sum(self._measured.values())), self.box / 2)

    def left(self, step: int) -> float:
        """Seconds until this session ends before a step, by its box or its steps; infinite where neither is known."""
        now = time.monotonic()
        left = max(0.0, self.started + self.box - self.reserve - now) if self.box else math.inf
        if self.kind == "steps" and self.steps and step > self._first:
            left = min(left, (self.steps - step) * (now - self.begun) / (step - self._first))
        return left

    @property
    def end(self) -> float:
        """`time.monotonic()` at which the checkpoint has to be begun; infinite without a box."""
        if not self.box:
            return math.inf
        return self.started + self.box - 1.3 * self._measured.get("checkpoint", 0.01 * self.box)

    @property
    def out_of_time(self) -> bool:
        """Whether the box has no time left for a step."""
        return bool(self.box) and time.monotonic() - self.started >= self.box - self.reserve

    def progress(self, step: int) -> float:
        """Share of the run that is over before a step, 0 to 1 and above; 0 for ever where nothing ends it."""
        if self.kind == "time":
            whole = self.box - (self.begun - self.started) - self.reserve
            return (time.monotonic() - self.begun) / max(whole, 1e-9)
        return step / self.steps if self.steps else 0.0

    def fix(self, step: int, seconds: float, per_epoch: int) -> None:
        """Fix the number of steps after a step of a run that has none: one epoch, or what fits into the box."""
        if self.steps or self.kind != "steps":
            return
        if not self.box:
            self.steps = max(1, per_epoch)
            return
        self._timed.append(seconds)
        if len(self._timed) == _TIMED_STEPS:
            pace = sorted(self._timed[_SKIPPED_STEPS:])[(_TIMED_STEPS - _SKIPPED_STEPS) // 2]
            left = max(0.0, self.box - self.reserve - (time.monotonic() - self.started))
            self.steps = step + max(1, int(0.97 * left / pace))
            _log.info("the horizon is %d steps, at %.2f s per step", self.steps, pace)
