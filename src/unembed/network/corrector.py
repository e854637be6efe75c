"""A corrector: lets a frozen denoiser see a draft, the draft's own vector and how the two vectors differ.

Contents: `CorrectorConfig`, `Corrector`, `Seen`.

The denoiser is not changed. Everything that a draft says goes into the `Condition`, which is all that decoding reads:
rows of the draft that every block looks up, a change of the modulation, and a change of the
token prior's evidence in the direction of the difference. All of it starts at zero: a new corrector writes what the
denoiser writes. Both orders can be used, left to right and masks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.block import Block
from unembed.network.conditioning import Condition
from unembed.network.difference import Directions
from unembed.network.draft_memory import DraftMemory, DraftReader

_FEATURES = 9
_GATES = (2, 5)  # in the order that `model.block.Block.forward` names


@dataclass(frozen=True)
class CorrectorConfig:
    """The shape of a corrector; its width is the denoiser's.

    Attributes:
        layers: blocks that mix the rows of a draft.
        heads: attention heads of those.
        mlp: hidden width of their MLP.
        read_heads: heads of each reader.
        read_width: width of each of these heads.
        rank: inner dimension of the change of the modulation.
        vector_rows: rows made of the vectors, beside one for each token of the draft.
    """

    layers: int = 2
    heads: int = 6
    mlp: int = 768
    read_heads: int = 4
    read_width: int = 64
    rank: int = 16
    vector_rows: int = 2

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}.", "Use a whole number of at least 1.")


@dataclass
class Seen:
    """What a corrector makes of drafts.

    Attributes:
        condition: of the drafts' targets, changed; its evidence is still that of the targets alone.
        directions: (2, B, d) the whitened and the plain difference, as directions among class means.
        factors: (B, 2) how much each changes the evidence.
    """

    condition: Condition
    directions: Tensor
    factors: Tensor


class Corrector(nn.Module):
    """Changes a condition so that a draft is taken into account.

    Args:
        base: the denoiser, which stays as it is; it is not part of the corrector's state.
        config: the shape.

    Raises:
        InputError: a denoiser that has no token prior, or is a plain autoregressive one.
    """

    def __init__(self, base: Network, config: CorrectorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CorrectorConfig()
        c = base.config
        if not c.fills_masks or base.token_prior is None:
            raise InputError(
                "This checkpoint cannot have a corrector: it lacks the token prior, or is autoregressive.",
                "Train with model.token_prior = true and a backbone that fills masks.",
            )
        if c.width % config.heads:
            raise InputError(
                f"The width {c.width} is not a multiple of {config.heads} heads.", "Choose another number of heads."
            )
        self._base = (base,)
        self._directions: tuple[Directions, ...] = ()
        self._layers, self._parts, self.width = c.layers, c.modulation_parts, c.width
        width = c.width
        self.mix = nn.Linear(3 * width, width)
        self.features = nn.Linear(_FEATURES, width)
        self.from_start = nn.Embedding(c.max_length + 2, width)
        self.from_end = nn.Embedding(c.max_length + 2, width)
        for table in (self.from_start, self.from_end):
            nn.init.normal_(table.weight, std=0.1)
        self.trunk = nn.Sequential(
            nn.Linear(3 * c.vector_dim + 2, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.vector_rows = nn.Linear(width, config.vector_rows * width)
        self.blocks = nn.ModuleList([Block(width, config.heads, config.mlp) for _ in range(config.layers)])
        gains = torch.zeros(config.layers, 6, width)
        gains[:, _GATES] = 0.3
        self.gains = nn.Parameter(gains)
        self.readers = nn.ModuleList(
            [DraftReader(width, config.read_heads, config.read_width) for _ in range(c.layers)]
        )
        self.down = nn.Linear(width, config.rank)
        self.up = nn.Linear(config.rank, (c.layers * self._parts + 2) * width)
        self.factors = nn.Linear(width, 2)
        for module in (self.up, self.factors):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        self._align(base)

    @torch.no_grad()
    def _align(self, base: Network) -> None:
        """Start with readers that look where they should: at the draft's row of the same place and token before.

        A position of the denoiser holds the token before it (left to right) and its place. So rows begin as the token
        before and the place, in the denoiser's own terms, with their own token turned away; and keys as queries.
        """
        width, place = self.width, base.position.weight
        known = min(len(self.from_start.weight), len(place))
        self.from_start.weight[:known] = place[:known].float()
        tokens = (~base.banned).nonzero().flatten()[:4096]
        size = float(base._embed(tokens).float().square().mean().sqrt())
        self.mix.weight[:, :width] = size * torch.eye(width)
        self.mix.weight[:, width : 2 * width] = size * nn.init.orthogonal_(torch.empty(width, width))
        self.mix.weight[:, 2 * width :] *= 0.5
        for reader in self.readers:
            assert isinstance(reader, DraftReader)
            reader.query.weight.copy_(reader.key.weight)
            reader.query.bias.zero_()
            reader.key.bias.zero_()

    @property
    def base(self) -> Network:
        """The denoiser that it belongs to."""
        return self._base[0]

    @property
    def directions(self) -> Directions:
        """The closed form of the difference, laid out at first use."""
        if not self._directions:
            self._directions = (Directions(self.base),)
        return self._directions[0]

    def forward(
        self, condition: Condition, ids: Tensor, lengths: Tensor, vectors: Tensor, own: Tensor | None = None
    ) -> Condition:
        """Change a condition by drafts.

        Args:
                    condition: of B targets, as `Network.condition` makes it (selected rows included).
            ids: (B, n) drafts, of one text each; what follows a length is not read.
                    lengths: (B,) tokens of each, at least 1.
            vectors: (B, d) the drafts' own vectors, as the encoder makes them.
            own: see `see`.

        Returns:
            A condition of the B drafts, with evidence of its own.
        """
        seen = self.see(condition, ids, lengths, vectors, own)
        changed = seen.condition
        if condition.evidence is None:
            return changed
        direction = (seen.factors.float().T.unsqueeze(-1) * seen.directions).sum(0)
        scores = self.directions.scores(direction)
        if own is not None:
            present = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, own, True)
            every = torch.arange(scores.shape[1], device=ids.device)
            scores = self.directions.taken_out(scores, every, present, direction, condition.whitened.float())
        evidence = condition.evidence[condition.text] + scores
        return replace(changed, evidence=evidence, text=torch.arange(len(ids), device=ids.device))

    def see(
        self, condition: Condition, ids: Tensor, lengths: Tensor, vectors: Tensor, own: Tensor | None = None
    ) -> Seen:
        """What `forward` does, but for the evidence.

        Args:
            condition, ids, lengths, vectors: see `forward`.
            own: (B, t) the true texts, where the class means were fitted on them: they are taken out of the means of
                their tokens (leave-one-out).
        """
        base, width = self.base, self.width
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            white = condition.whitened.float()
            draft = base._scaled(vectors)
            directions, cosine = self.directions(white, vectors.float(), draft)
            size = directions[0].norm(dim=1, keepdim=True) / white.shape[1] ** 0.5
            difference = directions[0]
            facts = torch.cat(
                (white, difference, difference / size.clamp_min(1e-3), cosine, size.clamp_min(1e-3).log()), dim=1
            )
        c = F.silu(self.trunk(facts))
        rows, inside = self._rows(ids, lengths, directions, white, draft, c, own)
        gains = self.gains.unsqueeze(1).expand(-1, len(ids), -1, -1)
        mask = inside[:, None, None, :]
        for block, gain in zip(self.blocks, gains, strict=True):
            rows, _ = block(rows, gain, None, mask)
        rows = F.layer_norm(rows, (width,))
        readers = cast(list[DraftReader], list(self.readers))
        pairs = [reader.keys_values(rows) for reader in readers]
        change = self.up(self.down(c)).float().view(len(ids), self._layers * self._parts + 2, width)
        modulation = change[:, :-2].view(len(ids), self._layers, self._parts, width)
        changed = replace(
            condition,
            modulation=condition.modulation + modulation,
            final=condition.final + change[:, -2:],
            draft=DraftMemory([k for k, _ in pairs], [v for _, v in pairs], inside, readers),
        )
        return Seen(changed, directions, self.factors(c).float())

    def _rows(
        self,
        ids: Tensor,
        lengths: Tensor,
        directions: Tensor,
        white: Tensor,
        draft: Tensor,
        c: Tensor,
        own: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Rows (B, m, width) that the blocks mix, and which exist (B, m): of the vectors, each token, and the end."""
        base, config = self.base, self.base.config
        n = ids.shape[1]
        position = torch.arange(n + 1, device=ids.device)
        ids = F.pad(ids, (0, 1))
        ids = torch.where(position < lengths.unsqueeze(1), ids, config.pad_id)
        ids = torch.where(position == lengths.unsqueeze(1), config.eos_id, ids)
        with torch.no_grad():
            around = F.pad(ids, (1, 1), value=config.pad_id)
            around[:, 0] = config.bos_id
            embedded = F.layer_norm(base._embed(around).float(), (self.width,))
            shown = torch.cat((embedded[:, :-2], embedded[:, 1:-1], embedded[:, 2:]), dim=2)
            facts = self._facts(ids, lengths, directions, white, draft, own)
        rows = self.mix(shown) + self.features(facts) + c.unsqueeze(1)
        rows = rows + self.from_start(position) + self.from_end((lengths.unsqueeze(1) - position).clamp_min(0))
        vectors = self.vector_rows(c).view(len(ids), -1, self.width)
        inside = F.pad(position <= lengths.unsqueeze(1), (vectors.shape[1], 0), value=True)
        return torch.cat((vectors.float(), rows.float()), dim=1), inside

    def _facts(
        self,
        ids: Tensor,
        lengths: Tensor,
        directions: Tensor,
        white: Tensor,
        draft: Tensor,
        own: Tensor | None,
    ) -> Tensor:
        """(B, m, features) what the closed form says about each token of the drafts; bounded numbers."""
        with torch.autocast(ids.device.type, enabled=False):
            probes = torch.stack((directions[0], directions[1], white, draft), dim=1)
            products, size = self.directions.of_tokens(ids, probes, white, own)
            mean = self.directions.norms(ids).unsqueeze(-1)
            angles = products / (mean * probes.norm(dim=2).unsqueeze(1)).clamp_min(1e-3)
            facts = torch.cat((angles * 4, (products / 25).clamp(-6, 6), size.log().unsqueeze(-1) / 10), dim=2)
            real = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
            return facts * real.unsqueeze(-1)


def corrector_for(base: Network, values: dict[str, Any]) -> Corrector:
    """Build a corrector of a stored shape.

    Raises:
        InputError: keys or values that make no shape.
    """
    try:
        return Corrector(base, CorrectorConfig(**values))
    except TypeError as error:
        raise InputError(f"The corrector's shape is not known ({error}).", "Use the unembed that wrote it.") from error
