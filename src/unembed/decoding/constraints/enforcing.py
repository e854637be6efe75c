"""Constraints in passes over masks: tokens that may not be proposed, places for required words, tokens held back.

Contents: `Enforcer`.

Required words come first. Over the first half of the passes each is put where the network gives its tokens the highest
mean log-probability, as long as the others still fit; until all have a place nothing else of the draft is committed.
Tokens that are committed together could form a banned word: the less sure one is held back, at the cost of another
pass where it was the last one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unembed.decoding.canvas import Canvas
from unembed.decoding.constraints.lexicon import fits, free_runs, glued_mask
from unembed.decoding.constraints.rules import Rules, Word, no_text

FLOOR = -100.0  # log-probability of a required word at a place where the network excludes it


class Enforcer:
    """Enforces the rules of a canvas while it is filled.

    Args:
        rules: of the canvas's texts.
        vocab_size: V.
        device: of the canvas.
    """

    def __init__(self, rules: Rules, vocab_size: int, device: torch.device) -> None:
        self.rules = rules
        self.glued = glued_mask(rules.lexicon, vocab_size, device)

    def needed(self, canvas: Canvas, index: Tensor) -> Tensor | None:
        """Token ids (U,) of the words that the drafts `index` (A,) still miss, None where they miss none."""
        found = {token for draft in index.tolist() for word in canvas.missing[draft] for token in word}
        return torch.tensor(sorted(found), device=index.device) if found else None

    def forbid(self, canvas: Canvas, rows: Tensor, column: Tensor, logits: Tensor) -> None:
        """Set to -inf the logits (R, V) of what is not allowed at places `column` (R,) of drafts `rows` (R,)."""
        closed = canvas.closed[rows, column].nonzero().flatten()
        if len(closed):
            logits[closed] = logits[closed].masked_fill(self.glued, -torch.inf)
        if canvas.end_id >= 0:
            early = column < self._earliest_end(canvas)[rows]
            logits[:, canvas.end_id].masked_fill_(early, -torch.inf)
        texts = canvas.text[rows].tolist()
        known: dict[int, list[int]] = {}
        for i, (draft, place, text) in enumerate(zip(rows.tolist(), column.tolist(), texts, strict=True)):
            banned = self.rules.banned[text]
            if not banned:
                continue
            if draft not in known:
                known[draft] = self._known(canvas, draft)
            tokens, open_word = self.rules.lexicon.completing(known[draft], place, banned)
            if tokens:
                logits[i, tokens] = -torch.inf
            if open_word:
                logits[i].masked_fill_(~self.glued, -torch.inf)

    def settle(
        self,
        canvas: Canvas,
        drafts: Tensor,
        chosen: Tensor,
        tokens: Tensor,
        log_prob: Tensor,
        words: Tensor | None,
        needed: Tensor | None,
        passes_left: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put required words in place and hold back what would break a rule.

        Args:
            canvas: the drafts; words that are placed are marked in it.
            drafts: (A,).
            chosen: (A, n) bool, what the strategy would commit.
            tokens: (A, n) proposals.
            log_prob: (A, n) of the proposals.
            words: (A, n, U) log-probabilities of the tokens `needed`, or None.
            needed: (U,) as `needed` gives them.
            passes_left: passes in which required words may still be placed, this one included.

        Returns:
            What to commit, (A, n) each: where, which tokens, their log-probabilities.
        """
        chosen, tokens, log_prob = chosen.clone(), tokens.clone(), log_prob.clone()
        placed = torch.zeros_like(chosen)
        if words is not None and needed is not None:
            index = {token: u for u, token in enumerate(needed.tolist())}
            for a, draft in enumerate(drafts.tolist()):
                if not canvas.missing[draft]:
                    continue
                count = -(-len(canvas.missing[draft]) // max(passes_left, 1))
                for start, word in self._place(canvas, draft, words[a], index, count):
                    end = start + len(word)
                    tokens[a, start:end] = tokens.new_tensor(word)
                    at = torch.arange(start, end, device=words.device)
                    columns = torch.tensor([index[token] for token in word], device=words.device)
                    log_prob[a, start:end] = words[a, at, columns].clamp_min(FLOOR)
                    placed[a, start:end] = True
                    canvas.forced[draft, start:end] = True
                    if end < canvas.closed.shape[1]:
                        canvas.closed[draft, end] = True
                if passes_left > 0:
                    chosen[a] = False
        chosen &= ~placed
        broken = canvas.closed[drafts] & self.glued[tokens]
        if canvas.end_id >= 0:
            position = torch.arange(tokens.shape[1], device=tokens.device)
            broken |= (tokens == canvas.end_id) & (position < self._earliest_end(canvas)[drafts].unsqueeze(1))
        chosen &= ~broken
        for a, draft in enumerate(drafts.tolist()):
            banned = self.rules.banned[int(canvas.text[draft])]
            if banned:
                self._hold_back(canvas, draft, chosen[a], placed[a], tokens[a], log_prob[a], banned)
        return chosen | placed, tokens, log_prob

    def _hold_back(
        self,
        canvas: Canvas,
        draft: int,
        chosen: Tensor,
        placed: Tensor,
        tokens: Tensor,
        log_prob: Tensor,
        banned: tuple[str, ...],
    ) -> None:
        """Take from `chosen` (n,), in place, what would complete a banned word beside surer tokens."""
        known = self._known(canvas, draft)
        for place in placed.nonzero().flatten().tolist():
            known[place] = int(tokens[place])
        places = chosen.nonzero().flatten().tolist()
        for place in sorted(places, key=lambda i: -float(log_prob[i])):
            token = int(tokens[place])
            excluded, open_word = self.rules.lexicon.completing(known, place, banned)
            if token in excluded or (open_word and not bool(self.glued[token])):
                chosen[place] = False
            else:
                known[place] = token

    def _place(
        self, canvas: Canvas, draft: int, scores: Tensor, index: dict[int, int], count: int
    ) -> list[tuple[int, Word]]:
        """Choose places for `count` of the missing words of a draft, the likeliest first."""
        lexicon, text = self.rules.lexicon, int(canvas.text[draft])
        banned, known = self.rules.banned[text], self._known(canvas, draft)
        most = min(int(canvas.lengths[draft]), int(self.rules.most[text]))
        missing = list(canvas.missing[draft])
        out: list[tuple[int, Word]] = []
        table = scores.cpu().double().numpy()
        while missing and len(out) < count:
            options = []
            for word in set(missing):
                for start in range(most - len(word) + 1):
                    end = start + len(word)
                    if any(token >= 0 for token in known[start:end]):
                        continue
                    if end < len(known) and known[end] >= 0 and lexicon.is_glued(known[end]):
                        continue
                    score = sum(table[start + j, index[token]] for j, token in enumerate(word)) / len(word)
                    options.append((-score, start, word))
            for _, start, word in sorted(options):
                trial = [*known[:start], *word, *known[start + len(word) :]]
                rest = [len(other) for other in missing]
                rest.remove(len(word))
                if fits(free_runs(trial, 0, most, lexicon), rest) and not lexicon.holds(trial, banned):
                    break
            else:
                raise no_text(text)
            known = trial
            missing.remove(word)
            out.append((start, word))
        canvas.missing[draft] = tuple(missing)
        return out

    def _known(self, canvas: Canvas, draft: int) -> list[int]:
        """Tokens of a draft, -1 where masked."""
        n = int(canvas.lengths[draft])
        return torch.where(canvas.masked[draft, :n], -1, canvas.ids[draft, :n]).tolist()

    def _earliest_end(self, canvas: Canvas) -> Tensor:
        """(D,) first position that the end token may take."""
        position = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
        fixed = (canvas.given | canvas.forced) & (canvas.ids != canvas.end_id)
        last = torch.where(fixed, position + 1, 1).amax(1)
        return torch.maximum(last, self.rules.least[canvas.text])
