"""The one decode loop, and the ways into it: `decode` for drafts, `stream` and `passes` for their steps as they happen.

Contents: `run`, `finish`, `decode`, `stream`, `passes`.

A pass is: reopen (re-masking rule), ask the denoiser for all masked positions, commit (selection rule), let finished
drafts leave (stop rule). The last pass commits everything, so every strategy ends without a mask for any number of
passes; constraints may hold tokens back that cannot be committed together, for another pass. Texts, lengths and
samples are one flat batch of drafts; the condition is computed once for each text.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from unembed.decoding.canvas import Canvas, check_backbone, check_lengths, one_form, open_canvases
from unembed.decoding.causal.drafting import draft_left_to_right
from unembed.decoding.choosing import Judge, choose
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.enforcing import Enforcer
from unembed.decoding.constraints.rules import Rules
from unembed.decoding.prior import PriorReader, prior_drafts
from unembed.decoding.proposals import Noise, Proposer, vector_seeds
from unembed.decoding.strategies.selection import View
from unembed.decoding.strategies.table import Strategy, get_strategy
from unembed.decoding.trace import Draft, Step
from unembed.diffusion.schedule import get_schedule
from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.denoiser import autocast

T = TypeVar("T")


def run(
    proposer: Proposer, canvas: Canvas, strategy: Strategy, config: DecodeConfig, traced: bool = False
) -> Iterator[list[Step]]:
    """Fill a canvas in place, one pass at a time.

    Args:
        proposer: runs the denoiser.
        canvas: the drafts.
        strategy: the rules.
        config: the options.
        traced: describe each pass.

    Yields:
        After each pass the steps of the drafts that took part, or nothing unless `traced`.
    """
    schedule = get_schedule(config.schedule)
    n = canvas.ids.shape[1]
    active = canvas.free.any(1).nonzero().flatten()  # (A,) drafts that still take part
    fresh = torch.zeros_like(canvas.masked)
    zeros = torch.zeros(1, 1, device=canvas.ids.device)
    enforcer, placing = proposer.enforcer, (config.passes + 1) // 2
    for step in itertools.count():
        if step >= config.passes:
            active = canvas.masked.any(1).nonzero().flatten()
        if not len(active):
            return
        last = step >= config.passes - 1
        uniform = zeros.expand(len(active), n), zeros.expand(len(active), n)
        if strategy.random:
            numbers = proposer.noise.uniform(active.tolist(), 2 * n)
            uniform = numbers[:, :n], numbers[:, n:]
        view = View(
            step=min(step, config.passes - 1),
            passes=config.passes,
            masked=canvas.masked[active],
            free=canvas.free[active],
            fresh=fresh[active],
            confidence=canvas.log_prob[active].exp(),
            entropy=zeros.expand(len(active), n),
            uniform=uniform[0],
            schedule=schedule,
            config=config,
        )
        reopened = strategy.remask(view) & view.free & ~view.masked & (step < config.passes)  # (A, n)
        canvas.reopen(active, reopened)
        here = canvas.masked[active].any(1).nonzero().flatten()  # rows of `active` with something to predict
        fresh[active] = False
        if len(here):
            drafts = active[here]
            needed = enforcer.needed(canvas, drafts) if enforcer is not None else None
            proposals = proposer.propose(canvas, drafts, strategy.entropy, needed)
            tokens, log_prob = proposals.tokens, proposals.log_prob
            masked = canvas.masked[drafts]
            kept = canvas.log_prob[drafts]
            seen = replace(
                view,
                masked=masked,
                free=view.free[here],
                fresh=view.fresh[here],
                confidence=torch.where(masked, proposals.log_prob, kept).exp(),
                entropy=proposals.entropy,
                uniform=uniform[1][here],
            )
            chosen = masked if last else strategy.select(seen) & masked
            if enforcer is not None:
                left = 0 if last else max(placing - step, 1)
                parts = (chosen, tokens, log_prob, proposals.words, needed)
                chosen, tokens, log_prob = enforcer.settle(canvas, drafts, *parts, left)
            fresh[drafts] = canvas.commit(drafts, chosen, tokens, log_prob)
            yield canvas.record(drafts, fresh[drafts], reopened[here], proposals.best) if traced else []
        masked = canvas.masked[active]  # (A, n); a draft with a mask left stays, whatever the rule says
        active = active[~strategy.stop(replace(view, masked=masked)) | masked.any(1)]


def _decode(
    denoiser: Network,
    vectors: Tensor,
    config: DecodeConfig,
    rules: Rules | None,
    known_lengths: Tensor | None,
    traced: bool,
    top: int,
    live: bool,
    judge: Judge | None,
) -> Generator[list[Step], None, list[Draft]]:
    """Draft left to right or open masked canvases, run the strategy over them, choose; all tensors on one device."""
    strategy, device = get_strategy(config.strategy), vectors.device
    condition = denoiser.condition(vectors)
    seeds = vector_seeds(vectors, config.seed)
    if strategy.causal_draft:
        canvas = yield from draft_left_to_right(denoiser, vectors, condition, config, seeds, rules, traced, top, live)
        keys = [(0, number) for number in canvas.number.tolist()]
    else:
        canvas, keys = open_canvases(denoiser, vectors, config, rules, known_lengths)
    noise = Noise([(seeds[t], *key) for t, key in zip(canvas.text.tolist(), keys, strict=True)], device)
    enforcer = None if rules is None else Enforcer(rules, denoiser.config.vocab_size, device)
    proposer = Proposer(denoiser, condition, config, noise, enforcer, top)
    if config.strategy == "draft-correct":
        every = torch.arange(len(canvas), device=device)
        canvas.log_prob = torch.where(canvas.unknown, proposer.pseudo_likelihood(canvas, every), canvas.log_prob)
        canvas.end_log_prob = torch.zeros_like(canvas.end_log_prob)
    yield from run(proposer, canvas, strategy, config, traced)
    return choose(canvas, config, vectors, judge)


def _read(
    denoiser: Network,
    vectors: Tensor,
    rules: Rules | None,
    known_lengths: Tensor | None,
    traced: bool,
    priors: PriorReader | None,
) -> list[Draft]:
    """The drafts of the strategy prior."""
    if rules is not None and not rules.of_tokens_alone:
        raise InputError(
            "The strategy prior keeps given tokens, a prefix and a range of lengths, but no other constraints.",
            "Use another strategy for known, required and banned words, such as adaptive.",
        )
    reader = priors or PriorReader.of(denoiser)
    if rules is None:
        return prior_drafts(reader, vectors, lengths=known_lengths, traced=traced)
    drafts = prior_drafts(reader, vectors, rules.given, known_lengths, traced, rules.lengths())
    known = (rules.given >= 0).tolist()
    return [
        replace(draft, given=tuple(row[: draft.length]), forced=(False,) * draft.length)
        for draft, row in zip(drafts, known, strict=True)
    ]


def passes(
    denoiser: Network,
    vectors: Tensor,
    config: DecodeConfig,
    *,
    given: Tensor | None = None,
    rules: Rules | None = None,
    known_lengths: Tensor | None = None,
    priors: PriorReader | None = None,
    trace: bool = False,
    top: int = 0,
    live: bool = False,
    judge: Judge | None = None,
) -> Generator[list[Step], None, list[Draft]]:
    """Decode like `decode`, and give the caller control back after each pass, so that decodes can take turns.

    Args:
        denoiser, vectors, config, given, rules, known_lengths, priors, trace, judge: as `decode`.
        top: with `trace`, how many of the likeliest tokens of each predicted position `Step.alternatives` keeps.
        live: with `trace`, yield `Step.preview` of the first text while a beam grows.

    Yields:
        The steps of the pass, nothing unless `trace`.

    Returns:
        The drafts.

    Raises:
        InputError: as `decode`.
    """
    dimension, device = denoiser.config.vector_dim, denoiser.banned.device
    if vectors.dim() != 2 or vectors.shape[1] != dimension:
        raise InputError(
            f"Vectors of shape {tuple(vectors.shape)} do not fit a denoiser for {dimension} dimensions.",
            f"Pass a tensor of shape (number of vectors, {dimension}).",
        )
    if not len(vectors):
        return []
    network = get_strategy(config.strategy).network
    rules = one_form(denoiser, len(vectors), given, rules)
    if network:
        check_backbone(denoiser, config)
    vectors, rules = vectors.to(device, torch.float32), None if rules is None else rules.to(device)
    if known_lengths is not None:
        known_lengths = known_lengths.to(device)
        check_lengths(denoiser, known_lengths, rules)
    if not network:
        with torch.inference_mode():
            drafts = _read(denoiser, vectors, rules, known_lengths, trace, priors)
        yield [step for draft in drafts if draft.trace for step in draft.trace.steps]
        return drafts
    training = denoiser.training
    denoiser.eval()
    steps = _decode(denoiser, vectors, config, rules, known_lengths, trace, top if trace else 0, live, judge)
    try:
        while True:
            with torch.inference_mode(), autocast(denoiser):
                try:
                    found = next(steps)
                except StopIteration as stop:
                    return list(stop.value)
            yield found
    finally:
        denoiser.train(training)


def finish(steps: Generator[object, None, T]) -> T:
    """Take steps to their end and return their value."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value


