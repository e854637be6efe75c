"""What a run learns. One loop trains everything; a task says what it draws, what it scores and what it validates.

Contents: `Task`, `Part`, `in_parts`.

The loop owns the optimizer, the average, the learning rate, the clock, the state and the log. A task owns a network,
its data and its loss. `denoiser_task`, `device_task`, `student_task` and `corrector_task` hold the tasks there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unembed.data.feed import LengthGroup
from unembed.encoders.identity import EncoderIdentity
from unembed.network.block import compile_blocks, compiled_blocks, uncompile_blocks
from unembed.training.memory import out_of_memory
from unembed.training.recipes.recipe import Recipe


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


def in_parts(groups: Sequence[LengthGroup]) -> list[Part]:
    """The groups of a batch, each of texts of one length, as parts."""
    size = sum(len(group) for group in groups)
    return [Part(len(group) / size, len(group), group) for group in groups]


class Task(ABC):
    """What a run learns.

    Args:
        recipe: of the run.
        device: where the network goes.
        precision: the arithmetic, "bf16" or "fp32".
        model: the network; its parameters that require a gradient learn.
        feed: of the batches: its length in them, its state, and batches of half the size.
        data: fingerprints of the training data, in order. A run may be resumed with further data after them.
        identity: of the encoder that made the vectors. A run is never resumed with another.
        compiled: networks whose blocks are compiled, where the recipe compiles; None for the model alone.
    """

    feed: Any

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        precision: str,
        model: nn.Module,
        feed: Any,
        data: tuple[str, ...],
        identity: EncoderIdentity,
        compiled: Sequence[nn.Module] | None = None,
    ) -> None:
        self.recipe, self.device, self.precision, self.feed = recipe, device, precision, feed
        self.model: Any = model.to(device).train()
        self.data, self.identity = data, identity
        self._compiled = [model] if compiled is None else list(compiled)
        if recipe.run.compiles(device.type):
            for network in self._compiled:
                compile_blocks(network)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, 0 where that is unknown."""
        found: int = self.feed.batches_per_epoch
        return found

    def warm_up(self) -> None:
        """Compile what is compiled, forward and backward; the gradients are thrown away, and no place moves."""
        if any(compiled_blocks(network) for network in self._compiled):
            for loss in self.trials():
                loss.backward()  # type: ignore[no-untyped-call]
            self.arithmetic()

    def trials(self) -> Iterable[Tensor]:
        """Losses () of the shapes that there are; the feed is where it was when all are taken."""
        return ()

    @abstractmethod
    def draw(self) -> list[Part]:
        """Return the next batch and move on."""

    @abstractmethod
    def score(self, part: Part, generator: torch.Generator) -> Tensor:
        """Return the differentiable loss () of a part, in nats a scored token or the task's own unit."""

    @torch.no_grad()
    def validate(self, decode_until: float | None) -> dict[str, Any]:
        """Figures of held-out texts, with the weights as they stand (the loop has put the average in their place).

        Args:
            decode_until: at the end of a session, where texts are decoded too: the `time.monotonic()` at which
                that has to be done; None decodes none.
        """
        self.model.eval()
        try:
            return self.figures(decode_until)
        finally:
            self.model.train()

    @abstractmethod
    def figures(self, decode_until: float | None) -> dict[str, Any]:
        """See `validate`; the model is in evaluation mode."""

    @abstractmethod
    def save(self, folder: Path, notes: dict[str, Any], state: dict[str, Tensor]) -> Path:
        """Write what the run is for, from a state dict of the model, and return its path.

        Args:
            folder: of the checkpoint; made where absent.
            notes: steps, texts, seconds, figures.
            state: weights to store, such as the average.
        """

    def place(self) -> dict[str, Any]:
        """Where the next batch is, as JSON values."""
        return dict(self.feed.state())

    def restore(self, place: dict[str, Any]) -> None:
        """Continue from a place."""
        self.feed.restore(place)

    @abstractmethod
    def notes(self) -> dict[str, Any]:
        """Facts that the checkpoint and the state keep, as JSON values."""

    def lighten(self, error: Exception) -> str:
        """Make the next steps need less: smaller batches where memory ran out, else no compiled code.

        Args:
            error: what the step raised.

        Returns:
            What was changed, as a clause for the log; "" where nothing can be, and the error stands.
        """
        if out_of_memory(error):
            return "memory ran out: batches of half the size from here" if self.halve() else ""
        return "compiled code failed: continuing without it" if self.uncompile() else ""

    def halve(self) -> bool:
        """Continue with batches of half the size; false where they are as small as they get."""
        return bool(self.feed.halve())

    def uncompile(self) -> bool:
        """Continue without compiled code; false where nothing is compiled."""
        return uncompile_blocks(*self._compiled)

    @abstractmethod
    def arithmetic(self) -> dict[str, float]:
        """Since the last call: `positions` that went through the blocks, `operations` of forward and backward."""
