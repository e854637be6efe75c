"""Tokenizers of real models are in bounds; those that would eat memory or time are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from unembed.data.tokenization import Tokenizer
from unembed.data.tokenizer_bounds import check_spec
from unembed.encoders.hashing import tokenizer_json
from unembed.errors import DataError

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"  # noqa: RUF001
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def spec(**parts: Any) -> dict[str, Any]:
    return {**json.loads(tokenizer_json()), **parts}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replaces(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize("pattern", [LLAMA, O200K, CL100K, BLOOM, CLIP, r"\d", r" {2,}", r"\s+"])
def test_expressions_of_real_tokenizers(pattern: str) -> None:
    check_spec(spec(pre_tokenizer=split(pattern)))
    assert Tokenizer.from_json(json.dumps(spec(pre_tokenizer=split(pattern)))).encode(["the house"])


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        r"(\w+\s?)*z",
        "(?:x{1,9}){2,}",
        r"(.)\1",
        "(?<=a)b",
        "a*a*a*a*a*b",
        "a{1,1000}",
        "(?R)",
        "x" * 2000,
    ],
)
def test_expressions_that_may_take_very_long(pattern: str) -> None:
    with pytest.raises(DataError, match="very long"):
        check_spec(spec(pre_tokenizer=split(pattern)))


def test_parts_of_real_tokenizers() -> None:
    """Albert's and Llama's normalisers, Gemma's decoder."""
    albert = [replaces('"', String="``"), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    charsmap = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhYmMA"}
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    check_spec(spec(normalizer={"type": "Sequence", "normalizers": [*albert, charsmap]}, pre_tokenizer=space))
    llama = [{"type": "Prepend", "prepend": "\u2581"}, replaces("\u2581", String=" ")]
    gemma = [replaces(" ", String="\u2581"), {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    check_spec(
        spec(
            normalizer={"type": "Sequence", "normalizers": llama},
            decoder={"type": "Sequence", "decoders": [*gemma, strip]},
        )
    )


@pytest.mark.parametrize(
    "part",
    [
        {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABh"},
        {"type": "Precompiled", "precompiled_charsmap": "////////"},
        {"type": "Precompiled", "precompiled_charsmap": 7},
        {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 4},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 101},
        {"type": "Unheard"},
        {"type": ["NFC"]},
        [],
    ],
)
def test_parts_that_are_not_bounded(part: Any) -> None:
    with pytest.raises(DataError, match="The tokenizer cannot be used"):
        check_spec(spec(normalizer=part))


def test_what_the_library_raises_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare exceptions, and panics, which are no exceptions of Python's."""
    broken = spec(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}, added_tokens=[])
    with pytest.raises(DataError, match="fails on a text") as caught:
        Tokenizer.from_json(json.dumps(broken)).encode(["zebra"])
    assert caught.value.do.endswith(".")

    class PanicException(BaseException):
        """As pyo3 names it."""

    def panic(*args: Any, **options: Any) -> None:
        raise PanicException("index out of bounds\nat trie.rs")

    tokenizer = Tokenizer.from_json(tokenizer_json())
    monkeypatch.setattr(tokenizer, "_tokenizer", type("Rust", (), {"encode_batch_fast": panic})())
    with pytest.raises(DataError, match="index out of bounds at trie"):
        tokenizer.encode(["a"])
