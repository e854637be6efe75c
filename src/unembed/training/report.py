"""What a run tells while it goes: a progress bar, a JSONL log, a training-curve figure.

Contents: `Reporter`, `read_log`.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any, TextIO

from unembed.errors import DataError
from unembed.files import atomic_path, atomic_write_bytes

_LOG_EVERY = 10.0


class Reporter:
    """Progress bar and log of a run.

    Args:
        out: folder of the run.
        progress: show the bar on stderr.
        step: of the state that the run goes on from: later lines of an existing log are dropped, since those steps come
            again; None begins a new log.

    Raises:
        DataError: the log cannot be written.
    """

    def __init__(self, out: Path, progress: bool, step: int | None) -> None:
        self.out = out
        self._path = out / "log.jsonl"
        self._earlier = [line for line in read_log(self._path) if line["step"] <= step] if step is not None else []
        self._stream = self._begin()
        self._bar: Any = None
        self._shown = 0.0
        if progress:
            from tqdm import tqdm

            self._bar = tqdm(total=100.0, unit="%", bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}")
        self._last = time.monotonic()
        self._losses: list[float] = []
        self._texts = 0

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
                f"Writing {self._path} failed: {error.strerror}.", "Free disk space, then go on with --resume."
            ) from error

    def step(self, facts: dict[str, Any], loss: float, texts: int, seconds: float, share: float, rate: float) -> None:
        """Take in one step; writes a line every ten seconds."""
        self._losses.append(loss)
        self._texts += texts
        now = time.monotonic()
        pace = self._texts / max(now - self._last, seconds, 1e-9)
        if self._bar is not None:
            left = facts["seconds"] * (1 - share) / share if share > 0.01 else float("nan")
            self._bar.set_description(f"step {facts['step']}", refresh=False)
            self._bar.set_postfix_str(f"loss {loss:.3f}, {pace:.0f} texts/s, {left / 60:.1f} min left", refresh=False)
            self._bar.update(max(0.0, 100 * min(share, 1.0) - self._shown))
            self._shown = 100 * min(share, 1.0)
        if now - self._last >= _LOG_EVERY or facts["step"] == 1:
            self._write(
                {
                    "kind": "train",
                    "step": facts["step"],
                    "texts": facts["texts"],
                    "seconds": round(facts["seconds"], 2),
                    "loss": round(sum(self._losses) / len(self._losses), 5),
                    "texts_per_second": round(pace, 1),
                    "learning_rate": rate,
                    "share": round(share, 5),
                }
            )
            self._last, self._losses, self._texts = now, [], 0

    def validation(self, facts: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Write a validation; one of the same step, behind which the run was killed before it ended, goes."""
        again = [line for line in self._earlier if (line["kind"], line["step"]) == ("validation", facts["step"])]
        if again:
            self._earlier = [line for line in self._earlier if line not in again]
            self._stream.close()
            self._stream = self._begin()
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in metrics.items()}
        kept = {"step": facts["step"], "texts": facts["texts"], "seconds": round(facts["seconds"], 2)}
        self._write({"kind": "validation", **kept, **rounded})
        if self._bar is not None:
            self._bar.write("  ".join(f"{k} {v}" for k, v in {**kept, **rounded}.items()))

    def figure(self) -> None:
        """Draw loss and bound over time into `curve.png`; nothing where matplotlib is absent."""
        try:
            import matplotlib
        except ImportError:
            return
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        rows = read_log(self._path)
        figure, axis = plt.subplots(figsize=(7, 4))
        for kind, key, label in (
            ("train", "loss", "training loss"),
            ("validation", "bound", "validation bound"),
            ("validation", "causal_nll", "validation left to right"),
        ):
            points = [(r["seconds"] / 60, r[key]) for r in rows if r["kind"] == kind and key in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker="o" if kind == "validation" else None, ms=3)
        axis.set_xlabel("minutes")
        axis.set_ylabel("nats a token")
        axis.grid(alpha=0.3)
        axis.legend()
        figure.tight_layout()
        with atomic_path(self.out / "curve.png") as part:
            figure.savefig(part, dpi=120, format="png")
        plt.close(figure)


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