def decode(
    denoiser: Network,
    vectors: Tensor,
    config: DecodeConfig | None = None,
    generator: torch.Generator | None = None,
    *,
    given: Tensor | None = None,
    rules: Rules | None = None,
    known_lengths: Tensor | None = None,
    trace: bool = False,
    priors: PriorReader | None = None,
    judge: Judge | None = None,
) -> list[Draft]:
    """Decode vectors to drafts.

    Args:
        denoiser: the network; put into evaluation mode for the decode.
        vectors: (B, d) raw encoder vectors; all B are decoded in one batch.
        config: strategy and options.
        generator: draws the seed instead of `config.seed`.
        given: (B, up to max_length) int64 known token ids, -1 where unknown; they are never changed.
        rules: constraints (`Constraints.compile`), instead of `given`.
        known_lengths: (B,) int64 true lengths, where they are known; canvas "length" only; causal strategies
            decide the end themselves and do not use them.
        trace: keep every draft's steps.
        priors: what the strategy prior reads; made of the denoiser where None.
        judge: the student that choose "student" asks; without one the likelihood alone decides.

    Returns:
        The chosen draft of each vector, with its alternatives.

    Raises:
        InputError: a wrong shape, a given token that is not allowed, constraints that no text meets, or a causal
            strategy without causal rows.
    """
    config = config or DecodeConfig()
    if generator is not None:
        drawn = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        config = replace(config, seed=int(drawn))
    steps = passes(
        denoiser,
        vectors,
        config,
        given=given,
        rules=rules,
        known_lengths=known_lengths,
        priors=priors,
        trace=trace,
        judge=judge,
    )
    return finish(steps)


