"""What a tokenizer.json may ask for: it can come from anybody, and the library that runs it bounds nothing.

Contents: `check_spec`, `MOST_TOKENS`.

A normaliser that replaces "a" by "aaaa" five times in a row makes a thousand letters of one; a regular expression can
take minutes for a line; a token with the id 50,000,000 makes every table that long. So the parts are those that real
tokenizers have, and how much longer they make a text is multiplied out and bounded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unembed.errors import DataError

MOST_TOKENS = 1 << 21
_MOST_CHARACTERS = 1024
"""Of one entry of a vocabulary."""
_MOST_GROWTH = 20_000.0
"""A text may become this many times as long. Albert's normalisers reach 3,600 with the worst letter of each."""

_GROWTH = {
    "BertNormalizer": 12.0,
    "BertPreTokenizer": 1.0,
    "ByteLevel": 4.0,
    "Digits": 1.0,
    "Fuse": 1.0,
    "Lowercase": 3.0,
    "Metaspace": 2.0,
    "NFC": 3.0,
    "NFD": 4.0,
    "NFKC": 18.0,
    "NFKD": 18.0,
    "Nmt": 1.0,
    "Punctuation": 1.0,
    "Split": 1.0,
    "Strip": 1.0,
    "StripAccents": 1.0,
    "UnicodeScripts": 1.0,
    "Whitespace": 1.0,
    "WhitespaceSplit": 1.0,
    "ByteFallback": 1.0,
    "BPEDecoder": 1.0,
    "CTC": 1.0,
    "WordPiece": 2.0,
    "CharDelimiterSplit": 1.0,
}
_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_PLAIN = re.compile(r"\\[pP]\{[^{}]*\}|\\[^0-9kg]|\[(?:\\.|[^\]\\])*\]", re.DOTALL)


def _wrong(what: str) -> DataError:
    return DataError(f"The tokenizer cannot be used: {what}.", "Use a tokenizer.json file of a model that you know.")


def _expression(pattern: str) -> None:
    """Refuse a regular expression that may take more than quadratic time: repeated groups, references, many stars."""
    bare = re.sub(r"(?<=[*+?])\+", "", _PLAIN.sub("x", pattern))  # ++ gives nothing back
    repeated = re.search(r"\)[*+{]|\)\?[*+{]|[*+}][*+{]|\(\?[<P&R0-9(]|\\[0-9kg]", bare)
    branches = [len(re.findall(r"[*+]|\{\d+,\}", part)) for part in bare.split("|")]
    counts = [int(n) for n in re.findall(r"\{(?:\d*,)?(\d+)\}", bare)]
    if len(pattern) > _MOST_CHARACTERS or repeated or max(branches) > 3 or max(counts, default=0) > 64:
        raise _wrong("it holds a regular expression that may take very long")


def _pattern(part: Mapping[str, Any]) -> float:
    """How short a match of a pattern may be, in characters."""
    pattern = part.get("pattern")
    kinds = pattern if isinstance(pattern, dict) else {}
    known = kinds.get("String", kinds.get("Regex"))
    if not isinstance(known, str) or not known or len(kinds) != 1:
        raise _wrong("it replaces or splits at nothing")
    if "Regex" in kinds:
        _expression(known)
        return 0.5  # it may match between two characters
    return float(len(known))


