"""Many different drafts of the same vectors: how they are decoded so that they differ, and in which order.

Contents: `plan`, `gather`.

One decode gives few drafts, so more come from others: samples of the left-to-right half, each of which chooses its own
length; or, where the network has none, one draft for each likely length and then samples of each. All rounds are of one
size whatever number is wanted, so the first k drafts are the same for every number above k, and one run with many
queries holds the runs with fewer.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import replace

from unembed.decoding.config import DecodeConfig
from unembed.decoding.request import Request
from unembed.decoding.trace import Draft
from unembed.network.base import Network

LENGTHS = 7  # likely lengths, each with drafts of its own
SAMPLES = 8  # of a round, over all lengths or for each
TEMPERATURES = (0.5, 0.7)  # of the rounds of samples in turn, where the caller names none


def plan(config: DecodeConfig, denoiser: Network) -> Iterator[DecodeConfig]:
    """Yield decodes whose drafts differ, most useful first, without end.

    Args:
        config: what the caller asked for; the first decode.
        denoiser: the network; which decodes are possible depends on it.
    """
    yield config
    chosen = denoiser.config.canvas == "length"  # the length is chosen before the words
    if denoiser.config.causal:
        base = DecodeConfig("left-to-right", samples=SAMPLES, temperature=1.0)
    else:
        if chosen:
            yield DecodeConfig("adaptive", lengths=LENGTHS, guidance=config.guidance, seed=config.seed)
        lengths, samples = (LENGTHS, 2) if chosen else (1, SAMPLES)
        base = DecodeConfig("adaptive", lengths=lengths, samples=samples, temperature=1.0, guidance=config.guidance)
    for number in itertools.count():
        temperature = config.temperature or TEMPERATURES[number % len(TEMPERATURES)]
        yield replace(base, temperature=temperature, seed=config.seed + number)


def gather(request: Request, count: int) -> Generator[object, None, tuple[list[list[Draft]], list[int]]]:
    """Decode different drafts of each of T vectors.

    Args:
        request: the T vectors, the first decode, whose drafts come first, best first, and constraints, which every
            draft keeps.
        count: drafts that are wanted of a text; it may get fewer where samples repeat themselves.

    Yields:
        After each read of the network.

    Returns:
        The drafts of each text, without alternatives, and the passes that were spent on it.
    """
    found: list[dict[tuple[int, ...], Draft]] = [{} for _ in range(len(request.rows))]
    spent = [0] * len(request.rows)
    rounds = 2 + 3 * -(-count // SAMPLES)
    for part in itertools.islice(plan(request.config, request.denoiser), rounds):
        rows = [i for i, known in enumerate(found) if len(known) < count]
        if not rows:
            break
        if request.rules is not None:  # they belong to all rows
            rows = list(range(len(request.rows)))
        drafts = yield from replace(request, rows=request.rows[rows], config=part).passes()
        for i, draft in zip(rows, drafts, strict=True):
            spent[i] += draft.spent
            for one in (draft, *draft.alternatives):
                if one.ids:
                    found[i].setdefault(one.ids, replace(one, alternatives=()))
    return [list(known.values())[:count] for known in found], spent
