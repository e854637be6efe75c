"""A WordPiece tokenizer of 26 tokens that fits the tiny denoiser, and a judge of texts that shares no code with it."""

from __future__ import annotations

import tokenizers
import torch

from tests.helpers.tiny import CountingDenoiser, tiny_denoiser
from unembed.data.tokenization import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = "new york city play playing un red blue a the doctor x ' . don t ##ing ##s ##able ##b ##york".split()
WORDS = [
    "new",
    "new york",
    "york city",
    "play",
    "playing",
    "un",
    "unable",
    "red",
    "a",
    "ab",
    "doctor",
    "don't",
    "plays",
]


def tiny_tokenizer() -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(SPECIAL + PIECES)}
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    model.decoder = tokenizers.decoders.WordPiece()
    model.add_special_tokens(SPECIAL)
    return Tokenizer.from_json(model.to_str())


def word_denoiser(canvas: str, max_length: int, seed: int = 0) -> CountingDenoiser:
    denoiser = tiny_denoiser(canvas, max_length=max_length, vocab=len(SPECIAL) + len(PIECES), seed=seed)
    denoiser.banned[1] = True  # [UNK]
    with torch.no_grad():
        denoiser.head.bias[denoiser.config.eos_id] += 1.0  # so that drafts end at different places
    return denoiser


def spaced(text: str) -> str:
    """Words and marks, each between single spaces."""
    return " " + text.replace("'", " ' ").replace("  ", " ") + " "


def count_word(text: str, word: str) -> int:
    """How often `word` stands in `text` as whole words, overlaps counted."""
    text, word = spaced(text), spaced(word)
    return sum(text.startswith(word, i) for i in range(len(text)))
