"""A local encoder of nine languages, for tables 7 to 9 of `unembed reproduce` where no multilingual encoder is at hand.

A BERT of two layers with random weights and mean pooling, with a WordPiece vocabulary learnt from the texts, as a
sentence-transformers folder. It knows nothing of meaning: its vectors say which word pieces a text holds, and little of
their order. What it shows is that the command, the data and the training work for other scripts; no figure of it says
anything about a real multilingual encoder.

    python -m benchmarks.stand_in ../shared/corpus/multilingual-train.tsv.zst --out stand-in
    unembed embed stand-in/texts.tsv --encoder stand-in/encoder --shards stand-in/shards
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path

import tokenizers
import torch

from unembed.data.sources import read_texts


def save_encoder(texts: list[str], folder: Path, vocabulary: int, width: int, seed: int) -> None:
    """Learn the vocabulary, draw the weights and write the folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    backend = tokenizers.BertWordPieceTokenizer(lowercase=True, strip_accents=False)
    backend.train_from_iterator(texts, vocab_size=vocabulary, limit_alphabet=6000, show_progress=False)
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = BertTokenizerFast(tokenizer_object=backend._tokenizer, model_max_length=64)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(width), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))


def main() -> None:
    """Draw texts, write them, and make the encoder of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", help="language, source and text in a line (.tsv, also .zst)")
    parser.add_argument("--out", default="stand-in", help="folder")
    parser.add_argument("-n", type=int, default=120_000, help="texts that are drawn")
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--width", type=int, default=256, help="dimension of the vectors")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = list(read_texts(args.texts, source_column=0))
    random.Random(args.seed).shuffle(rows)
    drawn = list(itertools.islice(rows, args.n))
    lines = [f"{language}\t{text}" for text, language in drawn]
    (out / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_encoder([text for text, _ in drawn], out, args.vocabulary, args.width, args.seed)
    print(f"{len(drawn)} texts, {out / 'encoder'}")


if __name__ == "__main__":
    main()
