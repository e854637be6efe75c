"""Latent semantic analysis: TF-IDF weights of tokens, reduced by a truncated SVD (Deerwester et al. 1990).

Contents: `LsaEncoder`, `fit_lsa`, `load_lsa`.

A text with token counts c becomes x = (1 + ln c) * idf, scaled to length 1, and its vector is x V, scaled to length 1;
V (tokens, d) are the right singular vectors of the fitted texts. Counts are all it sees: two texts of the same tokens
in another order have the same vector. Tokens are MiniLM's word pieces, so that texts are cut and dropped as they are
for the default encoder. scikit-learn fits; a folder keeps the result as safetensors and JSON, nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.encoders.identity import PROBES, EncoderIdentity, make_identity
from unembed.errors import EncoderError, InputError
from unembed.files import atomic_path, atomic_write_bytes, read_json, sha256_file, write_json

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

FORMAT = 1
_CONFIG, _WEIGHTS, _TOKENIZER = "lsa.json", "lsa.safetensors", "tokenizer.json"
_BLOCK = 4096


class LsaEncoder:
    """Vectors from fitted weights; see the module for the formula.

    Args:
        name: the name under which `load_encoder` finds it, "lsa:FOLDER".
        tokenizer_json: tokenizer whose tokens are counted.
        idf: (V,) float32, inverse document frequency of each token id; 0 for tokens of no fitted text.
        components: (V, d) float32, right singular vectors.
        revision: see `EncoderIdentity`.

    Attributes:
        fitted: what `lsa.json` says of the fit: texts, different tokens, explained variance, seed.

    Raises:
        EncoderError: parts that do not fit together.
    """

    def __init__(
        self, name: str, tokenizer_json: str, idf: np.ndarray, components: np.ndarray, revision: str = ""
    ) -> None:
        """Check the parts and open the tokenizer."""
        self._tokenizer = _open_tokenizer(tokenizer_json)
        size = _size(self._tokenizer)
        if idf.shape != (size,) or components.ndim != 2 or len(components) != size:
            raise EncoderError(
                f"The weights of {name!r} have shapes {idf.shape} and {components.shape}, its tokenizer {size} tokens.",
                "Fit it again with `unembed fit-lsa`.",
            )
        self.name = name
        self.dimension = int(components.shape[1])
        self.fitted: dict[str, Any] = {}
        self._json = tokenizer_json
        self._idf, self._components, self._revision = idf, components, revision

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.dimension} dimensions>"

    @cached_property
    def identity(self) -> EncoderIdentity:
        """The identity; its revision is the hash of the weights."""
        return make_identity(self, name=self.name, revision=self._revision)

    def tokenizer_json(self) -> str:
        """The tokenizer whose tokens are counted, as JSON."""
        return self._json

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 (n, dimension), each row of length 1, or 0 where no token of a text was fitted.

        Raises:
            InputError: an item is not a string.
        """
        import numpy as np

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _BLOCK):
            weights = _weigh(_counts(self._tokenizer, texts[start : start + _BLOCK]), self._idf)
            vectors[start : start + _BLOCK] = weights @ self._components
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, lengths, out=vectors, where=lengths > 0)
        return vectors


