"""Several changes of a draft at once: changes that are promising alone, joined, and judged together before a query.

Contents: `Edit`, `edit_of`, `apply`, `joined`.

A draft of a long text has many wrong words, and one query a word is too many. The student judges a draft with two or
more changes as it judges one with a single change, so changes are joined while its forecast goes on rising.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unembed.refinement.surrogate import Features, Proposal, Surrogate

Judge = Callable[[list[list[tuple[int, ...]]]], list[list[float]]]
MOVE = "several"
_JOINABLE = ("replace", "insert", "delete", "pair", "swap")


@dataclass(frozen=True)
class Edit:
    """Tokens start to end of a draft become others.

    Attributes:
        start: first token that is replaced.
        end: the token behind the last; the same as start where something is only inserted.
        tokens: what stands there afterwards.
    """

    start: int
    end: int
    tokens: tuple[int, ...]

    def apart(self, other: Edit) -> bool:
        """Whether the two touch different places, so that both can be made."""
        if (self.start, self.end) == (other.start, other.end):
            return False
        return self.end <= other.start or other.end <= self.start


def edit_of(draft: tuple[int, ...], ids: tuple[int, ...]) -> Edit:
    """The smallest edit that makes ids of draft."""
    start, shorter = 0, min(len(draft), len(ids))
    while start < shorter and draft[start] == ids[start]:
        start += 1
    tail = 0
    while tail < shorter - start and draft[-1 - tail] == ids[-1 - tail]:
        tail += 1
    return Edit(start, len(draft) - tail, ids[start : len(ids) - tail])


def apply(draft: tuple[int, ...], edits: Sequence[Edit]) -> tuple[int, ...]:
    """Make edits that lie apart."""
    out = list(draft)
    for edit in sorted(edits, key=lambda e: (-e.start, -e.end)):
        out[edit.start : edit.end] = edit.tokens
    return tuple(out)


@dataclass(frozen=True)
class _Joint:
    edits: tuple[Edit, ...]
    features: Features  # sums over the parts, and the forecast of the whole

    def with_(self, other: _Joint) -> _Joint | None:
        if not all(mine.apart(edit) for mine in self.edits for edit in other.edits):
            return None
        total = tuple(a + b for a, b in zip(self.features, other.features, strict=True))
        return _Joint((*self.edits, *other.edits), (total[0], total[1], total[2], total[3]))


def joined(
    drafts: Sequence[tuple[int, ...]],
    found: Sequence[dict[tuple[int, ...], Proposal]],
    judge: Judge,
    surrogate: Surrogate,
    limit: int,
    parts: int = 10,
    keep: int = 4,
    depth: int = 4,
) -> list[dict[tuple[int, ...], Features]]:
    """Join promising changes of each draft.

    Args:
        drafts: D drafts.
        found: judged proposals of each draft; single changes among them are joined.
        judge: forecast changes of the cosine for lists of drafts, one list for each of the D drafts.
        surrogate: ranks joint changes that are made longer.
        limit: most tokens of a text.
        parts: single changes of a draft that are joined.
        keep: joint changes that are made longer.
        depth: most changes at once.

    Returns:
        For each draft, new drafts with two changes or more and their features.
    """
    singles: list[list[_Joint]] = []
    for draft, known in zip(drafts, found, strict=True):
        good = [p for p in known.values() if p.move in _JOINABLE and p.features[3] > 0]
        good = sorted(good, key=lambda p: -p.gain)[:parts]
        singles.append([_Joint((edit_of(draft, p.ids),), p.features) for p in good])
    out: list[dict[tuple[int, ...], Features]] = [{} for _ in drafts]
    fronts = singles
    for _ in range(depth - 1):
        wider: list[dict[tuple[int, ...], _Joint]] = []
        for draft, front, ones, done in zip(drafts, fronts, singles, out, strict=True):
            new: dict[tuple[int, ...], _Joint] = {}
            for one in front:
                for other in ones:
                    both = one.with_(other)
                    if both is not None:
                        ids = apply(draft, both.edits)
                        if 0 < len(ids) <= limit and ids not in done:
                            new.setdefault(ids, both)
            wider.append(new)
        if not any(wider):
            break
        changes = judge([list(part) for part in wider])
        fronts = []
        for part, change, done in zip(wider, changes, out, strict=True):
            judged = [
                _Joint(joint.edits, (*joint.features[:3], value))
                for joint, value in zip(part.values(), change, strict=True)
            ]
            done.update(zip(part, (joint.features for joint in judged), strict=True))
            fronts.append(sorted(judged, key=lambda j: -surrogate.gain(MOVE, j.features))[:keep])
    return out
