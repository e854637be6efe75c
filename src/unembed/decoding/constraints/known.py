"""What is known of the texts beforehand: known words, a prefix, required and banned words, a range of lengths.

Contents: `Constraints`.

    Constraints(prefix="dear dr", required=["invoice"], banned=["regards"], length=(8, 14)).compile(tokenizer, 3, 32)

Each field holds for all texts, or is a list with one entry per text (None: nothing is known of that text). Decoding
enforces them in every strategy; see `rules.Rules` for the form in which it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

import numpy as np
import torch

from unembed.data.tokenization import Tokenizer
from unembed.decoding.constraints.lexicon import Lexicon, fits, free_runs
from unembed.decoding.constraints.rules import Rules, Word
from unembed.errors import InputError


@dataclass(frozen=True)
class Constraints:
    """Constraints on recovered texts, for all of them or one entry per text.

    Attributes:
        given: (n, up to max_length) token ids that are known, -1 where not.
        prefix: how the text begins; its last token may be continued ("pass" by "##words").
        known: words by position, the position counted in tokens from 0: {3: "doctor"}. The word is whole.
        required: words or phrases that appear, each at positions of its own; one that is listed twice appears twice.
        banned: words or phrases that do not appear as whole words, however they are spelt.
        length: (least, most) tokens, or one number where it is known exactly.
    """

    given: Any = None
    prefix: str | Sequence[str | None] | None = None
    known: Mapping[int, str] | Sequence[Mapping[int, str] | None] | None = None
    required: Sequence[Any] | None = None
    banned: Sequence[Any] | None = None
    length: Any = None

    def __bool__(self) -> bool:
        """Whether anything is constrained."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def compile(self, tokenizer: Tokenizer, rows: int, max_length: int, lexicon: Lexicon | None = None) -> Rules:
        """Turn the constraints into token ids and refuse those that contradict each other.

        Args:
            tokenizer: of the checkpoint.
            rows: number of texts.
            max_length: longest text in tokens.
            lexicon: of the tokenizer, where it is at hand.

        Raises:
            InputError: constraints of the wrong form, words that the tokenizer does not know, or a contradiction;
                with the row.
        """
        lexicon = lexicon or Lexicon(tokenizer.surfaces)
        reader = _Reader(tokenizer, lexicon)
        prefixes = _each("prefix", self.prefix, rows, lambda v: isinstance(v, str))
        known = _each("known", self.known, rows, lambda v: isinstance(v, Mapping))
        required = _each("required", self.required, rows, _is_words)
        banned = _each("banned", self.banned, rows, _is_words)
        lengths = _each("length", self.length, rows, _is_length)
        given = [[-1] * max_length for _ in range(rows)]
        if self.given is not None:
            table = given_tokens(self.given, rows)
            if table.shape[1] > max_length:
                raise InputError(
                    f"Given tokens have {table.shape[1]} columns; a text has at most {max_length} tokens.",
                    f"Pass at most {max_length} token ids for each vector, -1 where the token is unknown.",
                )
            given = [row + [-1] * (max_length - len(row)) for row in table.tolist()]
        texts = [
            _Text(row, reader, given[row]).read(prefixes[row], known[row], required[row], banned[row], lengths[row])
            for row in range(rows)
        ]
        return Rules(
            given=torch.tensor([t.given for t in texts], dtype=torch.long).view(rows, max_length),
            closed=torch.tensor([t.closed for t in texts], dtype=torch.bool).view(rows, max_length),
            required=tuple(t.required for t in texts),
            banned=tuple(t.banned for t in texts),
            least=torch.tensor([t.least for t in texts], dtype=torch.long),
            most=torch.tensor([t.most for t in texts], dtype=torch.long),
            lexicon=lexicon,
        )


def _is_words(value: Any) -> bool:
    return not isinstance(value, str) and isinstance(value, Sequence) and all(isinstance(v, str) for v in value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_length(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_whole, value)))


