"""An encoder without weights: hashed bags of tokens and of tokens at positions, for tests and examples.

Contents: `HashingEncoder`.

v = sum_i [ T(token_i) + T(token_i) * S(i) ], scaled to length 1, where T(token) holds pseudo-random
numbers in [-1, 1) and S(i) signs, both from SHAKE-256 of the token's characters or of the position, so the vectors
are the same on every machine. The first term says which tokens a text holds, the second where they are. The
tokenizer is a WordPiece over common English words, some endings and all ASCII characters, built here without a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from unembed.encoders.identity import EncoderIdentity, make_identity
from unembed.errors import EncoderError

if TYPE_CHECKING:
    import numpy as np
    import tokenizers

_MOST = 16_384
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = (
    "able about above across act action actually add added after again against age air all allow almost along already "
    "also although always am american among amount an and another any anything are area around as ask asked "
    "associated at available away back bad based be became because become been before began behind being believe "
    "below best better between big bit black blood body book both brain build business but by call called came can "
    "cannot car card care case cause cell certain change character check child children choose city class clear close "
    "code come common community company condition content control cost could country course create current data date "
    "day days death default design did didn different directly disease do doctor does doesn doing don done door down "
    "due during each early easy either else end energy enough error especially even event ever every everything "
    "example experience eyes face fact family far father feature feel felt few field file find first five following "
    "food for force form found four free friend from full function further future game general get girl give given go "
    "going good got government great group had half hand hands hard has have having he head health hear heard heart "
    "help her here high him himself his history home hope hotel house how however human idea if important in include "
    "individual information instead interest into is isn issue it item its itself job just keep key kind knew know "
    "known lady language large last later law learn least leave left less let letter level library life light like "
    "line list little live local location long look lot love low made main make man many may me mean member memory "
    "men method might mind minutes miss model moment money month more morning most mother move movie mr mrs much "
    "multiple must my name national near need never new next nice night no non not note nothing now number object of "
    "off office often oh old on once one only open or order other our out over own page pain paper part past patient "
    "people per period person place plan play please point policy poor possible power present price problem process "
    "product program project public put quality question quite rate rather re read real really red report required "
    "research result return right risk river road role room rule run said same saw say school sea search second "
    "section security see seem seen self send sense server service set several shall share she ship short should show "
    "side simple since single sir site size small so social some something soon source space specific standard start "
    "state states still story street strong structure such summer support sure system table take talk team tell term "
    "test than that the their them then there these they thing think third this those though thought three through "
    "thus time to today together told too took top town train travel treatment tree true try turn two type under "
    "understand united until up upon us use used user using value various very view voice wait walk want war was "
    "watch water way we web week well went were what when where whether which while white who whole why wife will "
    "wind window winter wish with within without woman women won word work world would write year years yes yet you "
    "young your "
).split()
_ENDINGS = (
    "able al an ance ant ary ate ation ed el en ence ent er ers es est ful ia ial ic ical ies ing ion is ise ish ism "
    "ist ity ive ize ke le less ling ly man ment mer ness on or ous ow re ri ry s ship st ster t ter th tic tion ton "
    "tor ty ure ville ward way y "
).split()


class HashingEncoder:
    """Deterministic vectors from hashed tokens; see the module for the formula.

    Args:
        dimension: length of a vector, from 2 to 16,384.
    """

    def __init__(self, dimension: int = 64) -> None:
        """Build the table of token vectors."""
        if not isinstance(dimension, int) or not 2 <= dimension <= _MOST:
            raise EncoderError(
                f"The hashing encoder cannot make vectors of {dimension!r} dimensions.",
                f'Choose from 2 to {_MOST}, for example "hashing:64".',
            )
        self.dimension = dimension
        self.name = f"hashing:{dimension}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.dimension} dimensions>"

    @cached_property
    def identity(self) -> EncoderIdentity:
        """The identity; its revision is the hash of the tokenizer."""
        revision = "sha256:" + hashlib.sha256(tokenizer_json().encode()).hexdigest()
        return make_identity(self, name=self.name, revision=revision)

    def tokenizer_json(self) -> str:
        """The WordPiece tokenizer, lower-casing, as JSON."""
        return tokenizer_json()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 (n, dimension), each row of length 1."""
        import numpy as np

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        encodings = _tokenizer().encode_batch_fast(list(texts), add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            ids = encoding.ids or [_SPECIALS.index("[CLS]")]
            vectors[row] = (self._table[ids] * (1 + self._signs(len(ids)))).sum(axis=0)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    @cached_property
    def _table(self) -> np.ndarray:
        """T: float32 (vocabulary, dimension)."""
        import numpy as np

        vocabulary = sorted(_tokenizer().get_vocab().items(), key=lambda item: item[1])
        noise = b"".join(hashlib.shake_256(b"token " + t.encode()).digest(2 * self.dimension) for t, _ in vocabulary)
        return (np.frombuffer(noise, dtype="<i2").reshape(-1, self.dimension) / 32768).astype(np.float32)

    def _signs(self, n: int) -> np.ndarray:
        """S of the first n positions: float32 (n, dimension) of -1 and 1."""
        import numpy as np

        known: np.ndarray = self.__dict__.setdefault("_sign_rows", np.zeros((0, self.dimension), dtype=np.float32))
        if len(known) < n:
            noise = b"".join(hashlib.shake_256(b"position %d" % i).digest(self.dimension) for i in range(max(n, 64)))
            signs = (np.frombuffer(noise, dtype=np.uint8).reshape(-1, self.dimension) & 1).astype(np.float32) * 2 - 1
            known = self.__dict__["_sign_rows"] = signs
        return known[:n]


@lru_cache(maxsize=1)
def _tokenizer() -> tokenizers.Tokenizer:
    """Parse the tokenizer once a process."""
    import tokenizers

    return tokenizers.Tokenizer.from_str(tokenizer_json())


@lru_cache(maxsize=1)
def tokenizer_json() -> str:
    """A lower-casing WordPiece tokenizer that can spell any ASCII text."""
    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    alphanumeric = [c for c in characters if c.isalnum()]
    entries = [*_SPECIALS, *characters, *(w for w in _WORDS if len(w) > 1)]
    entries += ["##" + p for p in dict.fromkeys([*alphanumeric, *_ENDINGS])]
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            | {"special": True}
            for i, token in enumerate(_SPECIALS)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(entries)},
        },
    }
    return json.dumps(spec)
