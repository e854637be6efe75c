"""A sentence-transformers folder with a random BERT of two layers, for tests that need an encoder with weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch

from unembed.encoders.hashing import tokenizer_json
from unembed.encoders.sentence_transformer import SentenceTransformerEncoder, load_sentence_transformer


def save_bert(
    folder: Path, pooling: str = "mean", normalise: bool = True, longest: int = 64, kind: str = "bert", **changes: Any
) -> Path:
    """Save a model with the hashing encoder's tokenizer.

    Args:
        folder: where its parts go.
        pooling: of sentence-transformers.
        normalise: with a module that scales vectors to length 1.
        longest: `max_seq_length`.
        kind: "bert", "roberta" or "dense" (a BERT with a dense module behind the pooling).
        changes: of the network's configuration.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast, RobertaConfig, RobertaModel

    try:
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    except ImportError:  # sentence-transformers 5 and older
        from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    backend = tokenizers.Tokenizer.from_str(tokenizer_json())
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = BertTokenizerFast(tokenizer_object=backend, model_max_length=longest)
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        **changes,
    }
    network = RobertaModel(RobertaConfig(**settings)) if kind == "roberta" else BertModel(BertConfig(**settings))
    with torch.no_grad():
        for parameter in network.parameters():  # norms and biases too, so that none of them could be forgotten
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(folder / "network")
    tokenizer.save_pretrained(folder / "network")
    modules = [Transformer(str(folder / "network")), Pooling(24, pooling_mode=pooling)]
    modules += [Dense(24, 16)] if kind == "dense" else []
    modules += [Normalize()] if normalise else []
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def small_bert(folder: Path, normalise: bool = True, **options: Any) -> SentenceTransformerEncoder:
    """The encoder of such a folder."""
    return load_sentence_transformer(str(save_bert(folder, normalise=normalise, **options)), device="cpu")
