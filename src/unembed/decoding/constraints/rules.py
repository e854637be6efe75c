"""What a text must hold, as token ids: the form in which decoding enforces constraints.

Contents: `Rules`, `no_text`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unembed.decoding.constraints.lexicon import Lexicon, fits, free_runs
from unembed.errors import InputError

Word = tuple[int, ...]


def no_text(row: int) -> InputError:
    """The error for constraints that each can be met, but not together."""
    return InputError(
        f"No text that meets all constraints was found for vector {row} of its batch.",
        "Ban or require fewer words, or allow more lengths.",
    )


@dataclass(frozen=True)
class Rules:
    """Constraints of B texts of at most `max_length` tokens. Made by `constraints.Constraints.compile`.

    Attributes:
        given: (B, max_length) int64 known tokens, -1 elsewhere.
        closed: (B, max_length) bool, positions right after a known word: where no token that continues it is allowed.
        required: for each text the words that must appear, longest first, those that the given tokens hold left out;
            each takes positions of its own.
        banned: for each text the patterns (`Lexicon.pattern`) that must not appear as whole words.
        least, most: (B,) int64, the range of the length.
        lexicon: the vocabulary's surfaces.
    """

    given: Tensor
    closed: Tensor
    required: tuple[tuple[Word, ...], ...]
    banned: tuple[tuple[str, ...], ...]
    least: Tensor
    most: Tensor
    lexicon: Lexicon

    @classmethod
    def of_given(cls, given: Tensor, max_length: int, vocab_size: int) -> Rules:
        """Make rules of known tokens (B, up to max_length) alone."""
        wide = torch.nn.functional.pad(given, (0, max_length - given.shape[1]), value=-1)
        texts = len(given)
        return cls(
            given=wide,
            closed=torch.zeros_like(wide, dtype=torch.bool),
            required=((),) * texts,
            banned=((),) * texts,
            least=torch.ones(texts, dtype=torch.long, device=given.device),
            most=torch.full((texts,), max_length, device=given.device),
            lexicon=Lexicon([""] * vocab_size),
        )

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.given)

    @property
    def of_tokens_alone(self) -> bool:
        """Whether only tokens at positions and lengths are constrained, not words."""
        return not (any(self.required) or any(self.banned) or bool(self.closed.any()))

    def part(self, rows: slice) -> Rules:
        """Return the rules of some of the texts."""
        return replace(
            self,
            given=self.given[rows],
            closed=self.closed[rows],
            required=self.required[rows],
            banned=self.banned[rows],
            least=self.least[rows],
            most=self.most[rows],
        )

    def to(self, device: torch.device) -> Rules:
        """Return the rules on a device."""
        names = ("given", "closed", "least", "most")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def lengths(self) -> Tensor:
        """(B, max_length) bool: whether a text of 1, 2, ..., max_length tokens can hold what it must."""
        max_length = self.given.shape[1]
        n = torch.arange(1, max_length + 1, device=self.given.device)
        last = torch.where(self.given >= 0, n, 0).amax(1)
        least = torch.maximum(self.least, last)
        for row, words in enumerate(self.required):
            if words:
                tokens, sizes = self.given[row].tolist(), [len(word) for word in words]
                while least[row] < max_length and not fits(free_runs(tokens, 0, int(least[row]), self.lexicon), sizes):
                    least[row] += 1
        return (n >= least.unsqueeze(1)) & (n <= self.most.unsqueeze(1))
