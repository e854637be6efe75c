"""Words over tokens: which token would complete a banned word, which tokens continue a word, whether words fit.

Contents: `Lexicon`, `fits`, `free_runs`.

A word can be spelt by several sequences of tokens ("playing" or "play" + "##ing"). Banned words are therefore compared
as characters: each token has a surface, " play" where it begins a word and "ing" where it continues one, and a banned
word is found where the surfaces of neighbouring tokens add up to it and no continuation follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


class Lexicon:
    """The surfaces of a vocabulary.

    Args:
        surfaces: V strings, a leading space where the token begins a word or mark; empty for tokens that are never
            output (`Tokenizer.surfaces`).

    Attributes:
        surfaces: as given.
        glued: (V,) bool, tokens that continue the word before them.
    """

    def __init__(self, surfaces: Sequence[str]) -> None:
        self.surfaces = tuple(surfaces)
        self.glued = torch.tensor([bool(s) and s[0] != " " for s in self.surfaces], dtype=torch.bool)
        self._glued = frozenset(self.glued.nonzero().flatten().tolist())
        self._ids: dict[str, list[int]] = {}
        for token, surface in enumerate(self.surfaces):
            if surface:
                self._ids.setdefault(surface, []).append(token)

    def is_glued(self, token: int) -> bool:
        """Whether `token` continues the word before it."""
        return token in self._glued

    def pattern(self, ids: Sequence[int]) -> str:
        """The characters of `ids`, with a leading space: the form in which banned words are kept."""
        text = "".join(self.surfaces[i] for i in ids)
        return text if text.startswith(" ") else " " + text

    def heads(self, tokens: Sequence[int], position: int, longest: int) -> list[str]:
        """Characters right before `position`, by 0, 1, 2, ... known tokens, up to `longest` characters.

        Args:
            tokens: the text, negative where it is unknown.
            position: where a token is sought.
            longest: length of the longest pattern.
        """
        out, head = [""], ""
        for i in range(position - 1, -1, -1):
            if tokens[i] < 0 or len(head) >= longest:
                break
            head = self.surfaces[tokens[i]] + head
            out.append(head if i or head.startswith(" ") else " " + head)
        return out

    def tails(self, tokens: Sequence[int], position: int, longest: int) -> list[str]:
        """Characters right after `position` that end a word, by known tokens; an unknown token counts as an end."""
        out, tail, i = [], "", position + 1
        while len(tail) < longest:
            following = tokens[i] if i < len(tokens) else -1
            if following not in self._glued:
                out.append(tail)
            if following < 0:
                break
            tail += self.surfaces[following]
            i += 1
        return out

    def completing(self, tokens: Sequence[int], position: int, banned: Sequence[str]) -> tuple[list[int], bool]:
        """Tokens that would complete a banned word at `position`.

        Args:
            tokens: the text around it, negative where it is unknown.
            position: where a token is sought; the token there is not looked at.
            banned: patterns.

        Returns:
            The tokens, and whether a banned word ends right before `position`, so that only a continuation may follow.
        """
        longest = max(map(len, banned), default=0)
        heads, tails = self.heads(tokens, position, longest), self.tails(tokens, position, longest)
        found: list[int] = []
        for word in banned:
            for head in heads:
                if not word.startswith(head):
                    continue
                for tail in tails:
                    middle = word[len(head) : len(word) - len(tail)]
                    if len(head) + len(tail) < len(word) and word.endswith(tail):
                        found += self._ids.get(middle, ())
                        if position == 0:  # what begins a text begins a word
                            found += self._ids.get(middle[1:], ())
        return found, any(head in banned for head in heads[1:])

    def holds(self, tokens: Sequence[int], banned: Sequence[str]) -> str | None:
        """The first banned word that is in `tokens` (negative where unknown; an unknown token ends a word)."""
        longest = max(map(len, banned), default=0)
        for i, token in enumerate(tokens):
            if token < 0 or (i + 1 < len(tokens) and tokens[i + 1] in self._glued):
                continue
            for head in self.heads(tokens, i + 1, longest)[1:]:
                if head in banned:
                    return head
        return None


def free_runs(tokens: Sequence[int], start: int, end: int, lexicon: Lexicon) -> list[int]:
    """Lengths of the runs of unknown positions from `start` to before `end`, the first beginning at `start`.

    A run before a continuation is one shorter, because a whole word may not end there.

    Args:
        tokens: the text, negative where it is unknown; positions after it are unknown.
        start, end: the range.
        lexicon: tells continuations.
    """
    runs, run = [], 0
    for i in range(start, end):
        token = tokens[i] if i < len(tokens) else -1
        if token < 0:
            run += 1
            continue
        runs.append(max(run - lexicon.is_glued(token), 0))
        run = 0
    runs.append(run)
    return runs


def fits(runs: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether words of these sizes can be put into runs of these lengths without overlap (exact bin packing)."""
    if sum(sizes) > sum(runs):
        return False
    return _packs(tuple(sorted((r for r in runs if r), reverse=True)), tuple(sorted(sizes, reverse=True)))


@lru_cache(maxsize=65536)
def _packs(runs: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    if not sizes or sizes[0] == 1:
        return len(sizes) <= sum(runs)
    first, rest = sizes[0], sizes[1:]
    for i in range(len(runs)):
        if runs[i] >= first and (i == 0 or runs[i] != runs[i - 1]):
            left = (*runs[:i], runs[i] - first, *runs[i + 1 :])
            if _packs(tuple(sorted((r for r in left if r), reverse=True)), rest):
                return True
    return False


def glued_mask(lexicon: Lexicon, size: int, device: torch.device) -> Tensor:
    """(size,) bool of `lexicon.glued` on a device, False after its end."""
    out = torch.zeros(size, dtype=torch.bool, device=device)
    out[: min(size, len(lexicon.glued))] = lexicon.glued[:size].to(device)
    return out
