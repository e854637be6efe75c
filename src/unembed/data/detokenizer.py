"""Display text from words and punctuation marks that a BERT-style tokenizer has split.

A WordPiece tokenizer isolates every punctuation mark, so "don't", "3.5" and "(check-out)" arrive as `don ' t`,
`3 . 5` and `( check - out )`. `join_words` puts the marks back where English puts them. It only decides, mark by
mark, whether a space is before and after it; it never adds, drops or changes a character other than spaces.

Contents: `join_words(words) -> str`, `is_mark(word)`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_CONTRACTIONS = frozenset("s t re ll ve d m clock em all".split())
_ELIDED = frozenset("tis twas em cause bout til im".split())
_ABBREVIATIONS = frozenset(
    "u.s u.k u.n e.g i.e p.m a.m d.c b.c a.d u.s.a b.c.e c.e ph.d l.a n.y s.a j.r o.k p.s n.b r.s.v.p m.d b.a m.a "
    "t.v h.r v.i.p n.c s.c e.u d.j".split()
)
_ENDINGS = frozenset(
    "com org net gov edu io co html htm xml json yml yaml toml md txt pdf py js ts jsx tsx cpp h c cs exe dll php rs "
    "swift java sh bat ps1 psd1 psm1 csv zip md png jpg jpeg gif svg css mil int info uk idl lib obj config ini log "
    "aspx asp cfm docx xlsx app dev us".split()
)
_OPENERS = frozenset("([{\u201c\u2018«¿¡#@~\\")  # with the opening double and single quotation marks
_CLOSERS = frozenset(".,;:!?%)]}\u201d»\u2026")  # with the closing double quotation mark and the ellipsis
_APOSTROPHES = "'\u2019"
_HYPHENS = "-\u2010\u2011"
_EN_DASH = "\u2013"
_JOINERS = "\u2014\u2015/_\\^@"  # with the em dash and the horizontal bar
_PAIRED = '"`*'
_OPERATORS = frozenset("=<>+-|&:!?.*~")


@lru_cache(maxsize=65536)
def is_mark(word: str) -> bool:
    """Whether `word` is one punctuation mark in BERT's sense: category P, or ASCII but no letter, digit or space."""
    if len(word) != 1:
        return False
    return (word.isascii() and word.isprintable() and not word.isalnum() and word != " ") or unicodedata.category(
        word
    ).startswith("P")


def join_words(words: Sequence[str]) -> str:
    """Join words and isolated punctuation marks as English text has them.

    Args:
        words: words and marks in order, each without spaces, as WordPiece's pre-tokenizer splits them.

    Returns:
        One line of text. Without its spaces it equals `"".join(words)`, and a BERT-style tokenizer splits it into
        the same words: a space is left out only next to a mark, which the tokenizer isolates anyway.
    """
    words = [word for word in words if word]
    if not words:
        return ""
    marks = [is_mark(word) for word in words]
    gaps = [True] * (len(words) + 1)  # gaps[i]: a space is before word i
    open_marks: set[str] = set()
    for i in range(len(words)):
        if marks[i]:
            before, after = _spaces(words, marks, i, open_marks)
            if i > 0:
                gaps[i] = gaps[i] and before
            gaps[i + 1] = gaps[i + 1] and after
    out = [words[0]]
    for i in range(1, len(words)):
        out.append(" " + words[i] if gaps[i] else words[i])
    return "".join(out)


def _spaces(words: Sequence[str], marks: Sequence[bool], i: int, open_marks: set[str]) -> tuple[bool, bool]:
    """Whether the mark at `i` keeps the space before it and the space after it."""
    mark = words[i]
    left = words[i - 1] if i > 0 else ""
    right = words[i + 1] if i + 1 < len(words) else ""
    left_word = bool(left) and not marks[i - 1]
    right_word = bool(right) and not marks[i + 1]
    if left == mark and mark in ".-!?*_=<>&|:/+#~'`":  # the second of "...", "--", "!!", "==", "::"
        return False, mark in ".!?=<>&|+" or (mark == "-" and not _option(words, marks, i))
    if mark in _APOSTROPHES:
        return _apostrophe(words, marks, i, open_marks)
    if mark in _PAIRED:
        return _paired(mark, left, right, open_marks)
    if mark == ".":
        return False, not _dotted(words, marks, i)
    if mark == ",":
        thousands = left.isdigit() and len(left) <= 3 and right.isdigit() and len(right) == 3
        return False, not thousands
    if mark == ":":
        return False, not ((_digits(left) and _digits(right)) or (right in ("/", ":") and left_word))
    if mark in _HYPHENS:
        return _hyphen(words, marks, i)
    if mark == _EN_DASH:
        tight = left_word and right_word and (_digits(left[-1:]) and _digits(right[:1]))
        return not tight, not tight
    if mark in _JOINERS:
        return not (left_word or left in _CLOSERS or left in "\"'_/\\:."), False
    if mark == "$":
        return left not in _OPENERS, not (right_word or right in "({")
    if mark == "&":
        tight = len(left) == 1 and len(right) == 1 and left_word and right_word
        return not tight, not tight
    if mark == "+":
        if right == "+" or (left_word and not right_word):  # "c++", "30+"
            return not left_word, right != "+"
        return True, not (_digits(right[:1]) and not _digits(left))
    if mark == "#":
        return not (left in ("c", "f") and not _digits(right)), not _digits(right[:1])
    if mark == "<":
        return not (left_word and _closes(words, i)), not ((right_word and _closes(words, i)) or right == "/")
    if mark == ">":
        opened = "<" in words[max(0, i - 6) : i]
        return not (opened or left in "-="), True
    if mark in "=|":
        return not (left in _OPERATORS and bool(left)), True
    if mark in _OPENERS:
        call = mark in "([" and right in (")", "]") and left_word
        inside = mark in "([{" and i >= 2 and left_word and words[i - 2] in ("_", "::")
        return not (call or inside), False
    return (mark not in _CLOSERS), True


