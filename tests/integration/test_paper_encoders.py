"""The paper's three encoders: a tiny model of each family, saved and loaded by sentence-transformers, and its recipe.

The families differ in what inversion must not get wrong: pooling (mean, last token, mean and dense layers), the side
of the padding, the prompt, the kind of tokenizer. No model's own code is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from test_golden_overfit import SENTENCES
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from unembed import Inverter, Recipe, load_encoder, train
from unembed.cli import main
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_matching
from unembed.errors import EncoderError

RECIPES = Path(__file__).parents[2] / "recipes"
SPECIAL = {
    "jina-v3": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "embeddinggemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
}
PROMPTS = {
    "jina-v3": {},
    "qwen3": {"query": "Instruct: find passages\nQuery:", "document": ""},
    "embeddinggemma": {"query": "task: search result | query: ", "document": "title: none | text: "},
}


def make_tokenizer(family: str) -> tokenizers.Tokenizer:
    """Unigram with a meta space (XLM-R), byte-level BPE (Qwen), or BPE with byte fallback (Gemma)."""
    texts = [*SENTENCES, *(p for prompts in PROMPTS.values() for p in prompts.values())]
    special = SPECIAL[family]
    if family == "jina-v3":
        backend = tokenizers.Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        backend.train_from_iterator(texts, trainer)
        backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
        return backend
    if family == "qwen3":
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        end, first = "$A <|endoftext|>", [("<|endoftext|>", 0)]
    else:
        backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        alphabet = []
        end, first = "<bos> $A <eos>", [("<bos>", 2), ("<eos>", 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(end, special_tokens=first)
    return backend


def make_model(family: str, size: int) -> Any:
    """A random network of the family, big enough weights that texts differ."""
    import transformers

    common: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "initializer_range": 0.4,
    }
    torch.manual_seed(0)
    if family == "jina-v3":
        return transformers.JinaEmbeddingsV3Model(transformers.JinaEmbeddingsV3Config(**common))
    if family == "qwen3":
        config = transformers.Qwen3Config(**common, num_key_value_heads=2, head_dim=8)
        return transformers.Qwen3Model(config)
    config = transformers.Gemma3TextConfig(
        **common, num_key_value_heads=1, head_dim=8, sliding_window=16, use_bidirectional_attention=True
    )
    return transformers.Gemma3TextModel(config)


def save(family: str, folder: Path) -> Path:
    """Save the family's chain of modules with sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import PreTrainedTokenizerFast

    backend = make_tokenizer(family)
    names = {
        "jina-v3": ("<pad>", "</s>"),
        "qwen3": ("<|endoftext|>", "<|im_end|>"),
        "embeddinggemma": ("<pad>", "<eos>"),
    }
    pad, eos = names[family]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="left" if family == "qwen3" else "right",
        pad_token=pad,
        eos_token=eos,
        model_max_length=64,
        additional_special_tokens=[t for t in SPECIAL[family] if t not in (pad, eos)],
    )
    make_model(family, len(tokenizer)).save_pretrained(folder / "network")
    tokenizer.save_pretrained(folder / "network")
    modules: list[Any] = [Transformer(str(folder / "network"))]
    modules.append(Pooling(32, pooling_mode="lasttoken" if family == "qwen3" else "mean"))
    if family == "embeddinggemma":
        identity = torch.nn.Identity()
        modules.append(Dense(32, 128, bias=False, activation_function=identity))
        modules.append(Dense(128, 32, bias=False, activation_function=identity))
    modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS[family]).save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = save(family, tmp_path_factory.mktemp(family))
        return made[family]

    return get