_FORMS = {
    "prefix": "a string",
    "known": 'a mapping of positions to words, such as {3: "doctor"},',
    "required": "a list of words",
    "banned": "a list of words",
    "length": "a tuple (least, most)",
}


def _each(name: str, value: Any, rows: int, is_one: Callable[[Any], bool]) -> list[Any]:
    """One entry for each row, None where nothing is known."""
    if hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if value is None or is_one(value):
        return [value] * rows
    if not isinstance(value, str) and isinstance(value, Sequence) and len(value) == rows:
        if all(entry is None or is_one(entry) for entry in value):
            return list(value)
    raise InputError(
        f"The constraint {name!r} cannot be read for {rows} vectors.",
        f"Pass {_FORMS[name]} for all vectors, or a list with one such entry (or None) for each of them.",
    )


class _Reader:
    """Turns words into token ids, each word once."""

    def __init__(self, tokenizer: Tokenizer, lexicon: Lexicon) -> None:
        self.tokenizer, self.lexicon = tokenizer, lexicon
        self.never = frozenset(tokenizer.banned.tolist())
        self._read: dict[str, list[int]] = {}

    def ids(self, text: str, whole: bool) -> list[int]:
        """Token ids of a text, or of a whole word inside one; empty where the tokenizer does not know them."""
        if whole and self.tokenizer.marks_spaces:
            text = " " + text.strip()
        if text not in self._read:
            ids = self.tokenizer.encode([text])[0]
            self._read[text] = ids if self.never.isdisjoint(ids) else []
        return self._read[text]