def stream(
    denoiser: Network,
    vector: Tensor,
    config: DecodeConfig | None = None,
    *,
    given: Tensor | None = None,
    rules: Rules | None = None,
    priors: PriorReader | None = None,
    judge: Judge | None = None,
) -> Iterator[Step]:
    """Decode one vector (d,) and yield the steps of all its drafts as they happen.

    Yields:
        Steps, one for the strategy prior; `Step.draft` tells the drafts apart. The last has `final` set and holds
            the chosen draft: its tokens without the end, nothing masked, chosen or re-masked.

    Raises:
        InputError: as `decode`.
    """
    config = config or DecodeConfig()
    given = None if given is None else given.view(1, -1)
    steps = passes(
        denoiser, vector.view(1, -1), config, given=given, rules=rules, priors=priors, judge=judge, trace=True
    )
    while True:
        try:
            yield from next(steps)
        except StopIteration as stop:
            yield _final(stop.value[0])
            return


def _final(draft: Draft) -> Step:
    last = draft.trace.steps[-1] if draft.trace else None
    return Step(
        draft=last.draft if last else 0,
        index=last.index + 1 if last else 0,
        ids=draft.ids,
        masked=(False,) * draft.length,
        confidences=draft.token_confidence,
        chosen=(),
        remasked=(),
        pass_count=draft.passes,
        final=True,
    )