@pytest.mark.parametrize("family", SPECIAL)
def test_vectors_are_the_librarys_with_the_recipes_prompt(saved: Callable[[str], Path], family: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder, name = saved(family), Recipe.load(RECIPES / f"paper-{family}.toml").data.prompt_name
    encoder = load_encoder(str(folder), device="cpu", batch_size=4, **({"prompt_name": name} if name else {}))
    theirs = SentenceTransformer(str(folder), device="cpu")
    alone = np.concatenate([theirs.encode([text], prompt_name=name or None) for text in SENTENCES])
    vectors = encoder.encode(SENTENCES)
    np.testing.assert_allclose(vectors, alone, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    assert encoder.identity.prompt == PROMPTS[family].get(name, "")
    assert load_matching(encoder.identity, encoder.name, device="cpu").identity == encoder.identity
    if family == "embeddinggemma":
        query = load_encoder(str(folder), device="cpu", prompt_name="query").encode(SENTENCES)
        assert np.abs(query - vectors).max() > 0.01
        modules = json.loads((folder / "modules.json").read_text())
        assert [m["type"].rpartition(".")[2] for m in modules] == [
            "Transformer",
            "Pooling",
            "Dense",
            "Dense",
            "Normalize",
        ]


def test_attention_is_the_familys() -> None:
    """Gemma reads both ways and Qwen to the left only: what the first token's state depends on."""
    for family, sees in (("embeddinggemma", True), ("qwen3", False)):
        network = make_model(family, 60).eval()
        ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
        first = network(input_ids=ids).last_hidden_state[:, 0]
        assert bool((first[0] - first[1]).abs().max() > 1e-4) == sees, family


@pytest.mark.parametrize("family", SPECIAL)
def test_the_encoders_own_tokens_round_trip(saved: Callable[[str], Path], family: str) -> None:
    tokenizer = Tokenizer.from_json(load_encoder(str(saved(family)), device="cpu").tokenizer_json() or "")
    assert {tokenizer.encode([t])[0][0] for t in SPECIAL[family]} <= set(tokenizer.banned.tolist())
    for max_length in (3, 32):
        for text, cut in zip(SENTENCES, tokenizer.truncate(SENTENCES, max_length), strict=True):
            assert cut is not None and text.startswith(cut.text)
            assert tokenizer.encode([cut.text])[0] == cut.ids and len(cut.ids) <= max_length
    (cut,) = tokenizer.truncate(SENTENCES[:1], 64)
    assert cut is not None and cut.text == SENTENCES[0]


@pytest.mark.parametrize("family", SPECIAL)
def test_the_recipe_trains_on_the_familys_model(saved: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    """Texts to shards to two steps to an inversion, with the recipe's own choices but for sizes and places."""
    folder, path = saved(family), RECIPES / f"paper-{family}.toml"
    recipe = Recipe.load(path)
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES) + "\n")
    embed = ["embed", str(tmp_path / "texts.txt"), "--shards", str(tmp_path / "s"), "--encoder", str(folder), "--quiet"]
    embed += ["--prompt-name", recipe.data.prompt_name] if recipe.data.prompt_name else []
    assert main(embed) == 0
    places = [f"data.shards='{tmp_path / 's'}'", f"data.encoder='{folder}'", 'validation.shards=""']
    small = ["model.width=24", "model.layers=1", "model.mlp=0", "data.batch_size=8", "run.steps=2", "run.threads=1"]
    small += ["run.precision=fp32", "run.compile=no", "validation.texts=8", "validation.decoded=2"]
    result = train(Recipe.load(path, [*places, *small]), tmp_path / "run", device="cpu")
    assert result.finished and np.isfinite(result.metrics["bound"])
    inverter = Inverter.from_pretrained(result.checkpoint, device="cpu")
    assert inverter.denoiser.config.backbone == "paper"
    (found,) = inverter.invert(load_encoder(str(folder), device="cpu").encode(SENTENCES[:1]), strategy="sequential")
    assert found.length >= 1


def test_the_three_recipes_name_the_papers_encoders_and_differ_in_nothing_else() -> None:
    paper = Recipe.load(RECIPES / "paper.toml")
    names = {}
    for family in SPECIAL:
        recipe = Recipe.load(RECIPES / f"paper-{family}.toml")
        assert (recipe.model, recipe.objective, recipe.optimizer, recipe.run) == (
            paper.model,
            paper.objective,
            paper.optimizer,
            paper.run,
        )
        assert recipe.data.tokenizer == "encoder" and recipe.data.batch_size == 400
        names[family] = recipe.data.encoder
    assert names == {
        "jina-v3": "jinaai/jina-embeddings-v3-hf",
        "qwen3": "Qwen/Qwen3-Embedding-0.6B",
        "embeddinggemma": "google/embeddinggemma-300m",
    }


def test_jinas_first_repository_is_refused_because_it_brings_code(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """Its modules.json names custom_st.Transformer; the error says that this is not run."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(saved("jina-v3"), folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "custom_st.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(EncoderError, match=r"code of its own \(custom_st\.Transformer\)"):
        load_encoder(str(folder))
