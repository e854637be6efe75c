"""The drafts in the making: what is committed, what is masked, what is given, and what it cost.

Contents: `Canvas`, `empty_canvas`, `open_canvases`, `check_given`, `check_lengths`, `check_guidance`, `check_backbone`,
`one_form`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.rules import Rules, Word
from unembed.decoding.trace import Step, alternatives
from unembed.errors import InputError
from unembed.network.base import Network


@dataclass
class Canvas:
    """D drafts of B texts over n positions. Mutable: the loop commits and reopens in place.

    Attributes:
        ids: (D, n) int64 token ids, `mask_id` where masked.
        masked: (D, n) bool.
        given: (D, n) bool, tokens known to be true; never changed.
        inside: (D, n) bool, positions that belong to the draft.
        log_prob: (D, n) float32 log-probability of each token when it was committed; 0 elsewhere.
        lengths: (D,) positions that belong to each draft.
        text: (D,) index of the draft's text.
        number: (D,) number of the draft among those of its text.
        prior: (D,) log p(n | vector).
        end_log_prob: (D,) log-probability of the end, for left-to-right drafts.
        passes: (D,) passes of each draft.
        spent: (B,) passes of each text.
        history: for each draft its recorded steps.
        end_id: id of the end token where the canvas learns the end, else -1.
        mask_id: id that is at masked positions.
        forced: (D, n) bool, positions of required words; they are not reopened.
        closed: (D, n) bool, where no token that continues a word is allowed.
        missing: for each draft the required words that have no place yet.
        rules: constraints of the B texts, or None.
    """

    ids: Tensor
    masked: Tensor
    given: Tensor
    inside: Tensor
    log_prob: Tensor
    lengths: Tensor
    text: Tensor
    number: Tensor
    prior: Tensor
    end_log_prob: Tensor
    passes: Tensor
    spent: Tensor
    history: list[list[Step]]
    end_id: int
    mask_id: int
    forced: Tensor
    closed: Tensor
    missing: list[tuple[Word, ...]] = field(default_factory=list)
    rules: Rules | None = None

    def __len__(self) -> int:
        """Return the number of drafts D."""
        return len(self.ids)

    @property
    def unknown(self) -> Tensor:
        """(D, n) bool: positions whose tokens were not known beforehand; their log-probabilities are the score."""
        return self.inside & ~self.given

    @property
    def free(self) -> Tensor:
        """(D, n) bool: positions that decoding fills and may reopen."""
        return self.inside & ~self.given & ~self.forced

    def reopen(self, index: Tensor, which: Tensor) -> None:
        """Mask the positions `which` (A, n) of the drafts `index` (A,) again."""
        self.ids[index] = self.ids[index].masked_fill(which, self.mask_id)
        self.log_prob[index] = self.log_prob[index].masked_fill(which, 0.0)
        self.masked[index] |= which

    def commit(self, index: Tensor, which: Tensor, tokens: Tensor, log_prob: Tensor) -> Tensor:
        """Write tokens (A, n) at the positions `which` (A, n) of the drafts `index` (A,).

        Where the canvas learns the end, everything after the first end token becomes end tokens too, at no cost.

        Returns:
            (A, n) bool, all positions that changed.
        """
        ids = torch.where(which, tokens, self.ids[index])
        kept = torch.where(which, log_prob, self.log_prob[index])
        masked = self.masked[index] & ~which
        if self.end_id >= 0:
            ended = (ids == self.end_id) & ~masked
            # A running count of end tokens, less the own one, is above 0 after the first of them.
            after = (ended.long().cumsum(1) - ended.long() > 0) & ~(self.given | self.forced)[index]
            changed = after & (masked | (ids != self.end_id))
            ids = ids.masked_fill(changed, self.end_id)
            kept = kept.masked_fill(changed, 0.0)
            masked = masked & ~changed
            which = which | changed
        self.ids[index], self.log_prob[index], self.masked[index] = ids, kept, masked
        return which

    def count(self, index: Tensor, passes: int = 1) -> None:
        """Add passes to the drafts `index` (A,) and to their texts."""
        self.passes[index] += passes
        self.spent.index_add_(0, self.text[index], torch.full_like(index, passes))

    def written(self) -> Tensor:
        """(D, n) bool: positions of the text and of its end token, without what follows."""
        if self.end_id < 0:
            return self.inside
        ended = self.ids == self.end_id
        return self.inside & (ended.long().cumsum(1) - ended.long() == 0)

    def record(
        self, index: Tensor, chosen: Tensor, remasked: Tensor, best: tuple[Tensor, Tensor] | None = None
    ) -> list[Step]:
        """Add the pass just made over the drafts `index` (A,) to the history.

        Args:
            index: (A,).
            chosen, remasked: (A, n) bool.
            best: tokens and probabilities (A, n, K) of the likeliest tokens, where they are to be kept.
        """
        out = []
        probability = self.log_prob.exp().masked_fill(self.masked, 0.0)
        for i, draft in enumerate(index.tolist()):
            n = int(self.lengths[draft])
            step = Step(
                draft=int(self.number[draft]),
                index=len(self.history[draft]),
                ids=tuple(self.ids[draft, :n].tolist()),
                masked=tuple(self.masked[draft, :n].tolist()),
                confidences=tuple(probability[draft, :n].tolist()),
                chosen=tuple(chosen[i].nonzero().flatten().tolist()),
                remasked=tuple(remasked[i].nonzero().flatten().tolist()),
                pass_count=int(self.passes[draft]),
                alternatives=() if best is None else alternatives(best[0][i, :n], best[1][i, :n]),
            )
            self.history[draft].append(step)
            out.append(step)
        return out


def empty_canvas(
    denoiser: Network, lengths: Tensor, text: Tensor, number: Tensor, prior: Tensor, texts: int, rules: Rules | None
) -> Canvas:
    """Lay out D drafts, all masked but for the given tokens.

    Args:
        denoiser: for its limit and special ids.
        lengths: (D,) positions of each draft.
        text: (D,) index of its text.
        number: (D,) number among the drafts of its text.
        prior: (D,) log p(n | vector).
        texts: B.
        rules: constraints of the B texts, or None.
    """
    c = denoiser.config
    device, drafts = lengths.device, len(lengths)
    inside = torch.arange(c.canvas_length, device=device) < lengths.unsqueeze(1)
    ids = torch.full((drafts, c.canvas_length), c.mask_id, device=device)
    known = torch.zeros_like(inside)
    closed = torch.zeros_like(inside)
    if rules is not None:
        more = c.canvas_length - c.max_length
        tokens = torch.nn.functional.pad(rules.given, (0, more), value=-1)[text]
        if c.canvas == "eos":  # what is longer than allowed is end
            past = torch.arange(c.canvas_length, device=device) >= rules.most.unsqueeze(1)
            tokens = tokens.masked_fill((past & (rules.most < c.max_length).unsqueeze(1))[text], c.eos_id)
        known = (tokens >= 0) & inside
        ids = torch.where(known, tokens, ids)
        closed = torch.nn.functional.pad(rules.closed, (0, more))[text]
    zero = torch.zeros(drafts, device=device)
    return Canvas(
        ids=ids.masked_fill(~inside, c.pad_id),
        masked=inside & ~known,
        given=known,
        inside=inside,
        log_prob=torch.zeros(drafts, c.canvas_length, device=device),
        lengths=lengths,
        text=text,
        number=number,
        prior=prior,
        end_log_prob=zero,
        passes=torch.zeros_like(text),
        spent=torch.zeros(texts, dtype=torch.long, device=device),
        history=[[] for _ in range(drafts)],
        end_id=c.eos_id if c.canvas == "eos" else -1,
        mask_id=c.mask_id,
        forced=torch.zeros_like(inside),
        closed=closed,
        missing=[rules.required[t] if rules is not None else () for t in text.tolist()],
        rules=rules,
    )


def open_canvases(
    denoiser: Network,
    vectors: Tensor,
    config: DecodeConfig,
    rules: Rules | None = None,
    known_lengths: Tensor | None = None,
) -> tuple[Canvas, list[tuple[int, int]]]:
    """Lay out one draft for each text, length and sample, in that order.

    Args:
        denoiser: the network, whose length head proposes lengths where the canvas is "length".
        vectors: (B, d) raw.
        config: for the numbers of lengths and samples.
        rules: constraints of the texts, or None; only lengths that can hold what a text must are tried.
        known_lengths: (B,) lengths known beforehand; they replace the head's.

    Returns:
        The canvas, and for each draft its length and sample number.
    """
    c, device, texts = denoiser.config, vectors.device, len(vectors)
    if c.canvas == "eos":
        options = torch.full((texts, 1), c.canvas_length, device=device)
        prior = torch.zeros(texts, 1, device=device)
    elif known_lengths is not None:
        options = known_lengths.to(device).view(texts, 1)
        prior = torch.zeros(texts, 1, device=device)
    else:
        log_probs = denoiser.length_log_probs(vectors)
        if rules is not None:
            log_probs = log_probs.masked_fill(~rules.lengths(), -torch.inf)
        prior, index = log_probs.topk(min(config.lengths, c.max_length), dim=1)
        options = index + 1
    # (B, lengths) -> L possible pairs of text and length -> D = L x samples drafts, samples of one pair together.
    owner, option = prior.isfinite().nonzero(as_tuple=True)  # impossible lengths come last, so numbers have no gaps
    text = owner.repeat_interleave(config.samples)
    sample = torch.arange(config.samples, device=device).repeat(len(owner))
    number = option.repeat_interleave(config.samples) * config.samples + sample
    lengths = options[owner, option].repeat_interleave(config.samples)
    log_prior = prior[owner, option].repeat_interleave(config.samples)
    canvas = empty_canvas(denoiser, lengths, text, number, log_prior, texts, rules)
    return canvas, list(zip(lengths.tolist(), sample.tolist(), strict=True))


def check_lengths(denoiser: Network, known_lengths: Tensor, rules: Rules | None) -> None:
    """Refuse known lengths that cannot be used.

    Raises:
        InputError: the canvas learns the end itself, a length outside 1..max_length, or one too short for what the text
            must.
    """
    c = denoiser.config
    if c.canvas == "eos":
        raise InputError("This checkpoint decides the end of a text itself.", "Leave the known lengths out.")
    outside = (known_lengths < 1) | (known_lengths > c.max_length)
    if rules is not None and not bool(outside.any()):
        outside = ~rules.lengths().gather(1, known_lengths.unsqueeze(1) - 1).squeeze(1)
    if bool(outside.any()):
        raise InputError(
            f"A known length is outside 1 to {c.max_length}, or shorter than given tokens or other constraints allow.",
            "Pass the true number of tokens of each text.",
        )


def check_given(denoiser: Network, given: Tensor, texts: int) -> None:
    """Refuse given tokens that are not allowed.

    Raises:
        InputError: wrong shape, an id outside the vocabulary, or a special id.
    """
    c = denoiser.config
    if given.dim() != 2 or given.shape[0] != texts or given.shape[1] > c.max_length:
        raise InputError(
            f"Given tokens have shape {tuple(given.shape)} for {texts} vectors.",
            f"Pass one row of at most {c.max_length} token ids for each vector, -1 where the token is unknown.",
        )
    known = given[given >= 0]
    if bool((known >= c.vocab_size).any()) or bool(denoiser.banned[known.clamp_max(c.vocab_size - 1)].any()):
        raise InputError(
            "A given token is a special id or lies outside the vocabulary.", "Give only ids of ordinary tokens."
        )


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
                f"Pass rules for one text per vector and {c.max_length} tokens, without given tokens beside them.",
            )
        return rules
    if given is None:
        return None
    check_given(denoiser, given, texts)
    return Rules.of_given(given, c.max_length, c.vocab_size)
