"""What a run learns. One loop trains everything; a task says what it draws, what it scores and what it validates.

Contents: `Task`, `Part`, `in_parts`, `lighter`.

The loop owns the optimizer, the average, the learning rate, the clock, the state and the log. A task owns a network,
its data and its loss. `denoiser_task`, `device_task`, `student_task` and `corrector_task` hold the tasks there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unembed.encoders.identity import EncoderIdentity
from unembed.training.memory import out_of_memory


@dataclass(frozen=True)
class Part:
    """A share of a batch that goes through the network at once.

    Attributes:
        share: of the batch's texts; the shares of a batch add up to 1.
        texts: how many texts.
        values: what `Task.score` reads.
    """

    share: float
    texts: int
    values: Any


class Task(Protocol):
    """What a run learns."""

    @property
    def model(self) -> nn.Module:
        """The network, in training mode; its parameters that require a gradient learn."""
        ...

    @property
    def data(self) -> tuple[str, ...]:
        """Fingerprints of the training data, in order. A run may be resumed with further data after them."""
        ...

    @property
    def identity(self) -> EncoderIdentity:
        """Of the encoder that made the vectors. A run is never resumed with another."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, 0 where that is unknown."""
        ...

    @property
    def precision(self) -> str:
        """The arithmetic, "bf16" or "fp32"."""
        ...

    def warm_up(self) -> None:
        """Compile what is compiled, forward and backward; the gradients are thrown away, and no place moves."""
        ...

    def draw(self) -> list[Part]:
        """Return the next batch and move on."""
        ...

    def score(self, part: Part, generator: torch.Generator) -> Tensor:
        """Return the differentiable loss () of a part, in nats a scored token or the task's own unit."""
        ...

    def validate(self, decode_until: float | None) -> dict[str, Any]:
        """Figures of held-out texts, with the weights as they stand (the loop has put the average in their place).

        Args:
            decode_until: at the end of a session, where texts are decoded too: the `time.monotonic()` at which
                that has to be done; None decodes none.
        """
        ...

    def save(self, folder: Path, notes: dict[str, Any], state: dict[str, Tensor]) -> Path:
        """Write what the run is for, from a state dict of the model, and return its path.

        Args:
            folder: of the checkpoint; made where absent.
            notes: steps, texts, seconds, figures.
            state: weights to store, such as the average.
        """
        ...

    def place(self) -> dict[str, Any]:
        """Where the next batch is, as JSON values."""
        ...

    def restore(self, place: dict[str, Any]) -> None:
        """Continue from a place."""
        ...

    def notes(self) -> dict[str, Any]:
        """Facts that the checkpoint and the state keep, as JSON values."""
        ...

    def lighten(self, error: Exception) -> str:
        """Make the next steps need less after a step failed for want of memory or of a compiler.

        Args:
            error: what the step raised.

        Returns:
            What was changed, as a clause for the log; "" where nothing can be, and the error stands.
        """
        ...

    def arithmetic(self) -> dict[str, float]:
        """Since the last call: `positions` that went through the blocks, `operations` of forward and backward."""
        ...


def in_parts(groups: Sequence[Sized]) -> list[Part]:
    """Return groups of texts as the parts of a batch."""
    size = sum(len(group) for group in groups)
    return [Part(len(group) / size, len(group), group) for group in groups]


def lighter(error: Exception, halve: Callable[[], bool], uncompile: Callable[[], bool]) -> str:
    """What `Task.lighten` returns: smaller batches where memory ran out, else no compiled code.

    Args:
        error: what the step raised.
        halve: makes batches half the size; false where they are as small as they get.
        uncompile: gives up compiled code; false where nothing is compiled.
    """
    if out_of_memory(error):
        return "memory ran out: batches of half the size from here" if halve() else ""
    return "compiled code failed: continuing without it" if uncompile() else ""
