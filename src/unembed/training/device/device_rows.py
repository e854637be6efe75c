"""What a batch is asked, in fixed shapes: its first texts left to right, the others with masks.

Contents: `DeviceRows`, `draw_rows`, `most_scored`.

Both orders share a canvas of n + 1 places, n for the tokens and one for the end token, so that a batch goes through the
blocks once. Masks follow `diffusion/masking.py`, as on the other path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.diffusion.masking import draw_counts, mask_exactly
from unembed.network.base import GIVEN, MASK, PREFIX


@dataclass(frozen=True)
class DeviceRows:
    """B texts on a canvas of w = n + 1 places; the first `causal` of them are read left to right.

    Attributes:
        causal: how many.
        text: (B, w) tokens, the end token after each text.
        length: (B,) tokens of each text, 1 to n.
        shown: (B, w) what the network reads at each place: the token before in the causal order, the token itself with
            masks (under a mask it is not read).
        states: (B, w) PREFIX in the causal order, MASK or GIVEN with masks; MASK after a text.
        masked: (B - causal, w) bool, the masks of the others; never after a text.
        scored: (B, w) bool, places that are learnt: all and the end in the causal order, the masks otherwise.
        allowed: (B, w, w) bool, which places (last) each place may look at.
    """

    causal: int
    text: Tensor
    length: Tensor
    shown: Tensor
    states: Tensor
    masked: Tensor
    scored: Tensor
    allowed: Tensor

    @property
    def inside(self) -> Tensor:
        """(B, w) bool, places that hold a token of the text."""
        return torch.arange(self.text.shape[1], device=self.text.device) < self.length.unsqueeze(1)


def most_scored(texts: int, n: int, causal: int) -> int:
    """Most places that `draw_rows` can mark as scored.

    The mask counts of m texts are stratified: text i has at most (s_i + 1) n / m + 1 masks, s a permutation of 0 to
    m - 1, which adds up to (m + 1) n / 2 + m.

    Args:
        texts: B.
        n: greatest length.
        causal: how many of them are read left to right.
    """
    m = texts - causal
    return causal * (n + 1) + min(m * n, ((m + 1) * n + 1) // 2 + m)


def draw_rows(ids: Tensor, length: Tensor, causal: int, bos_id: int, eos_id: int) -> DeviceRows:
    """Draw the masks of a batch, from torch's own generator of the device.

    Args:
        ids: (B, n) tokens; what follows a text may be anything.
        length: (B,) tokens of each text, 1 to n.
        causal: how many of the B texts are read left to right, the first ones.
        bos_id: shown before the first token.
        eos_id: fills up, and is the last target of the causal order.
    """
    batch, w = ids.shape[0], ids.shape[1] + 1
    position = torch.arange(w, device=ids.device)
    inside = position < length.unsqueeze(1)
    text = torch.where(inside, F.pad(ids, (0, 1)), eos_id)
    mine, other = text[:causal], text[causal:]
    own = length[causal:]
    masked = mask_exactly(own, w, draw_counts(own, None), None)
    shown = torch.cat((F.pad(mine[:, :-1], (1, 0), value=bos_id), other))
    hidden = masked | ~inside[causal:]
    states = torch.cat((torch.full_like(mine, PREFIX), torch.where(hidden, MASK, GIVEN)))
    # The end token is a target where the text is over: one place more than it has tokens.
    scored = torch.cat((position <= length[:causal].unsqueeze(1), masked))
    # A place of the causal order sees itself, which holds the token before it, and what is left of that. Places
    # after its text see more than that, but nothing looks at them and none of them is scored.
    left = position.unsqueeze(1) >= position
    allowed = torch.cat((left.expand(causal, w, w), inside[causal:].unsqueeze(1).expand(batch - causal, w, w)))
    return DeviceRows(causal, text, length, shown, states, masked, scored, allowed)
