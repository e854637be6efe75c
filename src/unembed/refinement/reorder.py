"""The same words in another order: left-to-right beams that may only use up a draft's own tokens.

Contents: `orderings`.

Drafts hold most of the right words long before their order is right, and single moves cannot reach another order. The
causal half of the denoiser can: its beam is restricted to the tokens of the draft that are still unused, so that every
hypothesis ends as a permutation of the draft.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from unembed.decoding.causal.beams import Texts
from unembed.decoding.causal.writer import Bag, write_texts
from unembed.network.base import Network
from unembed.network.conditioning import Condition


def orderings(
    denoiser: Network, condition: Condition, drafts: Sequence[tuple[int, ...]], beam: int = 8
) -> Generator[None, None, tuple[Texts, list[int]]]:
    """Find likely orders of each draft's tokens.

    Args:
        denoiser: trained with causal rows.
        condition: of the D drafts' texts, one row per draft.
        drafts: D drafts of at least one token.
        beam: hypotheses kept of each draft.

    Yields:
        After each read of the network.

    Returns:
        For each draft at most `beam` pairs (ids, log-probability with the end), likeliest first; and the passes that
        each draft took.
    """
    if not drafts:
        return [], []
    bag = Bag(drafts, denoiser.config.eos_id, denoiser.banned.device)
    return (yield from write_texts(denoiser, condition, beam, bag, empty=True))