class _Text:
    """Gathers the constraints of one text and checks them against each other."""

    def __init__(self, row: int, reader: _Reader, given: list[int]) -> None:
        self.row, self.reader, self.tokenizer, self.lexicon = row, reader, reader.tokenizer, reader.lexicon
        self.given, self.max_length = given, len(given)
        self.closed = [False] * self.max_length
        self.required: tuple[Word, ...] = ()
        self.banned: tuple[str, ...] = ()
        self.least, self.most = 1, self.max_length
        if any(token >= 0 and (token >= self.tokenizer.size or token in reader.never) for token in given):
            self._refuse(
                "A given token is a special id or lies outside the vocabulary", "Give only ids of ordinary tokens."
            )

    def read(
        self,
        prefix: str | None,
        known: Mapping[int, str] | None,
        required: Sequence[str] | None,
        banned: Sequence[str] | None,
        length: int | tuple[int, int] | None,
    ) -> _Text:
        """Take all constraints of the text, in an order in which each can be checked."""
        if length is not None:
            least, most = length if isinstance(length, tuple) else (length, length)
            self._length(int(least), int(most))
        if prefix:
            self._put(self._ids("prefix", prefix), 0, "prefix", prefix)
        for position, word in (known or {}).items():
            if not _is_whole(position) or position < 0:
                self._refuse(
                    f"The position {position!r} of a known word is not a whole number from 0", "Count tokens from 0."
                )
            ids = self._ids("known", word)
            self._put(ids, int(position), "known word", word)
            self._close(position + len(ids), word)
        last = max((i for i, token in enumerate(self.given) if token >= 0), default=-1)
        if last >= self.most:
            self._refuse(
                f"Position {last} is known, but the text has at most {self.most} tokens",
                "Allow longer texts, or give fewer known words.",
            )
        patterns = {self.lexicon.pattern(self._ids("banned", word)): word for word in banned or ()}
        self.banned = tuple(patterns)
        self._refuse_banned(self.given, patterns, "the known tokens")
        words = [(word, tuple(self._ids("required", word))) for word in required or ()]
        for word, tokens in words:
            self._refuse_banned(list(tokens), patterns, f"the required {word!r}")
        self._require([tokens for _, tokens in words])
        return self

    def _refuse(self, what: str, do: str) -> None:
        raise InputError(f"{what} (row {self.row}).", do)

    def _ids(self, kind: str, text: str) -> list[int]:
        """Token ids of a known, required or banned text."""
        ids = self.reader.ids(text, kind != "prefix")
        if not ids:
            self._refuse(
                f"The {kind} text {text!r} is empty or holds characters that the tokenizer does not know",
                "Change it or leave it out.",
            )
        return ids

    def _length(self, least: int, most: int) -> None:
        if not 1 <= least <= most or least > self.max_length:
            self._refuse(
                f"The length range {least} to {most} holds no length from 1 to {self.max_length}",
                f"Use whole numbers with 1 <= least <= most and least <= {self.max_length}.",
            )
        self.least, self.most = least, min(most, self.max_length)

    def _put(self, ids: list[int], position: int, kind: str, text: str) -> None:
        if position + len(ids) > self.most:
            self._refuse(
                f"The {kind} {text!r} takes the positions {position} to {position + len(ids) - 1}, "
                f"but the text has at most {self.most} tokens",
                "Shorten it, or allow a longer text.",
            )
        for i, token in enumerate(ids, position):
            if self.given[i] not in (-1, token):
                self._refuse(
                    f"The {kind} {text!r} and another known token differ at position {i}", "Keep only one of them."
                )
            self.given[i] = token

    def _close(self, position: int, word: str) -> None:
        if position >= self.max_length:
            return
        if self.given[position] >= 0 and self.lexicon.is_glued(self.given[position]):
            self._refuse(f"The known word {word!r} is continued by the token after it", "Give the whole word.")
        self.closed[position] = True

    def _refuse_banned(self, tokens: list[int], patterns: Mapping[str, str], where: str) -> None:
        found = self.lexicon.holds(tokens, tuple(patterns))
        if found is not None:
            self._refuse(f"The banned {patterns[found]!r} is in {where}", "Leave one of the two out.")

    def _require(self, words: list[Word]) -> None:
        """Leave out what the known tokens hold; see that the others find room."""
        free = list(self.given)
        left: list[Word] = []
        for word in sorted(words, key=len, reverse=True):
            place = self._held(word, free)
            if place is None:
                left.append(word)
                continue
            for i in range(place, place + len(word)):
                free[i] = -1
            self._close(place + len(word), self.tokenizer.decode(word))
        self.required = tuple(left)
        sizes = [len(word) for word in left]
        if not fits(free_runs(self.given, 0, self.most, self.lexicon), sizes):
            self._refuse(
                f"The required words take {sum(sizes)} tokens, which find no room in a text of at most {self.most} "
                "tokens beside the known ones",
                "Require fewer words, or allow a longer text.",
            )

    def _held(self, word: Word, free: list[int]) -> int | None:
        """The first place where known tokens spell `word` as a whole word."""
        for place in range(self.max_length - len(word) + 1):
            end = place + len(word)
            if tuple(free[place:end]) == word:
                if end == self.max_length or self.given[end] < 0 or not self.lexicon.is_glued(self.given[end]):
                    return place
        return None


def given_tokens(given: Any, rows: int) -> torch.Tensor:
    """Turn known tokens into int64 (rows, up to max_length), -1 where a token is unknown.

    Args:
        given: array or nested list of whole numbers, (rows, up to max_length), or one row where `rows` is 1.
        rows: number of vectors.

    Raises:
        InputError: not whole numbers, or another number of rows.
    """
    known = np.asarray(given)
    if known.dtype.kind not in "iu":
        raise InputError("Given tokens are not whole numbers.", "Pass token ids, -1 where the token is unknown.")
    if known.ndim == 1 and rows == 1:
        known = known[None]
    if known.ndim != 2 or len(known) != rows:
        raise InputError(
            f"Given tokens have shape {known.shape} for {rows} vectors.",
            "Pass one row of token ids for each vector, -1 where the token is unknown.",
        )
    return torch.from_numpy(known.astype(np.int64))