def fit_lsa(
    texts: Iterable[str],
    out: str | Path,
    tokenizer_json: str,
    dimension: int = 512,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> LsaEncoder:
    """Fit on texts and write a folder that `load_lsa` and the name "lsa:FOLDER" load.

    Args:
        texts: read once; their counts stay in memory, about 100 bytes per text.
        out: the folder; made where absent.
        tokenizer_json: the tokenizer, as `tokenizers` JSON.
        dimension: length of a vector.
        seed: of the randomised SVD (Halko et al. 2011, arXiv 0909.4061).
        progress: called with the number of texts of each block read.

    Raises:
        EncoderError: a folder that already holds another encoder, fewer texts or tokens than dimensions, or texts that
            share no token with a probe text, so that an identity could not be checked.
    """
    import numpy as np
    from scipy import sparse
    from sklearn.decomposition import TruncatedSVD

    folder = Path(out)
    if (folder / _CONFIG).exists():
        raise EncoderError(f"{folder} already holds a fitted encoder.", "Choose another folder, or remove it.")
    tokenizer = _open_tokenizer(tokenizer_json)
    blocks: list[csr_array] = []
    stream = iter(texts)
    while block := list(islice(stream, _BLOCK)):
        blocks.append(_counts(tokenizer, block))
        if progress:
            progress(len(block))
    counts = sparse.vstack(blocks, format="csr") if blocks else sparse.csr_array((0, _size(tokenizer)))
    occurs = np.bincount(counts.indices, minlength=counts.shape[1])
    used = np.flatnonzero(occurs)
    if not 1 <= dimension <= min(counts.shape[0], len(used)):
        raise EncoderError(
            f"{counts.shape[0]} texts with {len(used)} different tokens cannot be reduced to {dimension} dimensions.",
            "Give more texts, or fewer dimensions.",
        )
    if not (_counts(tokenizer, PROBES)[:, used].sum(axis=1) > 0).all():
        raise EncoderError(
            f"The {counts.shape[0]} texts share no token with one of the probe texts, which would get no vector.",
            "Give more texts.",
        )
    idf = np.zeros(counts.shape[1], dtype=np.float32)
    idf[used] = np.log((1 + counts.shape[0]) / (1 + occurs[used])) + 1
    svd = TruncatedSVD(dimension, random_state=seed).fit(_weigh(counts, idf)[:, used])
    components = np.zeros((counts.shape[1], dimension), dtype=np.float32)
    components[used] = svd.components_.T
    _save(
        folder,
        {"idf": idf, "components": components},
        tokenizer_json,
        {
            "format": FORMAT,
            "kind": "lsa",
            "dimension": dimension,
            "texts": counts.shape[0],
            "tokens": len(used),
            "explained_variance": round(float(svd.explained_variance_ratio_.sum()), 6),
            "seed": seed,
        },
    )
    return load_lsa(folder)


def load_lsa(folder: str | Path, name: str | None = None) -> LsaEncoder:
    """Load a folder that `fit_lsa` wrote.

    Args:
        folder: the folder.
        name: name of the encoder; default "lsa:" and the folder.

    Raises:
        EncoderError: missing, damaged or of another format.
    """
    folder = Path(folder).expanduser()
    name = name or f"lsa:{folder}"
    if not (folder / _CONFIG).is_file():
        raise EncoderError(
            f"{folder} holds no fitted LSA encoder.", "Fit one with `unembed fit-lsa TEXTS --out FOLDER`."
        )
    again = "Restore the folder, or fit it again with `unembed fit-lsa`."
    try:
        config = read_json(folder / _CONFIG)
        if config["format"] != FORMAT or config["kind"] != "lsa":
            raise EncoderError(f"{folder / _CONFIG} has format {config['format']}, not {FORMAT}.", again)
        from safetensors.numpy import load_file

        digest = sha256_file(folder / _WEIGHTS)
        parts = load_file(folder / _WEIGHTS)
        text = (folder / _TOKENIZER).read_text(encoding="utf-8")
        if config["sha256"] != digest:
            raise EncoderError(f"{folder / _WEIGHTS} has another sha256 than {_CONFIG} says.", again)
        if config["tokenizer_sha256"] != _digest(text):
            raise EncoderError(f"{folder / _TOKENIZER} has another sha256 than {_CONFIG} says.", again)
        encoder = LsaEncoder(name, text, parts["idf"], parts["components"], f"sha256:{digest}")
        encoder.fitted = {key: config[key] for key in ("texts", "tokens", "explained_variance", "seed")}
        return encoder
    except EncoderError:
        raise
    except Exception as error:  # safetensors raises an exception of its own for damage
        raise EncoderError(f"The LSA encoder in {folder} cannot be read ({error}).", again) from error


def _save(folder: Path, parts: dict[str, np.ndarray], tokenizer_json: str, config: dict[str, Any]) -> None:
    """Write the three files; the configuration last, so that a folder with one is whole."""
    from safetensors.numpy import save_file

    with atomic_path(folder / _WEIGHTS) as temporary:
        save_file(parts, temporary)
    atomic_write_bytes(folder / _TOKENIZER, tokenizer_json.encode())
    hashes = {"sha256": sha256_file(folder / _WEIGHTS), "tokenizer_sha256": _digest(tokenizer_json)}
    write_json(folder / _CONFIG, {**config, **hashes})


def _digest(text: str) -> str:
    """Hexadecimal sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _open_tokenizer(text: str) -> Any:
    """A `tokenizers` tokenizer that neither cuts nor pads."""
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(json.dumps({**json.loads(text), "truncation": None, "padding": None}))
    except Exception as error:  # the Rust library raises bare Exception
        raise EncoderError(f"The tokenizer cannot be read ({error}).", "Use a tokenizer.json file.") from error


def _size(tokenizer: Any) -> int:
    """Number of ids of a tokenizer."""
    return int(max(tokenizer.get_vocab(with_added_tokens=True).values())) + 1


def _counts(tokenizer: Any, texts: Sequence[str]) -> csr_array:
    """Occurrences of each token: float32 (n, V)."""
    import numpy as np
    from scipy import sparse

    try:
        rows = [e.ids for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    except (TypeError, UnicodeError) as error:
        raise InputError("A text is not a valid Unicode string.", "Pass a list of strings.") from error
    starts = np.cumsum([0] + [len(row) for row in rows])
    ids = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(starts[-1]))
    ones = np.ones(len(ids), dtype=np.float32)
    counts = sparse.csr_array((ones, ids, starts), shape=(len(rows), _size(tokenizer)))
    counts.sum_duplicates()
    return counts


def _weigh(counts: csr_array, idf: np.ndarray) -> csr_array:
    """(1 + ln c) * idf of counts (n, V), rows scaled to length 1."""
    import numpy as np
    from scipy import sparse

    weights = (1 + np.log(counts.data)) * idf[counts.indices]
    matrix = sparse.csr_array((weights.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
    lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    matrix.data *= np.repeat(scale, np.diff(matrix.indptr)).astype(np.float32)
    return matrix
