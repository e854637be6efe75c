"""A shortlist for the training softmax: fewer columns, the same expectation of the partition function.

Contents: `Shortlist`.

The columns are the frequent tokens, the targets of the batch and a uniform sample of the rest; each sampled column
stands for (rest / sampled) others, so log(rest / sampled) is added to its logit and the sum of exponentials stays
unbiased given the targets (sampled softmax with log-q correction, Jean et al. 2015, arXiv 1412.2007).
"""

from __future__ import annotations

import torch
from torch import Tensor

from unembed.training.recipes.recipe_parts import ObjectivePart


class Shortlist:
    """Draw the columns of a training softmax.

    Args:
        counts: (V,) occurrences of each token in the training texts.
        allowed: (V,) bool, tokens that may be targets.
        frequent: number of most frequent tokens that are always in.
        sampled: number of tokens sampled from the rest.
    """

    def __init__(self, counts: Tensor, allowed: Tensor, frequent: int, sampled: int) -> None:
        order = torch.argsort(counts.masked_fill(~allowed, -1), descending=True, stable=True)
        self.always = torch.zeros_like(allowed)
        self.always[order[:frequent]] = True
        self.always &= allowed
        self.allowed = allowed
        self.sampled = sampled

    @classmethod
    def of(cls, part: ObjectivePart, counts: Tensor, banned: Tensor) -> Shortlist | None:
        """The shortlist that a recipe asks for; None for the full vocabulary.

        Args:
            part: shortlist_frequent and shortlist_sampled.
            counts: (V,) occurrences of each token.
            banned: (V,) bool, ids that are never a target.
        """
        if not part.shortlist_frequent:
            return None
        return cls(counts, ~banned.cpu(), part.shortlist_frequent, part.shortlist_sampled)

    def draw(self, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw columns for a batch.

        Args:
            targets: (R,) token ids that must be in, repeats allowed; banned ones among them (the begin token, which is
                shown but never a target) get a correction of -inf.
            generator: of the sample.

        Returns:
            tokens (K,), correction (K,) to add to the logits, and the column of each token that is in, (V,).
        """
        inside = self.always.clone()
        inside[targets] = True
        rest = (self.allowed & ~inside).nonzero().squeeze(1)
        take = min(self.sampled, len(rest))
        if take:
            # With replacement first, then made distinct: cheap, and uniform over the rest.
            picks = torch.randint(len(rest), (take,), generator=generator).unique()
            drawn = rest[picks]
            correction = torch.log(torch.tensor(len(rest) / len(drawn)))
        else:
            drawn, correction = rest[:0], torch.tensor(0.0)
        fixed = inside.nonzero().squeeze(1)
        tokens = torch.cat((fixed, drawn))
        added = torch.zeros(len(tokens))
        added[len(fixed) :] = correction
        added[: len(fixed)].masked_fill_(~self.allowed[fixed], -torch.inf)
        column = torch.zeros(len(self.allowed), dtype=torch.long)
        column[tokens] = torch.arange(len(tokens))
        return tokens, added, column
