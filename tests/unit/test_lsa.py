"""LSA: the formula of scikit-learn's TF-IDF and SVD, kept without a pickle; counts of tokens and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unembed.cli import main
from unembed.data.shards import ShardDataset
from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import tokenizer_json
from unembed.encoders.identity import PROBES
from unembed.encoders.lsa import fit_lsa, load_lsa
from unembed.encoders.minilm import minilm_tokenizer_json
from unembed.encoders.protocol import Encoder
from unembed.encoders.registry import load_encoder, load_matching
from unembed.errors import EncoderError, EncoderMismatchError, InputError

WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 2 + i % 9)) for i in range(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted encoder of 8 dimensions over the hashing encoder's tokenizer."""
    path = tmp_path_factory.mktemp("fitted") / "lsa"
    fit_lsa(TEXTS, path, tokenizer_json(), dimension=8)
    return path


def test_vectors_equal_scikit_learns(folder: Path) -> None:
    """TfidfVectorizer(sublinear_tf) and TruncatedSVD of the same texts, rows scaled to length 1."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = Tokenizer.from_json(tokenizer_json())
    vectorizer = TfidfVectorizer(
        analyzer=lambda text: known.tokens(known.encode([text])[0]), sublinear_tf=True, dtype=np.float64
    )
    theirs = TruncatedSVD(8, algorithm="arpack", random_state=0).fit_transform(vectorizer.fit_transform(TEXTS))
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = load_lsa(folder).encode(TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=2e-3)  # singular vectors have no sign


def test_order_is_not_in_the_vector_and_rows_do_not_depend_on_others(folder: Path) -> None:
    encoder = load_encoder(f"lsa:{folder}")
    assert isinstance(encoder, Encoder)
    a, b, c = encoder.encode(["the red bird sings", "sings bird red the", "the red bird sings sings"])
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert a @ c < 0.9999
    np.testing.assert_array_equal(encoder.encode(TEXTS), np.concatenate([encoder.encode([t]) for t in TEXTS]))
    assert encoder.encode([]).shape == (0, 8)
    np.testing.assert_array_equal(encoder.encode([""]), np.zeros((1, 8), dtype=np.float32))


def test_fitting_is_repeatable_and_holds_no_pickle(folder: Path, tmp_path: Path) -> None:
    again = fit_lsa(iter(TEXTS), tmp_path / "again", tokenizer_json(), dimension=8)
    assert again.identity.revision == load_lsa(folder).identity.revision
    assert {path.name for path in folder.iterdir()} == {"lsa.json", "lsa.safetensors", "tokenizer.json"}
    config = json.loads((folder / "lsa.json").read_text())
    assert config["texts"] == 120 and config["dimension"] == 8 and 0 < config["explained_variance"] <= 1


def test_a_checkpoints_identity_finds_it_and_refuses_another(folder: Path, tmp_path: Path) -> None:
    identity = load_encoder(f"lsa:{folder}").identity
    assert (identity.name, identity.dimension, identity.normalised) == (f"lsa:{folder}", 8, True)
    assert load_matching(identity, identity.name).identity == identity
    other = fit_lsa(TEXTS[::-1][:60], tmp_path / "other", tokenizer_json(), dimension=8)
    with pytest.raises(EncoderMismatchError):
        identity.check(other)


def test_damage_and_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="names no folder"):
        load_encoder("lsa")
    with pytest.raises(EncoderError, match="holds no fitted LSA encoder"):
        load_encoder(f"lsa:{tmp_path}")
    with pytest.raises(EncoderError, match="already"):
        fit_lsa(TEXTS, folder, tokenizer_json(), dimension=8)
    with pytest.raises(EncoderError, match=r"2 texts with \d+ different tokens cannot be reduced to 8"):
        fit_lsa(TEXTS[:2], tmp_path / "few", tokenizer_json(), dimension=8)
    with pytest.raises(EncoderError, match="12 texts share no token with one of the probe texts"):
        fit_lsa(["blue river", "stone bird", "small house"] * 4, tmp_path / "far", tokenizer_json(), dimension=2)
    with pytest.raises(EncoderError, match="0 texts"):
        fit_lsa([], tmp_path / "none", tokenizer_json(), dimension=8)
    with pytest.raises(EncoderError, match="cannot take these options"):
        load_encoder(f"lsa:{folder}", device="cpu")
    with pytest.raises(InputError):
        load_lsa(folder).encode(["a", 3])  # type: ignore[list-item]
    for name in ("lsa.safetensors", "tokenizer.json", "lsa.json"):
        copy = tmp_path / f"damaged-{name}"
        copy.mkdir()
        for path in folder.iterdir():
            data = path.read_bytes()
            (copy / path.name).write_bytes(data[:-40] if path.name == name else data)
        with pytest.raises(EncoderError, match=f"damaged-{name}".replace(".", r"\.")) as caught:
            load_lsa(copy)
        assert "fit-lsa" in caught.value.do


def test_the_commands_fit_and_embed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts are cut as for MiniLM; shards know the encoder."""
    lines = [f"{'news' if i % 2 else 'mail'}\t{text}" for i, text in enumerate(TEXTS)]
    lines += [f"news\t{probe}" for probe in PROBES]
    (tmp_path / "texts.tsv").write_text("\n".join(lines))
    out = str(tmp_path / "lsa")
    arguments = ["fit-lsa", str(tmp_path / "texts.tsv"), "--out", out, "--dimensions", "6"]
    assert main([*arguments, "--exclude-source", "mail", "--limit", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["encoder"] == f"lsa:{out}" and report["texts"] == 63 and report["dimension"] == 6
    shards = str(tmp_path / "shards")
    assert main(["embed", str(tmp_path / "texts.tsv"), "--encoder", f"lsa:{out}", "--shards", shards]) == 0
    data = ShardDataset(shards)
    assert len(data) == 123 and data.dimension == 6 and data.identity.name == f"lsa:{out}"
    tokenizer = Tokenizer.from_json(minilm_tokenizer_json())
    assert data.manifest.tokenizer_sha256 == tokenizer.sha256
    ids, lengths, vectors = data.gather(np.arange(5))
    texts = [tokenizer.decode(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
    np.testing.assert_allclose(vectors, load_encoder(f"lsa:{out}").encode(texts), atol=1e-3)
    assert main([*arguments, "--quiet"]) == 2
    assert "already" in capsys.readouterr().err


def test_minilms_tokenizer_without_its_weights_is_the_same() -> None:
    a = Tokenizer.from_json(minilm_tokenizer_json())
    b = Tokenizer.from_json(load_encoder("minilm").tokenizer_json() or "")
    assert a.sha256 == b.sha256
