"""The one left-to-right writer: hypotheses grow token by token, with keys and values kept.

Contents: `write`, `write_texts`, and ways to choose: `likeliest_options`, `sampled_options`, `Bag`.

A pass here feeds one token and costs about 1/n of a pass over the whole text. What the writer does is said by how it
chooses: the likeliest tokens make a beam (or a greedy text, with a beam of 1), one sampled token a sample, and a bag of
tokens their orderings. A condition with a draft (`network/draft_memory.py`) makes it a corrector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from unembed.decoding.causal.beams import BeamOptions, Beams, Texts
from unembed.decoding.proposals import sample_tokens
from unembed.network.base import Network
from unembed.network.conditioning import Condition
from unembed.network.denoiser import autocast
from unembed.network.heads import row_parts

Chooser = Callable[[Tensor, Beams, Tensor, int], BeamOptions]
"""Logits (A, V), which it may overwrite, beams, live hypotheses (A,) and the position -> how they may continue."""


def write(
    denoiser: Network,
    condition: Condition,
    beams: Beams,
    choose: Chooser,
    make_room: bool = False,
    empty: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Write until every hypothesis has ended or reached the limit; beams that have ended leave the batch.

    Args:
        denoiser: with causal rows.
        condition: of the R rows of the beams.
        beams: new; filled in place.
        choose: how hypotheses continue.
        make_room: hypotheses that end make room for others. Otherwise they stay in their beam with their score.
        empty: the end counts among the first tokens; otherwise it has no probability there.

    Yields:
        The position that was written, and the flat indices (A,) of the hypotheses that were extended.

    Raises:
        InputError: the denoiser has no causal rows.
    """
    c = denoiser.config
    rows, beam = beams.total.shape
    state = denoiser.start_causal(condition)
    alive = torch.arange(rows, device=beams.total.device) * beam  # (A,) flat slots, in the order of the state's rows
    last = torch.full_like(alive, c.bos_id)
    for position in range(c.max_length):
        logits, state = denoiser.next_logits(last, state)  # (A, V)
        beams.passes += torch.bincount(alive // beam, minlength=rows)
        if position == 0 and not empty:
            logits[:, c.eos_id] = -torch.inf
        parent = beams.advance(alive, choose(logits, beams, alive, position), c.eos_id, position)
        if make_room:
            beams.make_room()
        yield position, alive
        place = torch.full((rows * beam,), -1, device=alive.device)  # slot -> row of the state
        place[alive] = torch.arange(len(alive), device=alive.device)
        going = (~beams.ended).flatten().nonzero().flatten()
        if not len(going):
            return
        if len(going) != len(alive) or not bool((parent[going] == alive).all()):
            state = state.select(place[parent[going]])
        alive, last = going, beams.tokens[:, :, position].flatten()[going]


def write_texts(
    denoiser: Network,
    condition: Condition,
    beam: int,
    choose: Chooser,
    make_room: bool = False,
    empty: bool = False,
) -> Generator[None, None, tuple[Texts, list[int]]]:
    """Write, and return nothing but texts.

    Args:
        denoiser, condition, choose, make_room, empty: as `write`.
        beam: hypotheses kept of each row.

    Yields:
        After each read of the network.

    Returns:
        For each row at most `beam` pairs (ids, log-probability with the end), likeliest first, and its passes.
    """
    c = denoiser.config
    with torch.inference_mode():
        beams = Beams.start(len(condition), beam, c.max_length, c.pad_id, denoiser.banned.device)
    steps = write(denoiser, condition, beams, choose, make_room, empty)
    while True:
        with torch.inference_mode(), autocast(denoiser):
            if next(steps, None) is None:
                return beams.texts(), beams.passes.tolist()
        yield


def likeliest_options(logits: Tensor, beams: Beams, alive: Tensor, position: int) -> BeamOptions:
    """The K likeliest tokens, K the width of the beam; a `Chooser`."""
    count, found = min(beams.total.shape[1], logits.shape[1]), []
    for rows in row_parts(len(logits), logits.shape[1], logits.device):
        part = logits[rows]
        log_prob, tokens = part.topk(count, dim=1)  # (r, V) -> (r, K)
        top = log_prob[:, :1]
        found.append((tokens, log_prob - top - part.sub_(top).exp_().sum(1, keepdim=True).log()))
    tokens, log_prob = (torch.cat(part) for part in zip(*found, strict=True))
    return BeamOptions(tokens, log_prob, log_prob)


def sampled_options(logits: Tensor, temperature: float, uniform: Tensor) -> BeamOptions:
    """One token per row, sampled from logits (A, V), which are overwritten, with random numbers (A,)."""
    found = []
    for rows in row_parts(len(logits), logits.shape[1], logits.device):
        found.append(sample_tokens(logits[rows], temperature, uniform[rows]))
    tokens, log_prob = (torch.cat(part).unsqueeze(1) for part in zip(*found, strict=True))  # (A, 1)
    return BeamOptions(tokens, log_prob, log_prob)


class Bag:
    """Chooses among the tokens of a draft that are still unused, so that each text is an ordering of them.

    Args:
        drafts: one for each row, of at least one token.
        eos: id of the end token.
        device: of the logits.
    """

    def __init__(self, drafts: Sequence[tuple[int, ...]], eos: int, device: torch.device) -> None:
        bags = [Counter(draft) for draft in drafts]
        width = max(len(bag) for bag in bags)
        padded = [[*bag, *[0] * (width - len(bag))] for bag in bags]
        stock = [[*bag.values(), *[0] * (width - len(bag))] for bag in bags]
        self.words = torch.tensor(padded, device=device)  # (R, U) the different tokens of each draft
        self.stock = torch.tensor(stock, device=device)  # (R, U) how often each is there
        self.eos = eos

    def __call__(self, logits: Tensor, beams: Beams, alive: Tensor, position: int) -> BeamOptions:
        """Score the tokens that are left, or the end where none is; a `Chooser`."""
        row = alive // beams.total.shape[1]
        words, written = self.words[row], beams.tokens.flatten(0, 1)[alive, :position]
        used = (written.unsqueeze(1) == words.unsqueeze(2)).sum(2)  # (A, U, t) -> (A, U)
        left = (self.stock[row] - used).clamp_min(0)
        log_probs = logits.log_softmax(-1)
        gain = log_probs.gather(1, words).masked_fill(left == 0, -torch.inf)
        done = left.sum(1) == 0
        words = words.masked_fill(done.unsqueeze(1), self.eos)
        gain[:, 0] = torch.where(done, log_probs[:, self.eos], gain[:, 0])
        return BeamOptions(words, gain, gain)
