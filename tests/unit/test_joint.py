"""Several changes at once: edits, and what is joined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unembed.refinement.joint import Edit, apply, edit_of, joined
from unembed.refinement.surrogate import FORECAST, Proposal

TOKENS = st.lists(st.integers(0, 3), max_size=8).map(tuple)


@given(TOKENS, TOKENS)
def test_an_edit_makes_the_one_of_the_other(draft: tuple[int, ...], other: tuple[int, ...]) -> None:
    edit = edit_of(draft, other)
    assert apply(draft, [edit]) == other
    if draft == other:
        assert edit.start == edit.end and not edit.tokens


def test_edits_that_touch_the_same_place_are_not_apart() -> None:
    assert Edit(1, 2, (9,)).apart(Edit(2, 3, ()))
    assert not Edit(1, 3, (9, 9)).apart(Edit(2, 4, ()))
    assert not Edit(2, 2, (9,)).apart(Edit(2, 2, (8,)))
    assert Edit(2, 2, (9,)).apart(Edit(2, 3, (8,)))


def test_edits_are_made_at_the_places_of_the_draft() -> None:
    edits = [Edit(0, 1, ()), Edit(2, 2, (7, 8)), Edit(3, 4, (9,))]
    assert apply((0, 1, 2, 3, 4), edits) == (1, 7, 8, 2, 9, 4)


def _proposal(ids: tuple[int, ...], move: str, change: float) -> Proposal:
    return Proposal(ids, move, (-1.0, 0.0, 0.0, change), change)


def test_changes_are_joined_and_judged_as_a_whole() -> None:
    """A judge who counts right places: three changes that are right alone come together, a wrong one stays out."""
    draft, truth = (0, 0, 0, 0), (1, 2, 3, 0)
    singles = [(1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 3, 0), (0, 0, 0, 5)]
    known = {
        ids: _proposal(ids, "replace", sum(a == b for a, b in zip(ids, truth, strict=True)) - 1.0) for ids in singles
    }

    def judge(proposals: list[list[tuple[int, ...]]]) -> list[list[float]]:
        return [[sum(a == b for a, b in zip(ids, truth, strict=True)) - 1.0 for ids in part] for part in proposals]

    found = joined([draft], [known], judge, FORECAST, limit=8)[0]
    assert found[truth] == (-3.0, 0.0, 0.0, 3.0)  # log-likelihoods add up, the forecast is the judge's
    assert not any(5 in ids for ids in found)
    assert all(ids not in known for ids in found)


@pytest.mark.parametrize("limit", [4, 5])
def test_no_joint_change_is_longer_than_the_limit(limit: int) -> None:
    draft = (0, 0, 0, 0)
    known = {ids: _proposal(ids, "insert", 0.5) for ids in [(1, 0, 0, 0, 0), (0, 0, 0, 0, 2)]}
    found = joined([draft], [known], lambda parts: [[1.0] * len(part) for part in parts], FORECAST, limit)[0]
    assert not found


def test_texts_are_kept_apart() -> None:
    drafts = [(0, 0), (5, 5)]
    known = [{(1, 0): _proposal((1, 0), "replace", 0.1), (0, 2): _proposal((0, 2), "replace", 0.1)}, {}]
    found = joined(drafts, known, lambda parts: [[0.2] * len(part) for part in parts], FORECAST, 8)
    assert list(found[0]) == [(1, 2)] and not found[1]
