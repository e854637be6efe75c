"""Left-to-right drafts from the same weights, with keys and values kept: greedy, sampled, or by beam.

Contents: `draft_left_to_right`.

A pass here feeds one token and costs about 1/n of a pass over the whole text. A hypothesis that has ended stays in its
beam with its score; beams that have ended, and texts whose beams all have, leave the batch.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from unembed.decoding.canvas import Canvas, empty_canvas
from unembed.decoding.causal.beams import Beams, Options
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.coverage import Guide
from unembed.decoding.constraints.rules import Rules, no_text
from unembed.decoding.noise import Noise
from unembed.decoding.proposals import guided, likeliest, sample_tokens
from unembed.decoding.trace import Step, alternatives
from unembed.network.conditioning import Condition
from unembed.network.denoiser import CausalState, Denoiser, ModelConfig
from unembed.network.row_parts import row_parts


def draft_left_to_right(
    denoiser: Denoiser,
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
    texts, beam, max_length = len(vectors), min(config.beam, c.vocab_size), c.max_length
    text = torch.arange(texts, device=device).repeat_interleave(config.samples)
    rows = len(text)
    noise = Noise([(seeds[t], -1, i % config.samples) for i, t in enumerate(text.tolist())], device)
    guide = None if rules is None else Guide(rules, c.vocab_size, c.eos_id, device)
    beams = Beams.start(rows, beam, max_length, c.pad_id, device, min(top, c.vocab_size))
    states = [denoiser.start_causal(condition.select(text))]
    if config.guidance != 1:
        states.append(denoiser.start_causal(denoiser.unconditional().select(torch.zeros_like(text))))
    alive = torch.arange(rows, device=device) * beam
    last = torch.full_like(alive, c.bos_id)
    spent = torch.zeros(texts, dtype=torch.long, device=device)
    history: list[list[Step]] = [[] for _ in range(rows)]
    for position in range(max_length):
        owner = alive // beam
        scored = [denoiser.next_logits(last, state) for state in states]
        logits, states = scored[0][0], [state for _, state in scored]
        if len(scored) > 1:
            logits = guided(logits, scored[1][0], config.guidance)
        spent.index_add_(0, text[owner], torch.full_like(owner, config.cost))
        if position == 0:
            logits[:, c.eos_id] = -torch.inf
        best = None if beams.best is None else likeliest(logits, beams.best[0].shape[-1])
        uniform = noise.uniform(owner.tolist(), 1, torch.float64)[:, 0] if config.temperature > 0 else None
        if guide is None:
            options = _free_options(logits, beam, config.temperature, uniform)
        else:
            hypotheses = beams.tokens.flatten(0, 1)[alive]
            options = _guided_options(guide, logits, hypotheses, text[owner], position, beam, config, uniform)
        parent = beams.advance(alive, options, c.eos_id, position)
        if best is not None:
            beams.remember(alive, parent, position, best)
        if beam == 1:
            yield _grow(beams, owner, position, config, c, history) if traced else []
        else:
            yield [_leading(beams, position, config, c)] if traced and live else []
        alive, states = _survivors(beams, parent, alive, states)
        if not len(alive):
            break
        last = beams.tokens[:, :, position].flatten()[alive]
    empty = ~beams.total.isfinite().any(1)
    if bool(empty.any()):
        raise no_text(int(text[empty][0]))
    canvas = _canvas(denoiser, vectors, beams, text, spent, guide, config)
    if traced and beam == 1:
        canvas.history = history
    elif traced:
        canvas.history = [[] for _ in range(len(canvas))]
        real = beams.total.isfinite()
        kept = None if beams.best is None else (beams.best[0][real], beams.best[1][real])
        for position in range(max_length + 1):
            yield _replay(canvas, position, config, c, kept)
    return canvas


def _free_options(logits: Tensor, beam: int, temperature: float, uniform: Tensor | None) -> Options:
    """The likeliest `beam` tokens, or one sampled token, from logits (A, V), which are overwritten."""
    found = []
    for rows in row_parts(len(logits), logits.shape[1], logits.device):
        part = logits[rows]
        if uniform is not None:
            tokens, log_prob = (one.unsqueeze(1) for one in sample_tokens(part, temperature, uniform[rows]))
        else:
            log_prob, tokens = part.topk(beam, dim=1)
            top = log_prob[:, :1]
            log_prob = log_prob - top - part.sub_(top).exp_().sum(1, keepdim=True).log()
        found.append((tokens, log_prob))
    tokens, log_prob = (torch.cat(part) for part in zip(*found, strict=True))
    return Options(tokens, log_prob, log_prob)


def _guided_options(
    guide: Guide,
    logits: Tensor,
    hypotheses: Tensor,
    text: Tensor,
    position: int,
    beam: int,
    config: DecodeConfig,
    uniform: Tensor | None,
) -> Options:
    """What constraints allow; log-probabilities stay those of the network, so that hypotheses can be compared."""
    log_probs = logits.log_softmax(-1)
    order = guide.steer(log_probs, hypotheses, text, position)
    if uniform is not None:
        tokens = sample_tokens(order.clone(), config.temperature, uniform)[0].unsqueeze(1)
        gain = order.gather(1, tokens)
    else:
        gain, tokens = order.topk(beam, dim=1)
    single = log_probs.gather(1, tokens)
    known = guide.rules.given[text, position] >= 0
    evidence = torch.where(known, single[:, 0], 0.0)
    return Options(tokens, gain, single.masked_fill(known.unsqueeze(1), 0.0), evidence)


def _survivors(
    beams: Beams, parent: Tensor, alive: Tensor, states: list[CausalState]
) -> tuple[Tensor, list[CausalState]]:
    """Flat indices of the hypotheses that go on, and the states reordered to match."""
    rows, beam = parent.shape
    slot = torch.full((rows * beam,), -1, dtype=torch.long, device=parent.device)
    slot[alive] = torch.arange(len(alive), device=parent.device)
    source = (torch.arange(rows, device=parent.device).unsqueeze(1) * beam + parent).flatten()
    going = (~beams.ended).flatten().nonzero().flatten()
    if len(going) == len(alive) and bool((source[going] == alive).all()):
        return going, states
    return going, [state.select(slot[source[going]]) for state in states]


def _step(
    tokens: Tensor,
    log_prob: Tensor,
    length: int,
    position: int,
    number: int,
    denoiser: ModelConfig,
    cost: int,
    best: tuple[Tensor, Tensor] | None = None,
) -> Step:
    """Describe the pass that decided `position` of a hypothesis of `length` tokens so far.

    Where the canvas learns the end, the pass that decides the end fills the rest of the canvas with end tokens.
    """
    n = min(length, position + 1)
    ids, confidences, chosen = tokens[:n].tolist(), log_prob[:n].exp().tolist(), list(range(position, n))
    if denoiser.canvas == "eos" and (n <= position or n == denoiser.max_length):
        rest = denoiser.canvas_length - n
        ids, confidences = ids + [denoiser.eos_id] * rest, confidences + [1.0] * rest
        chosen += range(n, denoiser.canvas_length)
    likely: tuple[tuple[tuple[int, float], ...], ...] = ()
    if best is not None:
        likely = alternatives(*(part[:n].masked_fill(_before(position, part[:n]), 0) for part in best))
        likely += ((),) * (len(ids) - n)
    return Step(
        draft=number,
        index=position,
        ids=tuple(ids),
        masked=(False,) * len(ids),
        confidences=tuple(confidences),
        chosen=tuple(chosen),
        remasked=(),
        pass_count=(position + 1) * cost,
        alternatives=likely,
    )


def _before(position: int, rows: Tensor) -> Tensor:
    """(n, 1) bool: which positions of rows (n, T) were decided before."""
    return (torch.arange(len(rows), device=rows.device) < position).unsqueeze(1)


def _grow(
    beams: Beams,
    rows: Tensor,
    position: int,
    config: DecodeConfig,
    denoiser: ModelConfig,
    history: list[list[Step]],
) -> list[Step]:
    """Steps of the pass just made over single hypotheses `rows` (A,)."""
    out = []
    for row in rows.tolist():
        tokens, log_prob, n = beams.tokens[row, 0], beams.log_prob[row, 0], int(beams.length[row, 0])
        best = None if beams.best is None else (beams.best[0][row, 0], beams.best[1][row, 0])
        step = _step(tokens, log_prob, n, position, row % config.samples, denoiser, config.cost, best)
        history[row].append(step)
        out.append(step)
    return out


def _leading(beams: Beams, position: int, config: DecodeConfig, denoiser: ModelConfig) -> Step:
    """The best hypothesis of the first text so far."""
    n, best = int(beams.length[0, 0]), None
    if beams.best is not None:
        best = beams.best[0][0, 0], beams.best[1][0, 0]
    step = _step(beams.tokens[0, 0], beams.log_prob[0, 0], n, position, 0, denoiser, config.cost, best)
    return replace(step, preview=True)


def _replay(
    canvas: Canvas,
    position: int,
    config: DecodeConfig,
    denoiser: ModelConfig,
    kept: tuple[Tensor, Tensor] | None = None,
) -> list[Step]:
    """Steps of the finished hypotheses as if each had been the only one."""
    out = []
    written = (canvas.written() & (canvas.ids != canvas.end_id)).sum(1).tolist()
    for i, n in enumerate(written):
        if position * config.cost >= int(canvas.passes[i]):
            continue
        best = None if kept is None else (kept[0][i], kept[1][i])
        number = int(canvas.number[i])
        step = _step(canvas.ids[i], canvas.log_prob[i], n, position, number, denoiser, config.cost, best)
        canvas.history[i].append(step)
        out.append(step)
    return out


def _canvas(
    denoiser: Denoiser,
    vectors: Tensor,
    beams: Beams,
    text: Tensor,
    spent: Tensor,
    guide: Guide | None,
    config: DecodeConfig,
) -> Canvas:
    """Lay the hypotheses out as finished drafts, empty slots left out."""
    c, device = denoiser.config, vectors.device
    row, slot = beams.total.isfinite().nonzero(as_tuple=True)
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
    canvas.passes = (n + (n < c.max_length).long()) * config.cost
    canvas.spent = spent
    return canvas