def _digits(word: str) -> bool:
    """Whether a word is all digits."""
    return word.isdigit()


def _option(words: Sequence[str], marks: Sequence[bool], i: int) -> bool:
    """Whether the second hyphen at `i` starts a command-line option ("--all") or joins two words ("well--no")."""
    return i + 1 < len(words) and not marks[i + 1]


def _closes(words: Sequence[str], i: int) -> bool:
    """Whether a "<" at `i` is soon closed, so that it is a tag or a type argument."""
    return ">" in words[i + 1 : i + 6]


def _apostrophe(words: Sequence[str], marks: Sequence[bool], i: int, open_marks: set[str]) -> tuple[bool, bool]:
    """Contraction ("don't"), possessive ("dogs' tails"), elision ("'tis") or a quotation mark."""
    left = words[i - 1] if i > 0 else ""
    right = words[i + 1] if i + 1 < len(words) else ""
    left_word = bool(left) and not marks[i - 1]
    right_word = bool(right) and not marks[i + 1]
    name = left in ("d", "l", "y", "ma") or (left == "o" and len(right) > 4)  # "d'artagnan", "o'brien"
    if left_word and right_word and (right in _CONTRACTIONS or name):
        return False, False
    if words[i] != "'":
        return not (left_word or left in _CLOSERS), not (not left_word and right_word)
    if "'" in open_marks:
        if left_word and right_word and left.endswith("s") and "'" in words[i + 2 :]:
            return False, True
        open_marks.discard("'")
        return False, True
    if left_word and left.endswith("s") and right_word and words[i + 1 :].count("'") % 2 == 0:
        return False, True
    if left_word and not right_word and right not in _OPENERS:
        return False, True
    if right in _ELIDED or (right_word and _digits(right)):
        return True, False
    if right and "'" in words[i + 2 :]:
        open_marks.add("'")
        return True, False
    if left_word and right_word:
        return False, not len(right) <= 2
    return bool(left) and right_word, not right_word


def _paired(mark: str, left: str, right: str, open_marks: set[str]) -> tuple[bool, bool]:
    """A straight quotation mark, backtick or asterisk: opens when none is open, closes otherwise."""
    if mark in open_marks:
        open_marks.discard(mark)
        return False, True
    if not right or (right in _CLOSERS and left and right != "."):
        return False, True
    open_marks.add(mark)
    return left not in _OPENERS and left not in ("-", "\u2014", "/", "="), False


def _dotted(words: Sequence[str], marks: Sequence[bool], i: int) -> bool:
    """Whether the word after the full stop at `i` belongs to the one before: "3.5", "u.s.", "example.com"."""
    if i == 0 or i + 1 >= len(words):
        return False
    if marks[i - 1] or marks[i + 1]:
        return words[i + 1] in ("/", "\\", ".")
    left, right = words[i - 1], words[i + 1]
    if _digits(left[-1:]) and _digits(right[:1]):
        return True
    if left == "www" or (right in _ENDINGS and len(left) > 1):
        return True
    if len(left) <= 2 and len(right) <= 2:
        start = i - 1
        while start >= 2 and words[start - 1] == "." and len(words[start - 2]) <= 2:
            start -= 2
        return "".join(words[start : i + 2]) in _ABBREVIATIONS
    return False


def _hyphen(words: Sequence[str], marks: Sequence[bool], i: int) -> tuple[bool, bool]:
    """A hyphen inside a compound, before a number or option, or a dash with spaces."""
    left = words[i - 1] if i > 0 else ""
    right = words[i + 1] if i + 1 < len(words) else ""
    left_word = bool(left) and not marks[i - 1]
    right_word = bool(right) and not marks[i + 1]
    if left_word and right_word:
        return False, False
    if right == "-":
        return not left_word, False
    if right == ">":
        return True, False
    if right_word:  # "(-1", "= -1", "`-name"; after other marks a dash
        return True, bool(left) and left not in _OPENERS and left not in "=,`'\""
    if right and right in _APOSTROPHES:  # "mid-'90s"
        return not left_word, not left_word
    return not left_word or right == '"', True
