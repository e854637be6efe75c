"""Left-to-right drafts for the decode loop: greedy, sampled, or by beam, held to constraints, with their steps.

Contents: `draft_left_to_right`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from unembed.decoding.canvas import Canvas, empty_canvas
from unembed.decoding.causal.beams import BeamOptions, Beams
from unembed.decoding.causal.writer import likeliest_options, sampled_options, write
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.coverage import Guide
from unembed.decoding.constraints.rules import Rules, no_text
from unembed.decoding.proposals import Noise, likeliest, sample_tokens
from unembed.decoding.trace import Step, alternatives
from unembed.network.base import Network
from unembed.network.conditioning import Condition
from unembed.network.config import ModelConfig


def draft_left_to_right(
    denoiser: Network,
    vectors: Tensor,
    condition: Condition,
    config: DecodeConfig,
    seeds: list[bytes],
    rules: Rules | None,
    traced: bool,
    top: int = 0,
    live: bool = False,
) -> Generator[list[Step], None, Canvas]:
    """Draft token by token until the end token or the limit.

    Args:
        denoiser: with causal rows.
        vectors: (B, d) raw, for the length head.
        condition: of the B vectors.
        config: samples, temperature, beam.
        seeds: digests of the vectors.
        rules: constraints of the B texts, or None.
        traced: record steps.
        top: how many of the likeliest tokens of each position the steps keep.
        live: with a beam of more than 1, yield the leading hypothesis of the first text after each token.

    Yields:
        The steps of each pass where `traced` (with a beam of more than 1, at the end), else nothing.

    Returns:
        A canvas without masks: samples (or beam) drafts for each text.

    Raises:
        InputError: the denoiser has no causal rows, or no text that meets the constraints was found.
    """
    c, device = denoiser.config, vectors.device
    texts, beam, top = len(vectors), min(config.beam, c.vocab_size), min(top, c.vocab_size)
    text = torch.arange(texts, device=device).repeat_interleave(config.samples)  # (R,) the text of each row
    noise = Noise([(seeds[t], -1, i % config.samples) for i, t in enumerate(text.tolist())], device)
    guide = None if rules is None else Guide(rules, c.vocab_size, c.eos_id, device)

    def choose(logits: Tensor, beams: Beams, alive: Tensor, position: int) -> BeamOptions:
        best = likeliest(logits, top) if top else None
        uniform = None
        if config.temperature > 0:  # a beam of 1: a hypothesis is a row
            uniform = noise.uniform(alive.tolist(), 1, torch.float64)[:, 0]
        if guide is not None:
            hypotheses, owner = beams.tokens.flatten(0, 1)[alive], text[alive // beam]
            options = _guided_options(guide, logits, hypotheses, owner, position, beam, config.temperature, uniform)
        elif uniform is not None:
            options = sampled_options(logits, config.temperature, uniform)
        else:
            options = likeliest_options(logits, beams, alive, position)
        return options._replace(best=best)

    beams = Beams.start(len(text), beam, c.max_length, c.pad_id, device, top)
    history: list[list[Step]] = [[] for _ in range(len(text))]
    for position, rows in write(denoiser, condition.select(text), beams, choose):
        if traced and beam == 1:
            grown = [(row, _step(beams, row, 0, position, row % config.samples, c)) for row in rows.tolist()]
            for row, step in grown:
                history[row].append(step)
            yield [step for _, step in grown]
        else:
            yield [replace(_step(beams, 0, 0, position, 0, c), preview=True)] if traced and live else []
    real = beams.total.isfinite()
    empty = ~real.any(1)
    if bool(empty.any()):
        raise no_text(int(text[empty][0]))
    canvas = _canvas(denoiser, vectors, beams, text, guide)
    if traced and beam == 1:
        canvas.history = history
    elif traced:  # the steps of the finished hypotheses, as if each had been the only one
        slots = list(zip(real.nonzero().tolist(), canvas.number.tolist(), canvas.passes.tolist(), strict=True))
        for position in range(c.max_length + 1):
            steps = []
            for i, ((row, slot), number, passes) in enumerate(slots):
                if position < passes:
                    steps.append(_step(beams, row, slot, position, number, c))
                    canvas.history[i].append(steps[-1])
            yield steps
    return canvas


def _guided_options(
    guide: Guide,
    logits: Tensor,
    hypotheses: Tensor,
    text: Tensor,
    position: int,
    beam: int,
    temperature: float,
    uniform: Tensor | None,
) -> BeamOptions:
    """What constraints allow; log-probabilities stay those of the network, so that hypotheses can be compared."""
    log_probs = logits.log_softmax(-1)
    order = guide.steer(log_probs, hypotheses, text, position)  # (A, V) with bonuses, -inf where forbidden
    if uniform is not None:
        tokens = sample_tokens(order.clone(), temperature, uniform)[0].unsqueeze(1)
        gain = order.gather(1, tokens)
    else:
        gain, tokens = order.topk(beam, dim=1)
    single = log_probs.gather(1, tokens)
    known = guide.rules.given[text, position] >= 0
    evidence = torch.where(known, single[:, 0], 0.0)
    return BeamOptions(tokens, gain, single.masked_fill(known.unsqueeze(1), 0.0), evidence)


def _step(beams: Beams, row: int, slot: int, position: int, number: int, denoiser: ModelConfig) -> Step:
    """Describe the pass that decided `position` of a hypothesis.

    Where the canvas learns the end, the pass that decides the end fills the rest of the canvas with end tokens.
    """
    n = min(int(beams.length[row, slot]), position + 1)
    ids, confidences = beams.tokens[row, slot, :n].tolist(), beams.log_prob[row, slot, :n].exp().tolist()
    chosen = list(range(position, n))
    if denoiser.canvas == "eos" and (n <= position or n == denoiser.max_length):
        rest = denoiser.canvas_length - n
        ids, confidences = ids + [denoiser.eos_id] * rest, confidences + [1.0] * rest
        chosen += range(n, denoiser.canvas_length)
    likely: tuple[tuple[tuple[int, float], ...], ...] = ()
    if beams.best is not None:
        before = min(position, n)  # positions that were decided by earlier passes
        here = alternatives(*(part[row, slot, before:n] for part in beams.best))
        likely = ((),) * before + here + ((),) * (len(ids) - n)
    return Step(
        draft=number,
        index=position,
        ids=tuple(ids),
        masked=(False,) * len(ids),
        confidences=tuple(confidences),
        chosen=tuple(chosen),
        remasked=(),
        pass_count=position + 1,
        alternatives=likely,
    )


def _canvas(denoiser: Network, vectors: Tensor, beams: Beams, text: Tensor, guide: Guide | None) -> Canvas:
    """Lay the hypotheses out as finished drafts, empty slots left out."""
    c, device = denoiser.config, vectors.device
    row, slot = beams.total.isfinite().nonzero(as_tuple=True)  # (D,) each
    owner, n = text[row], beams.length[row, slot]
    first = torch.searchsorted(owner, owner)  # owner ascends: the first draft of the same text
    number = torch.arange(len(owner), device=device) - first
    eos = c.canvas == "eos"
    lengths = torch.full_like(n, c.canvas_length) if eos else n
    prior = torch.zeros(len(owner), device=device)
    if not eos:
        prior = denoiser.length_log_probs(vectors)[owner, n - 1]
    canvas = empty_canvas(denoiser, lengths, owner, number, prior, len(vectors), None if guide is None else guide.rules)
    position = torch.arange(c.max_length, device=device)
    mine = position < n.unsqueeze(1)
    canvas.ids[:, : c.max_length] = torch.where(mine, beams.tokens[row, slot], c.eos_id if eos else c.pad_id)
    if eos:
        canvas.ids[:, c.max_length] = c.eos_id
    canvas.log_prob[:, : c.max_length] = torch.where(mine, beams.log_prob[row, slot], 0.0)
    canvas.masked = torch.zeros_like(canvas.masked)
    canvas.end_log_prob = beams.end[row, slot] + beams.evidence[row, slot]
    if guide is not None:
        for i, t in enumerate(owner.tolist()):
            for start, end in guide.scan(t, canvas.ids[i, : int(n[i])].tolist()).places:
                canvas.forced[i, start:end] = True
                canvas.closed[i, end : end + 1] = True
        canvas.missing = [()] * len(canvas)
    canvas.passes = n + (n < c.max_length).long()
    canvas.spent = canvas.spent.index_add(0, text, beams.passes)
    return canvas
