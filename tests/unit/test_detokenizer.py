"""Display text: marks go back to where English has them, and nothing but spaces ever changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unembed.data.detokenizer import is_mark, join_words


def split(text: str) -> list[str]:
    """Split as BERT's pre-tokenizer does: on spaces and around every mark."""
    return "".join(f" {c} " if is_mark(c) else c for c in text).split()


REAL = [
    "why, i believe i've got a legal claim on him.",
    '"laddie," he said, "there\'s one thing that\'ll carry you through any mess."',
    "check-out is at 3.5 (a) or 3:15 p.m. on march 9th; don't be late!",
    "picture quality, (charger included) good lcd display, and more!!!",
    "he will go far—he's bent upon getting out of sight and sound!",
    "there are 3,500 calories in a pound, i.e. 7,700 in a kilogram, for $5.50 or 20%.",
    "nixon met with mao in the leader's study in the u.s. and the dogs' tails wagged.",
    "see http://www.example.com/a/b and mail bob@example.com about q&a, c++ and c#.",
    "if multiple suffixes include `mut`, call std::vector and my_function() with (--all).",
    "well... i don't know, said o'brien at nine o'clock, 'tis late.",
    "she said 'never again' and left.",
    "the temperature (-5) is the lowest in the 1990\u20131995 record.",
    "nearly 1/2 inch thick, e.g. a mid-level state-of-the-art phone?",
]


@pytest.mark.parametrize("text", REAL)
def test_real_lines_come_back(text: str) -> None:
    assert join_words(split(text)) == text


def test_edges() -> None:
    assert join_words([]) == ""
    assert join_words(["."]) == "."
    assert join_words(["", "a", ""]) == "a"
    assert join_words(['"', '"', '"']).replace(" ", "") == '"""'


MARKS = [chr(c) for c in range(33, 127) if not chr(c).isalnum()] + list("\u2014\u2013\u2019\u201c\u201d\u2026«»")


@given(st.lists(st.sampled_from([*MARKS, "a", "s", "3", "500", "word", "com", "u", "é"]), max_size=30))
def test_only_spaces_change(words: list[str]) -> None:
    text = join_words(words)
    assert text.replace(" ", "") == "".join(words)
    assert split(text) == words
    assert not re.search(r"^ | $|  ", text)
