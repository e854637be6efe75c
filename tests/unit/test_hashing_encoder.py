"""The hashing encoder and the identity: deterministic vectors, and a check that notices other vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.identity import PROBES, EncoderIdentity, make_identity
from unembed.encoders.protocol import Encoder
from unembed.encoders.registry import encoder_names, load_encoder, load_matching
from unembed.errors import EncoderError, EncoderMismatchError


def test_vectors_are_the_same_on_every_machine() -> None:
    vector = load_encoder("hashing:4").encode(["the cat sat"])[0]
    np.testing.assert_allclose(vector, FROZEN, atol=1e-6)


FROZEN = [-0.145698, -0.2801015, 0.8551206, -0.4111983]


def test_shape_length_and_independence_of_the_batch() -> None:
    encoder = load_encoder("hashing", dimension=32)
    assert isinstance(encoder, Encoder)
    texts = ["the cat sat", "a", "", "sat cat the", "x" * 300]
    vectors = encoder.encode(texts)
    assert vectors.shape == (5, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, np.concatenate([encoder.encode([t]) for t in texts]))
    assert encoder.encode([]).shape == (0, 32)


def test_vectors_tell_tokens_and_their_order() -> None:
    a, b, c = load_encoder("hashing:256").encode(["the dog bit the man", "the man bit the dog", "we like green tea"])
    assert 0.3 < a @ b < 0.99
    assert a @ c < 0.3


def test_its_tokenizer_spells_any_ascii_text() -> None:
    encoder = load_encoder("hashing")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    assert tokenizer.banned.tolist() == [0, 1, 2, 3, 4] == sorted(tokenizer.banned)
    (cut,) = tokenizer.truncate(["Xyzzy-42: don't reverse the polarity!"], 64)
    assert cut is not None
    assert tokenizer.detokenize(cut.ids) == "xyzzy-42: don't reverse the polarity!"
    np.testing.assert_array_equal(*encoder.encode([cut.text, "Xyzzy-42: don't reverse the polarity!"])[:, None])


def test_identity_survives_json_and_accepts_its_encoder() -> None:
    encoder = load_encoder("hashing:24")
    identity = EncoderIdentity.from_dict(json.loads(json.dumps(encoder.identity.to_dict())))
    assert identity == encoder.identity
    assert identity.probes == PROBES
    assert identity.normalised
    assert identity.check(encoder) > 0.99999
    assert load_matching(identity).name == "hashing:24"


class Scaled:
    """The hashing encoder with other vectors."""

    def __init__(self, scale: float, noise: float) -> None:
        self.inner, self.scale, self.noise = HashingEncoder(24), scale, noise

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors = self.inner.encode(texts)
        return self.scale * (vectors + self.noise * np.random.default_rng(0).normal(size=vectors.shape))


def test_identity_refuses_other_vectors() -> None:
    identity = load_encoder("hashing:24").identity
    assert identity.check(Scaled(1.0, 1e-4)) > 0.999
    with pytest.raises(EncoderMismatchError, match="16 dimensions"):
        identity.check(load_encoder("hashing:16"))
    with pytest.raises(EncoderMismatchError, match="cosine"):
        identity.check(Scaled(1.0, 0.05))
    assert identity.check(Scaled(1.0, 0.01), tolerance=0.9) < 0.9999
    with pytest.raises(EncoderMismatchError, match="length"):
        identity.check(Scaled(3.0, 0.0))
    with pytest.raises(EncoderMismatchError, match="cosine"):
        identity.check(Scaled(float("nan"), 0.0))


def test_whether_vectors_are_normalised_is_measured() -> None:
    assert not make_identity(Scaled(3.0, 0.0), "scaled").normalised


def test_a_damaged_identity_is_refused() -> None:
    good = load_encoder("hashing:4").identity.to_dict()
    for bad in (
        {},
        {**good, "dimension": 5},
        {**good, "probes": ["a"]},
        {**good, "probe_vectors": "x"},
        {**good, "extra": 1},
        {key: value for key, value in good.items() if key != "prompt"},
    ):
        with pytest.raises(EncoderError):
            EncoderIdentity.from_dict(bad)


@pytest.mark.parametrize("name", ["hashing:x", "hashing:0", "hashing:1", "", " "])
def test_bad_names(name: str) -> None:
    with pytest.raises(EncoderError):
        load_encoder(name)


def test_unknown_option_of_a_built_in_encoder() -> None:
    with pytest.raises(EncoderError, match="hashing"):
        load_encoder("hashing", precision="bf16")
    with pytest.raises(EncoderError, match="colour"):
        load_encoder("minilm", colour="blue")


def test_names_are_listed() -> None:
    assert {"minilm", "hashing"} <= set(encoder_names())