def _charsmap(part: Mapping[str, Any]) -> float:
    """The longest replacement of a sentencepiece table: a trie, then strings that end with a zero."""
    try:
        data = base64.b64decode(str(part.get("precompiled_charsmap") or ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong("its table of characters is not base64") from error
    size = int.from_bytes(data[:4], "little")
    strings = data[4 + size :]
    if not 0 < size < len(data) or size % 4 or not strings.endswith(b"\0"):
        raise _wrong("its table of characters is damaged")
    return float(max(1, max(len(one) for one in strings.split(b"\0"))))


def _growth(part: Any, depth: int = 0) -> float:
    """How many times as long a part may make a text.

    Raises:
        DataError: a part of an unknown kind, or one that is not bounded.
    """
    if part is None:
        return 1.0
    if not isinstance(part, dict) or not isinstance(part.get("type"), str) or depth > 4:
        raise _wrong("its parts are not known")
    kind = part["type"]
    if kind == "Sequence":
        lists = [value for value in part.values() if isinstance(value, list)]
        total = 1.0
        for one in [inner for values in lists for inner in values][:100]:
            total *= _growth(one, depth + 1)
            if total > _MOST_GROWTH:
                raise _wrong(f"it makes a text more than {_MOST_GROWTH:.0f} times as long")
        if sum(map(len, lists)) > 100:
            raise _wrong("it has more than 100 parts")
        return total
    if kind == "Split":
        _pattern(part)
    if kind == "Replace":
        content = part.get("content")
        if not isinstance(content, str) or len(content) > _MOST_CHARACTERS:
            raise _wrong("it replaces with something that is not a short text")
        return max(1.0, len(content) / _pattern(part))
    if kind == "Prepend":
        if not isinstance(part.get("prepend"), str) or len(part["prepend"]) > 16:
            raise _wrong("it prepends something that is not a short text")
        return 2.0
    if kind == "Precompiled":
        return _charsmap(part)
    if kind not in _GROWTH:
        raise _wrong(f"this program does not know its part {kind[:40]!r}")
    return _GROWTH[kind]


def _entries(model: Mapping[str, Any]) -> Sequence[Any]:
    """Tokens of a model's vocabulary, whose ids are in bounds."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        if not all(type(i) is int and 0 <= i < MOST_TOKENS for i in vocabulary.values()):
            raise _wrong(f"an id of its vocabulary is not a whole number from 0 to {MOST_TOKENS - 1}")
        return list(vocabulary)
    if not isinstance(vocabulary, list):
        raise _wrong("it has no vocabulary")
    for entry in vocabulary:
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[1]) not in (int, float):
            raise _wrong("an entry of its vocabulary is not a pair of a token and a number")
        if not -1e30 < entry[1] < 1e30:
            raise _wrong("a score of its vocabulary is not finite")
    return [entry[0] for entry in vocabulary]


def check_spec(spec: Mapping[str, Any]) -> None:
    """Refuse a tokenizer whose parts are unknown or not bounded.

    Args:
        spec: the parsed tokenizer.json.

    Raises:
        DataError: which part it is.
    """
    model, added = spec.get("model"), spec.get("added_tokens") or []
    if not isinstance(model, dict):
        raise _wrong("it has no model")
    kind = model.get("type", "BPE" if "merges" in model else "WordPiece")
    if kind not in _MODELS:
        raise _wrong("this program does not know its model")
    longest = model.get("max_input_chars_per_word", 100)
    if type(longest) is not int or not 0 <= longest <= 1000:
        raise _wrong("its words may be longer than 1000 characters")
    if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
        raise _wrong("its added tokens are not a list")
    if not all(type(one.get("id")) is int and 0 <= one["id"] < MOST_TOKENS for one in added):
        raise _wrong(f"an added token has an id that is not a whole number from 0 to {MOST_TOKENS - 1}")
    tokens = [*_entries(model), *(one.get("content") for one in added)]
    if not all(isinstance(token, str) and len(token) <= _MOST_CHARACTERS for token in tokens):
        raise _wrong(f"an entry of its vocabulary is not a text of at most {_MOST_CHARACTERS} characters")
    if len(tokens) > MOST_TOKENS or not all(one["content"] for one in added):
        raise _wrong("it has too many tokens, or an added one that is empty")
    if _growth(spec.get("normalizer")) * _growth(spec.get("pre_tokenizer")) > _MOST_GROWTH:
        raise _wrong(f"it makes a text more than {_MOST_GROWTH:.0f} times as long")
    _growth(spec.get("decoder"))
