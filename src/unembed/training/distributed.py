"""Several processes on one machine: each computes the gradient of a batch of its own, over weights in shared memory.

Contents: `GradientWorkers`.

Threads of one process meet at a barrier after every small operation; processes meet once a step. On two cores two
processes of one thread see more texts a second than one of two threads (docs/log.md). The main process keeps
optimizer, average, validation and files; a worker has nothing but the network and the feed, and its random numbers
depend on the seed and the number of its batch alone, so that a run resumes as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import signal
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from unembed.data.feed import Feed
from unembed.errors import DataError
from unembed.model.block import compile_blocks
from unembed.training.memory import keep_memory
from unembed.training.step import StepLoss


class GradientWorkers:
    """Processes that add the gradients of further batches to those of the main one.

    Args:
        step_loss: of the main process; its denoiser's parameters move into shared memory, where the workers read them.
        feed: the batches.
        workers: processes besides the main one.
        seed: of masks, shortlists and noise.
        threads: of each worker.
        compiled: compile the blocks, as the main process does.
    """

    def __init__(
        self, step_loss: StepLoss, feed: Feed, workers: int, seed: int, threads: int = 1, compiled: bool = False
    ) -> None:
        import torch.multiprocessing as processes

        context = processes.get_context("spawn")
        step_loss.denoiser.share_memory()
        self._parameters = list(step_loss.denoiser.parameters())
        self._grads: list[list[Tensor]] = []
        self._ends: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(workers):
            grads = [torch.zeros_like(p.detach()).share_memory_() for p in self._parameters]
            ours, theirs = context.Pipe()
            arguments = (theirs, step_loss, feed, grads, seed, threads, compiled)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._grads.append(grads)
            self._ends.append(ours)
            self._processes.append(process)

    def __len__(self) -> int:
        """Return the number of workers."""
        return len(self._processes)

    def begin(self, batch: int, scale: float) -> None:
        """Let the workers compute the gradients of batches `batch`, `batch` + 1, ..., one each, times `scale`."""
        for i, end in enumerate(self._ends):
            self._talk(end.send, (batch + i, scale))

    def collect(self) -> list[tuple[float, int]]:
        """Wait, add the workers' gradients to those of the parameters, and return loss and texts of each batch.

        Raises:
            DataError: a worker failed or was killed.
        """
        found: list[tuple[float, int]] = []
        for end, grads in zip(self._ends, self._grads, strict=True):
            answer = self._talk(end.recv)
            if isinstance(answer, str):
                raise DataError(f"A training process failed: {answer}", "Set run.processes = 1 to see where.")
            found.append(answer)
            for parameter, grad in zip(self._parameters, grads, strict=True):
                if parameter.grad is None:
                    parameter.grad = grad.clone()
                else:
                    parameter.grad.add_(grad)
        return found

    def close(self) -> None:
        """End the workers."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.send(None)
            end.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._ends, self._processes = [], []

    def _talk(self, way: Any, *values: Any) -> Any:
        try:
            return way(*values)
        except (EOFError, OSError) as error:
            raise DataError(
                "A training process ended without a word.", "Look for a lack of memory, or set run.processes = 1."
            ) from error


def batch_generator(seed: int, batch: int) -> torch.Generator:
    """The random numbers of one batch of a worker."""
    return torch.Generator().manual_seed((seed << 40) ^ (batch + 1))


def _work(
    end: Connection, step_loss: StepLoss, feed: Feed, grads: list[Tensor], seed: int, threads: int, compiled: bool
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the main process decides when to stop
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    keep_memory()
    denoiser = step_loss.denoiser
    denoiser.train(True)
    if compiled:
        compile_blocks(denoiser, static=bool(feed.buckets))
    for parameter, grad in zip(denoiser.parameters(), grads, strict=True):
        parameter.grad = grad
    while True:
        try:
            message = end.recv()
        except (EOFError, OSError):
            return
        if message is None:
            return
        batch, scale = message
        try:
            torch._foreach_zero_(grads)
            (group,) = feed.at(batch)
            lengths = None if group.lengths is None else torch.from_numpy(group.lengths)
            inputs = torch.from_numpy(group.ids), torch.from_numpy(group.vectors)
            generator = batch_generator(seed, batch)
            torch.manual_seed(generator.initial_seed())  # dropout draws from torch's own
            loss = step_loss.backward(*inputs, generator, scale, lengths)
            end.send((loss, len(group)))
        except Exception as error:
            end.send(f"{type(error).__name__}: {error}".splitlines()[0])
            return
