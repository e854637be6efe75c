"""Work that blocks, run in turns: it stops at points of its own, and continues when asked to.

Contents: `in_turns`, `watched_refinement`.

A refinement is one long call. It gets a thread of its own, but only one of the two threads ever runs: the one that asks
waits while the refinement computes, and the refinement waits while other work has its turn.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from unembed.metrics.cosine import row_cosine
from unembed.refinement.budget import Budget

if TYPE_CHECKING:
    from unembed.decoding.config import DecodeConfig
    from unembed.decoding.recovery import Recovery
    from unembed.encoders.protocol import Encoder
    from unembed.inverter import Inverter

T = TypeVar("T")


class _Closed(BaseException):
    """Nobody wants the rest."""


def in_turns(work: Callable[[Callable[[Any], None]], T]) -> Generator[Any, None, T]:
    """Run `work(pause)` so that each `pause(value)` in it yields `value`.

    Args:
        work: called in a thread of its own. After `close()` of the generator, `pause` raises and ends it.

    Returns:
        A generator whose value is what `work` returns.
    """
    go, back = threading.Semaphore(0), threading.Semaphore(0)
    said: list[Any] = []
    results: list[T] = []
    errors: list[BaseException] = []
    closed = threading.Event()

    def pause(value: Any) -> None:
        said.append(value)
        back.release()
        go.acquire()
        if closed.is_set():
            raise _Closed

    def run() -> None:
        go.acquire()
        try:
            if not closed.is_set():
                results.append(work(pause))
        except BaseException as error:
            errors.append(error)
        finally:
            back.release()

    thread = threading.Thread(target=run, name="unembed-refinement", daemon=True)
    thread.start()
    try:
        while True:
            go.release()
            back.acquire()
            if not said:
                break
            yield said.pop()
    finally:
        closed.set()
        go.release()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


class _Watched:
    """An encoder that pauses after each call and tells the texts that are nearer to the target than all before.

    Args:
        encoder: answers.
        target: (d,), or None where nothing is to be told.
        pause: called with a list of events.
    """

    def __init__(self, encoder: Encoder, target: np.ndarray | None, pause: Callable[[Any], None]) -> None:
        self._encoder, self._target, self._pause = encoder, target, pause
        self._queries, self._best = 0, -np.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts."""
        vectors = self._encoder.encode(texts)
        events = []
        if self._target is not None and len(texts):
            cosines = row_cosine(vectors, np.broadcast_to(self._target, vectors.shape))
            for text, cosine in zip(texts, cosines.tolist(), strict=True):
                self._queries += 1
                if cosine > self._best:
                    self._best = cosine
                    events.append({"queries": self._queries, "cosine": cosine, "text": text})
        self._pause(events[-1:])
        return vectors


def watched_refinement(
    inverter: Inverter,
    vectors: np.ndarray,
    config: DecodeConfig,
    method: str,
    queries: int,
    seconds: float,
    watch: bool,
) -> Generator[list[dict[str, Any]], None, list[Recovery]]:
    """Refine drafts with queries, in turns.

    Args:
        inverter: the model and its encoder.
        vectors: (n, d).
        config: of the first drafts.
        method: a key of `refinement.methods.REFINEMENTS`.
        queries: texts that may be sent for each vector.
        seconds: after which the best so far is returned.
        watch: yield an event whenever a nearer text is found; one vector only.

    Returns:
        A generator over lists of events, one for each pass and each call of the encoder; its value is the recoveries.
    """
    encoder = inverter.encoder

    def work(pause: Callable[[Any], None]) -> list[Recovery]:
        own, mine = copy.copy(inverter), threading.current_thread()
        own.__dict__["encoder"] = _Watched(encoder, vectors[0] if watch else None, pause)

        def before_pass(*_: Any) -> None:
            if threading.current_thread() is mine:
                pause([])

        hook = inverter.denoiser.blocks[0].register_forward_pre_hook(before_pass)
        try:
            budget = Budget(queries, seconds=seconds)
            return own.invert(vectors, budget=budget, refinement=method, batch_size=len(vectors), **asdict(config))
        finally:
            hook.remove()

    return in_turns(work)
