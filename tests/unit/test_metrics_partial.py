"""Scores over the tokens that were not known beforehand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unembed.errors import InputError
from unembed.metrics import text
from unembed.metrics.partial import known_places, unknown_statistics

ids = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def values(*args: object) -> tuple[float, float]:
    found = unknown_statistics(*args)  # type: ignore[arg-type]
    return found["token_accuracy_unknown"].value, found["token_f1_unknown"].value


def test_by_hand() -> None:
    # known: 1 at 0 and 3 at 2; left of the reference: 2, 4; of the prediction: 2, 2
    accuracy, f1 = values([[1, 2, 3, 2]], [[1, 2, 3, 4]], [{0, 2}])
    assert accuracy == 1 / 2 and f1 == pytest.approx(2 * 1 / 4)
    # a known word in another place is taken out of the F1 all the same
    accuracy, f1 = values([[3, 2, 9]], [[1, 2, 3]], [{2}])
    assert accuracy == 1 / 2 and f1 == pytest.approx(2 * 1 / 4)


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=5))
def test_with_nothing_known_they_are_the_plain_scores(pairs: list[tuple[list[int], list[int]]]) -> None:
    preds, refs = [p for p, _ in pairs], [r for _, r in pairs]
    accuracy, f1 = values(preds, refs, [set()] * len(refs))
    assert accuracy == pytest.approx(text.token_accuracy(preds, refs))
    assert f1 == pytest.approx(text.token_f1(preds, refs))


@given(ids, ids, st.data())
def test_inserting_what_is_known_does_not_raise_the_accuracy(
    pred: list[int], ref: list[int], data: st.DataObject
) -> None:
    places = data.draw(st.sets(st.integers(0, len(ref) - 1)))
    inserted = [ref[i] if i in places else token for i, token in enumerate(pred)]
    assert values([inserted], [ref], [places])[0] == values([pred], [ref], [places])[0]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be scored"):
        unknown_statistics([[1]], [[1]], [])
    with pytest.raises(InputError, match="outside its 1 tokens"):
        unknown_statistics([[1]], [[1]], [{1}])


def test_known_places_of_a_result() -> None:
    assert known_places([1, 2, 3], [1, 9, 3], [True, True, False]) == {0}
    assert known_places([5, 5, 2], [2, 5, 1], [False] * 3, [True, True, True]) == {0, 1}
