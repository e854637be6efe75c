"""The first components of another encoder: cut, scaled again or not, and told apart by the identity."""

from __future__ import annotations

import numpy as np
import pytest

from unembed.encoders.protocol import Encoder
from unembed.encoders.registry import load_encoder, load_matching
from unembed.errors import EncoderError, EncoderMismatchError

TEXTS = ["the cat sat", "a", "sat cat the"]


def test_rows_are_cut_and_scaled_again() -> None:
    whole, cut = load_encoder("hashing:32"), load_encoder("hashing:32?dimensions=12")
    assert isinstance(cut, Encoder)
    expected = whole.encode(TEXTS)[:, :12]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(cut.encode(TEXTS), expected, atol=1e-6)
    assert cut.encode([]).shape == (0, 12) and cut.tokenizer_json() == whole.tokenizer_json()
    assert (cut.name, cut.dimension, cut.identity.normalised) == ("hashing:32?dimensions=12", 12, True)
    assert cut.identity.revision == whole.identity.revision


def test_rows_may_stay_as_they_are_and_the_identity_tells() -> None:
    plain, scaled = load_encoder("hashing:32?dimensions=12&normalise=no"), load_encoder("hashing:32?dimensions=12")
    np.testing.assert_array_equal(plain.encode(TEXTS), load_encoder("hashing:32").encode(TEXTS)[:, :12])
    assert not plain.identity.normalised and plain.name == "hashing:32?dimensions=12&normalise=no"
    assert load_matching(plain.identity).identity == plain.identity
    assert load_matching(scaled.identity).identity == scaled.identity
    with pytest.raises(EncoderMismatchError, match="length"):
        plain.identity.check(scaled)
    assert load_encoder("hashing:32?dimensions=12&normalise=yes").identity.normalised


def test_minilm_keeps_what_a_denoiser_starts_from() -> None:
    cut = load_encoder("minilm?dimensions=256", batch_size=2)
    vectors, whole = cut.encode(TEXTS), load_encoder("minilm").encode(TEXTS)
    assert vectors.shape == (3, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[:, 1] / vectors[:, 0], whole[:, 1] / whole[:, 0], rtol=1e-3)
    assert cut.token_embeddings().shape == (30522, 384)  # type: ignore[attr-defined]
    assert load_encoder("hashing:32?dimensions=4").token_embeddings() is None  # type: ignore[attr-defined]
    assert load_matching(cut.identity).dimension == 256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hashing:32?dimensions=33", "has 32 dimensions"),
        ("hashing:32?dimensions=1", "1 cannot be kept"),
        ("hashing:32?dimensions=many", "cannot be asked for"),
        ("hashing:32?dimension=8", "cannot be asked for"),
        ("hashing:32?", "cannot be asked for"),
        ("hashing:32?dimensions=8&normalise=maybe", "cannot be asked for"),
        ("nothing/of/this?dimensions=8", "does not exist"),
    ],
)
def test_specs_that_make_no_sense(name: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder(name)
