"""Masked canvases of drafts: every place is masked once, alone or beside others that are far away."""

from __future__ import annotations

import pytest

from unembed.refinement.slots import _canvases


@pytest.mark.parametrize("n", [1, 2, 5, 15, 16, 17, 31, 32])
@pytest.mark.parametrize("apart", [4, 8, 99])
def test_every_place_is_masked_once(n: int, apart: int) -> None:
    draft = tuple(range(100, 100 + n))
    found = _canvases([draft], 7, 32, apart)
    for kind, starts in (("replace", n), ("insert", n + 1 if n < 32 else 0), ("pair", n - 1)):
        marks = [mark for canvas in found if canvas.kind == kind for mark in canvas.marks.values()]
        width = 2 if kind == "pair" else 1
        assert sorted(marks) == [(start, start + k) for start in range(starts) for k in range(width)]
    assert all(len(canvas.ids) <= 32 for canvas in found)
    assert all([canvas.ids[k] == 7 for k in canvas.marks] == [True] * len(canvas.marks) for canvas in found)


@pytest.mark.parametrize("apart", [4, 8, 99])
def test_what_is_not_masked_is_the_draft(apart: int) -> None:
    draft = tuple(range(100, 120))
    for canvas in _canvases([draft], 7, 32, apart):
        rest = [token for k, token in enumerate(canvas.ids) if k not in canvas.marks]
        hidden = {column for _, column in canvas.marks.values()} if canvas.kind != "insert" else set()
        assert rest == [token for k, token in enumerate(draft) if k not in hidden]
        for k, (start, column) in canvas.marks.items():
            before = [token for j, token in enumerate(canvas.ids[:k]) if j not in canvas.marks]
            assert column >= start and before[-1:] == [token for i, token in enumerate(draft[:start])][-1:]


def test_long_drafts_take_half_the_canvases() -> None:
    draft = tuple(range(100, 124))
    assert len(_canvases([draft], 7, 32, 8)) < len(_canvases([draft], 7, 32, 99)) / 2
