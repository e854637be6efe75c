"""What is refused before a decode begins. Contents: `check_guidance`, `check_backbone`, `one_form`."""

from __future__ import annotations

from torch import Tensor

from unembed.decoding.canvas import check_given
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.rules import Rules
from unembed.errors import InputError
from unembed.network.base import Network


def check_guidance(denoiser: Network, config: DecodeConfig) -> None:
    """Refuse guidance by a network that has not learnt what it writes when it is told nothing.

    Raises:
        InputError: no null vector.
    """
    if config.guidance != 1 and not denoiser.config.null_vector:
        raise InputError(
            f"guidance is {config.guidance:g}, and this checkpoint was trained without a null vector to go away from.",
            "Leave guidance out, or train with objective.vector_drop above 0, such as 0.1.",
        )


def check_backbone(denoiser: Network, config: DecodeConfig) -> None:
    """Refuse what only another network can do."""
    check_guidance(denoiser, config)
    if denoiser.config.fills_masks:
        return
    if config.strategy != "left-to-right":
        raise InputError(
            f"This checkpoint is autoregressive, so it cannot decode by {config.strategy}.",
            "Use the strategy left-to-right, greedy or with a beam.",
        )


def one_form(denoiser: Network, texts: int, given: Tensor | None, rules: Rules | None) -> Rules | None:
    """Check the constraints of a call and bring them into one form."""
    c = denoiser.config
    if rules is not None:
        if given is not None or len(rules) != texts or rules.given.shape[1] != c.max_length:
            raise InputError(
                f"Rules for {len(rules)} texts of {rules.given.shape[1]} tokens do not fit {texts} vectors.",
                f"Pass rules of one text a vector and {c.max_length} tokens, without given tokens beside them.",
            )
        return rules
    if given is None:
        return None
    check_given(denoiser, given, texts)
    return Rules.of_given(given, c.max_length, c.vocab_size)
