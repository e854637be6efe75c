"""Constraints from left to right: which tokens may come next, and a bonus for those that complete required words.

Contents: `Guide`.

A hypothesis is ordered by its log-likelihood plus `BONUS` nats for each token of a required word that it holds, so that
hypotheses which have placed more of them are compared fairly (coverage, as in Hokamp and Liu 2017, 1704.07138). Where
the network would end the text, or the room left is what the missing words take, only their tokens may come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unembed.decoding.constraints.lexicon import fits, free_runs, glued_mask
from unembed.decoding.constraints.rules import Rules, Word

BONUS = 5.0
_PLAIN, _GLUED = -2, -3  # stand for tokens of no required word: one that begins a word, one that continues it


class _State(NamedTuple):
    """Words that are missing, (word, tokens of it) begun at the end, places of the others, tokens covered."""

    missing: tuple[Word, ...]
    begun: tuple[tuple[Word, int], ...]
    places: tuple[tuple[int, int], ...]
    covered: int


class Guide:
    """Steers left-to-right drafts of B texts.

    Args:
        rules: of the texts.
        vocab_size: V.
        eos: id of the end token.
        device: of the logits.
    """

    def __init__(self, rules: Rules, vocab_size: int, eos: int, device: torch.device) -> None:
        self.rules, self.eos = rules, eos
        self.glued = glued_mask(rules.lexicon, vocab_size, device)
        self.given = rules.given.tolist()
        self.last = [max((i for i, t in enumerate(row) if t >= 0), default=-1) for row in self.given]
        self.least, self.most = rules.least.tolist(), rules.most.tolist()

    def steer(self, log_probs: Tensor, tokens: Tensor, text: Tensor, position: int) -> Tensor:
        """Order what may come next.

        Args:
            log_probs: (A, V) of the network.
            tokens: (A, max_length) hypotheses, `position` tokens each.
            text: (A,) index of their texts.
            position: of the next token.

        Returns:
            (A, V) log-probabilities plus bonuses, -inf where forbidden.
        """
        order = log_probs.clone()
        closed = self.rules.closed[text, position] if position < self.rules.closed.shape[1] else None
        if closed is not None:
            order.masked_fill_(closed.unsqueeze(1) & self.glued, -torch.inf)
        ends = log_probs.argmax(1) == self.eos
        rows = zip(text.tolist(), tokens[:, :position].tolist(), ends.tolist(), strict=True)
        for i, (t, hypothesis, wants_end) in enumerate(rows):
            self._one(order[i], log_probs[i], t, hypothesis, wants_end)
        return order

    def _one(self, order: Tensor, log_probs: Tensor, t: int, tokens: list[int], wants_end: bool) -> None:
        position, given, banned = len(tokens), self.given[t], self.rules.banned[t]
        known = given[position] if position < len(given) else -1
        if known >= 0:  # known tokens count in the order of hypotheses: the vector and the words before explain them
            order.fill_(-torch.inf)
            order[known] = log_probs[known]
            if self.rules.required[t]:
                order[known] += BONUS * (self.scan(t, [*tokens, known]).covered - self.scan(t, tokens).covered)
            return
        if position == 0 or position < self.least[t] or position <= self.last[t]:
            order[self.eos] = -torch.inf
        if banned:
            around = [*tokens, -1, *given[position + 1 :]]
            excluded, open_word = self.rules.lexicon.completing(around, position, banned)
            if excluded and self.rules.required[t]:
                spared = self._spared(t, tokens)
                excluded = [token for token in excluded if token not in spared]
            if excluded:
                order[excluded] = -torch.inf
            if open_word:
                order.masked_fill_(~self.glued, -torch.inf)
        if self.rules.required[t]:
            self._cover(order, t, tokens, wants_end)
        if position == self.most[t]:
            end = order[self.eos].clone()
            order.fill_(-torch.inf)
            order[self.eos] = end

    def _cover(self, order: Tensor, t: int, tokens: list[int], wants_end: bool) -> None:
        """Add bonuses, and leave only what keeps room for the words that are missing."""
        position = len(tokens)
        now = self.scan(t, tokens)
        after = [self.scan(t, [*tokens, token]) for token in (_PLAIN, _GLUED)]
        bonus = torch.full_like(order, BONUS * (after[0].covered - now.covered))
        bonus[self.glued] = BONUS * (after[1].covered - now.covered)
        useful = {word[0] for word in now.missing} | {word[j] for word, j in now.begun}
        allowed = []
        for token in useful:
            then = self.scan(t, [*tokens, token])
            bonus[token] = BONUS * (then.covered - now.covered)
            if self._room(t, then, position + 1):
                allowed.append(token)
        if now.missing:
            order[self.eos] = -torch.inf
        plain, glued = (self._room(t, state, position + 1) for state in after)
        open_to_all = torch.where(self.glued, glued, plain)
        if now.missing and wants_end and bool(order[allowed].isfinite().any()):
            open_to_all = torch.zeros_like(open_to_all)
        open_to_all[self.eos] = True
        open_to_all[list(useful)] = False
        open_to_all[allowed] = True
        order.add_(bonus).masked_fill_(~open_to_all, -torch.inf)

    def _spared(self, t: int, tokens: list[int]) -> set[int]:
        """Tokens that may look like a banned word, because a required word continues them ("un" of "unable")."""
        state, position = self.scan(t, tokens), len(tokens)
        given = self.given[t][position + 1 : position + 2]
        if given and given[0] >= 0:
            return set()
        ways = [(word, 0) for word in state.missing] + list(state.begun)
        return {
            word[j]
            for word, j in ways
            if j + 1 < len(word)
            and self.rules.lexicon.is_glued(word[j + 1])
            and position + len(word) - j <= self.most[t]
        }

    def scan(self, t: int, tokens: Sequence[int]) -> _State:
        """See which required words of text `t` are in `tokens`, at positions that were not given."""
        missing = list(self.rules.required[t])
        given, n = self.given[t], len(tokens)
        first = {word[0] for word in missing}
        places, covered, i = [], 0, 0
        begun: list[tuple[Word, int]] = []
        while i < n:
            step = 1
            if tokens[i] in first:
                for word in missing:  # longest first
                    end = i + len(word)
                    if any(given[k] >= 0 for k in range(i, min(end, len(given)))):
                        continue
                    if end <= n and tuple(tokens[i:end]) == word and not self._continues(t, tokens, end):
                        missing.remove(word)
                        places.append((i, end))
                        covered += len(word)
                        step = len(word)
                        break
            i += step
        taken = places[-1][1] if places else 0
        for word in missing:
            for j in range(1, len(word)):
                start = n - j
                if start >= taken and tuple(tokens[start:]) == word[:j]:
                    if all(given[k] < 0 for k in range(start, min(start + len(word), len(given)))):
                        begun.append((word, j))
        partial = max((j for _, j in begun), default=0)
        return _State(tuple(missing), tuple(begun), tuple(places), covered + partial)

    def _continues(self, t: int, tokens: Sequence[int], end: int) -> bool:
        """Whether the token at `end` is known and continues the word before it."""
        given = self.given[t]
        following = tokens[end] if end < len(tokens) else given[end] if end < len(given) else -1
        return following == _GLUED or self.rules.lexicon.is_glued(following)

    def _room(self, t: int, state: _State, position: int) -> bool:
        """Whether the missing words fit into what is left from `position` on."""
        if position > self.most[t]:
            return False
        sizes = [len(word) for word in state.missing]
        runs = free_runs(self.given[t], position, self.most[t], self.rules.lexicon)
        if fits(runs, sizes):
            return True
        for word, j in state.begun:
            left, others = len(word) - j, list(sizes)
            others.remove(len(word))
            if runs[0] >= left and fits([runs[0] - left, *runs[1:]], others):
                return True
        return False
