"""From a vector to what the blocks need: modulation, memory, priors. Computed once for a decode.

Contents: `Condition` (the tensors, selectable by row), `Reading` and `CausalState` (what passes hand on with it),
`Conditioner` (the module that makes it), `TimeModulation` and `time_of` (a time as an input).

A denoiser needs no time, because the share of masks tells it (arXiv 2406.03736, section 3); the paper of 2602.11047
feeds it (equation 6). Training feeds the t that was drawn. Decoding feeds the t at which the schedule of training has
as many masks as the canvas shows: for the linear schedule the share of masks itself, which is what the paper's
sequential strategy takes, for another schedule its inverse, so that both sides mean the same by t.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.diffusion.schedule import Schedule
from unembed.network.draft_memory import DraftMemory


@dataclass
class Condition:
    """What the denoiser knows of a batch of vectors.

    Attributes:
        whitened: (B, d) the vectors as the networks see them.
        modulation: (B, layers, 6, width) for the blocks.
        final: (B, 2, width) shift and scale before the head.
        memory: (B, M, width) prefix tokens, read by every block as keys and values; M may be 0.
        evidence: (T, V) log-odds of all tokens for the T texts that the condition was made of, outside of training;
            None where there is no token prior. Selecting rows does not copy it.
        text: (B,) the row of `evidence` of each row.
        known: (B, 1) 1 where the vector is known and 0 where it was dropped and the closed-form priors say nothing;
            None where all are known.
        draft: what a corrector made of a draft of each text, read before each block; None where there is no draft.
    """

    whitened: Tensor
    modulation: Tensor
    final: Tensor
    memory: Tensor
    evidence: Tensor | None
    text: Tensor
    known: Tensor | None = None
    draft: DraftMemory | None = None

    def __len__(self) -> int:
        """Return the number of vectors B."""
        return self.whitened.shape[0]

    def select(self, index: Tensor) -> Condition:
        """Return the rows named by `index` (R,), in that order; rows may repeat."""
        known = None if self.known is None else self.known[index]
        draft = None if self.draft is None else self.draft.select(index)
        apart = ("evidence", "known", "draft")
        rows = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in apart}
        return Condition(evidence=self.evidence, known=known, draft=draft, **rows)

    def heed(self, scores: Tensor, owner: Tensor | None = None) -> Tensor:
        """Scores of a prior, zero where the vector is not known; their rows are those of the condition or `owner`'s."""
        if self.known is None:
            return scores
        return scores * (self.known if owner is None else self.known[owner])


@dataclass
class Reading:
    """Hidden rows that are about to be scored.

    Attributes:
        hidden: (R, width).
        owner: (R,) index of each row's vector in the condition.
        column: (R,) position of each row.
        used: (B, n) tokens that are in the texts, the end token elsewhere.
        condition: of the B vectors.
    """

    hidden: Tensor
    owner: Tensor
    column: Tensor
    used: Tensor
    condition: Condition

    def __len__(self) -> int:
        """Return the number of rows R."""
        return len(self.owner)


@dataclass
class CausalState:
    """Keys and values of a left-to-right draft so far.

    Attributes:
        condition: the vectors' condition, B rows.
        past: for each block keys and values (B, heads, M + t, width / heads).
        index: t, the number of tokens fed.
        tokens: (B, t) the tokens fed, the begin token first.
    """

    condition: Condition
    past: list[tuple[Tensor, Tensor]]
    index: int
    tokens: Tensor

    def select(self, index: Tensor) -> CausalState:
        """Return the rows named by `index` (R,), in that order; rows may repeat."""
        past = [(k[index], v[index]) for k, v in self.past]
        return CausalState(self.condition.select(index), past, self.index, self.tokens[index])


class Conditioner(nn.Module):
    """Whitened vector -> modulation of each block and prefix tokens.

    Args:
        dim: dimension d of the vector.
        width: model width.
        layers: number of blocks.
        rank: inner dimension of each block's map; 0 for a map of full rank.
        prefix_tokens: number of memory rows made from the vector.
    """

    def __init__(self, dim: int, width: int, layers: int, rank: int, prefix_tokens: int) -> None:
        super().__init__()
        self.width, self.layers, self.rank, self.prefix_tokens = width, layers, rank, prefix_tokens
        self.trunk = nn.Sequential(nn.Linear(dim, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width))
        if rank:
            self.down = nn.Linear(width, layers * rank)
        self.maps = nn.ModuleList([nn.Linear(rank or width, 6 * width) for _ in range(layers)])
        self.final = nn.Linear(width, 2 * width)
        for module in [*self.maps, self.final]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        if prefix_tokens:
            self.prefix = nn.Linear(dim, prefix_tokens * width)
            self.prefix_position = nn.Parameter(torch.randn(prefix_tokens, width) * 0.02)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map whitened vectors z (B, d) to modulation, final modulation and memory (see `Condition`)."""
        batch = z.shape[0]
        c = F.silu(self.trunk(z))
        # (B, width) for every block alike, or (B, rank) of its own
        inner = self.down(c).view(batch, self.layers, -1).unbind(1) if self.rank else [c] * self.layers
        parts = [m(x) for m, x in zip(self.maps, inner, strict=True)]
        modulation = torch.stack(parts, dim=1).view(batch, self.layers, 6, self.width)
        final = self.final(c).view(batch, 2, self.width)
        if self.prefix_tokens:
            memory = self.prefix(z).view(batch, self.prefix_tokens, self.width) + self.prefix_position
        else:
            memory = z.new_zeros(batch, 0, self.width)
        return modulation, final, F.layer_norm(memory, (self.width,))


class TimeModulation(nn.Module):
    """t to modulation, one linear map a block that starts at zero (2602.11047, equation 6).

    Args:
        layers: number of blocks.
        parts: parts of a block's modulation.
        width: model width.
    """

    def __init__(self, layers: int, parts: int, width: int) -> None:
        super().__init__()
        self.shape = (layers, parts, width)
        self.map = nn.Linear(1, layers * parts * width)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Map times t (B,) in [0, 1] to what is added to the modulation, (B, layers, parts, width)."""
        with torch.autocast(t.device.type, enabled=False):
            weight, bias = self.map.weight.float(), self.map.bias.float()  # bf16 in a network that only decodes
            return F.linear(t.float().unsqueeze(1), weight, bias).view(len(t), *self.shape)


def time_of(masked: Tensor, lengths: Tensor | None, schedule: Schedule) -> Tensor:
    """The time at which a schedule is expected to have as many masks as are seen.

    Args:
        masked: (B, n) bool.
        lengths: (B,) positions of each canvas, or None where all have n; what follows does not count.
        schedule: of training.

    Returns:
        (B,) float32 in [0, 1].
    """
    n = masked.shape[1]
    if lengths is None:
        share = masked.float().mean(1)
    else:
        inside = torch.arange(n, device=masked.device) < lengths.unsqueeze(1)
        share = (masked & inside).sum(1) / lengths.clamp_min(1)
    return schedule.time(1.0 - share)
