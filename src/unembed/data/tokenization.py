"""Token ids for the denoiser: the encoder's own tokenizer, without special tokens.

Contents: `Tokenizer` (a wrapper of a `tokenizers` JSON file), `Truncated` (ids and the text that is embedded),
`cut_texts`.

The target of inversion is exactly what the encoder saw, so a text is cut to the limit in tokens, decoded back, and
that text is embedded; encoding it again gives the same ids (the round trip). Texts with special or unknown tokens
are dropped, and special ids are never output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from unembed.data.detokenizer import join_words
from unembed.data.tokenizer_bounds import MOST_TOKENS, check_spec
from unembed.errors import DataError, InputError

if TYPE_CHECKING:
    import numpy as np

_ROLES: dict[str, tuple[str, ...]] = {
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "eos": ("[SEP]", "</s>", "<eos>", "<|endoftext|>", "<|im_end|>"),
    "bos": ("[CLS]", "<s>", "<bos>", "<|startoftext|>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
}
_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")


class Truncated(NamedTuple):
    """A text cut to the limit: `ids` (no special tokens) and the `text` they decode to, which is what is embedded."""

    ids: list[int]
    text: str


class Tokenizer:
    """A tokenizer with named special ids, a list of ids that are never output, and two ways back to text.

    A special token that the tokenizer does not know (GPT-2 has no mask) gets an id after the vocabulary, so `size`
    may exceed the tokenizer's own count.

    Attributes:
        size: number of ids, virtual special ids included.
        mask_id, eos_id, bos_id, pad_id, unk_id: special ids, all distinct.
        banned: sorted int64 ids that are never output: special, unknown and unused ones.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        """Build from a parsed tokenizer JSON; use `from_json`."""
        import numpy as np
        import tokenizers

        check_spec(spec)
        whole = {**spec, "truncation": None, "padding": None}
        self._json = json.dumps(whole, ensure_ascii=False)
        with _of_the_library("The tokenizer JSON cannot be read"):  # the post-processor only adds special tokens
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**whole, "post_processor": None}))
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values(), default=-1) + 1
        if self.size > MOST_TOKENS:
            raise DataError(f"The tokenizer has an id above {MOST_TOKENS}.", "Use a tokenizer.json file.")
        specials = {t["id"] for t in spec.get("added_tokens") or [] if t.get("special") and t["id"] < self.size}
        roles: dict[str, int] = {}
        for role, names in _ROLES.items():
            known = [vocabulary[n] for n in names if n in vocabulary and vocabulary[n] not in roles.values()]
            if known:
                roles[role] = known[0]
            else:
                roles[role] = self.size
                self.size += 1
        self.mask_id, self.eos_id, self.bos_id, self.pad_id, self.unk_id = (roles[role] for role in _ROLES)
        unused = {i for token, i in vocabulary.items() if _UNUSED.fullmatch(token)}
        holes = set(range(self.size)) - set(vocabulary.values())
        self.banned: np.ndarray = np.array(sorted(specials | unused | holes | set(roles.values())), dtype=np.int64)
        self._banned = frozenset(self.banned.tolist())
        decoder = spec.get("decoder") or {}
        self._prefix: str | None = decoder.get("prefix", "##") if decoder.get("type") == "WordPiece" else None

    @classmethod
    def from_json(cls, data: bytes | str) -> Tokenizer:
        """Read the contents of a `tokenizer.json` file; its truncation and padding settings are ignored.

        Raises:
            DataError: not UTF-8, not JSON or not a tokenizer.
        """
        try:
            spec = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DataError(f"The tokenizer is not JSON ({error}).", "Use a tokenizer.json file.") from error
        if not isinstance(spec, dict) or "model" not in spec:
            raise DataError("The JSON holds no tokenizer.", "Use a tokenizer.json file.")
        return cls(spec)

    def to_json(self) -> str:
        """The tokenizer as JSON, without truncation and padding; `from_json(to_json())` is the same tokenizer."""
        return self._json

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal sha256 of `to_json()`: shards and checkpoints are matched by it."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    @cached_property
    def _pieces(self) -> list[str]:
        """Surface of every id for WordPiece: a leading space starts a word; empty for banned ids."""
        prefix = self._prefix or ""
        pieces = [""] * self.size
        for token, i in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if i in self._banned:
                continue
            glued = token.startswith(prefix) and len(token) > len(prefix)
            pieces[i] = token[len(prefix) :] if glued else " " + token
        return pieces

    @cached_property
    def surfaces(self) -> list[str]:
        """Characters of every id, a leading space where it begins a word or a mark; empty for banned ids."""
        if self._prefix is not None:
            return self._pieces
        out = [""] * self.size
        for token, i in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if i not in self._banned:
                text = token.replace("\u0120", " ").replace("\u2581", " ")
                out[i] = text if text[:1].isalnum() or text.startswith(" ") else " " + text
        return out

    @property
    def marks_spaces(self) -> bool:
        """Whether tokens that begin a word hold the space before it (byte-level BPE), unlike WordPiece."""
        return self._prefix is None

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary entries of `ids` as they are ("##ing"), for traces; virtual ids are named by their role."""
        names = {self.mask_id: "[MASK]", self.eos_id: "[EOS]", self.bos_id: "[BOS]", self.pad_id: "[PAD]"}
        return [self._tokenizer.id_to_token(int(i)) or names.get(int(i), "[UNK]") for i in ids]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens and without truncation.

        Raises:
            InputError: an item is not a string, or holds characters that are not valid Unicode (lone surrogates).
            DataError: the tokenizer itself fails.
        """
        texts = list(texts)
        try:
            with _of_the_library("The tokenizer fails on a text"):
                return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        except (TypeError, UnicodeError) as error:
            row = next((k for k, text in enumerate(texts) if not _is_text(text)), 0)
            raise InputError(f"Text {row} is not a valid Unicode string.", "Pass a list of strings.") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` that is embedded: word pieces joined, marks set apart by spaces; banned ids are skipped."""
        if self._prefix is not None:
            pieces = self._pieces
            return "".join([pieces[i] for i in ids]).strip()
        real = [int(i) for i in ids if i not in self._banned]
        with _of_the_library("The tokenizer cannot make text of its tokens"):
            return str(self._tokenizer.decode(real, skip_special_tokens=False)).strip()

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids` for display: "check-out", "don't", "3.5", "(a)"; the letters are those of `decode`."""
        if self._prefix is None:
            return self.decode(ids)
        return join_words(self.decode(ids).split())

    def truncate(self, texts: Sequence[str], max_length: int) -> list[Truncated | None]:
        """Cut each text to `max_length` tokens and decode it back.

        Args:
            texts: texts of any length.
            max_length: greatest number of content tokens, at least 1.

        Returns:
            One entry per text, None where the text is empty, not valid Unicode, or contains special or unknown ids.
            For the others `encode([entry.text])[0] == entry.ids` holds.
        """
        if max_length < 1:
            raise InputError(f"The limit is {max_length}.", "Choose at least 1 token.")
        result: list[Truncated | None] = [None] * len(texts)
        rows = [k for k, text in enumerate(texts) if _is_text(text)]
        cut = [ids[:max_length] for ids in self.encode([texts[k] for k in rows])]
        for _ in range(3):  # a cut inside a word may tokenise anew; it settles at once for WordPiece
            kept = [(k, ids) for k, ids in zip(rows, cut, strict=True) if ids and self._banned.isdisjoint(ids)]
            decoded = [self._whole(ids, texts[k]) for k, ids in kept]
            again = self.encode(decoded)
            rows, cut = [], []
            for (k, ids), text, ids_again in zip(kept, decoded, again, strict=True):
                if len(ids_again) <= max_length:
                    if ids_again and self._banned.isdisjoint(ids_again):
                        result[k] = Truncated(ids_again, text)
                else:
                    rows.append(k)
                    cut.append(ids[:-1])
            if not rows:
                break
        return result

    def _whole(self, ids: Sequence[int], text: str) -> str:
        """The decoded text without a character that the cut broke: byte-level tokens may end inside one."""
        decoded = self.decode(ids)
        return decoded if "\ufffd" in text else decoded.rstrip("\ufffd").rstrip()


@contextlib.contextmanager
def _of_the_library(what: str) -> Iterator[None]:
    """Say in two sentences what the Rust library raises: bare exceptions, and panics, which are none."""
    try:
        yield
    except (TypeError, UnicodeError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(f"{what} ({said}).", "Use a tokenizer.json file of a model that you know.") from error


def cut_texts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int, encoder: str) -> list[str]:
    """Cut texts to what is embedded of them.

    Args:
        tokenizer: of the encoder.
        texts: any strings.
        max_length: tokens.
        encoder: its name, for messages.

    Raises:
        InputError: a text is empty or holds characters that the tokenizer does not know.
    """
    out = []
    for row, part in enumerate(tokenizer.truncate(texts, max_length)):
        if part is None:
            raise InputError(
                f"Text {row} is empty or holds characters that {encoder} does not know.", "Remove or change it."
            )
        out.append(part.text)
    return out


def _is_text(value: object) -> bool:
    """Whether `value` is a string that can be written as UTF-8."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
