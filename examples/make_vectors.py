"""Make examples/vectors.parquet: 200 held-out sentences and their all-MiniLM-L6-v2 vectors.

    python examples/make_vectors.py ../shared/corpus/english-test.tsv.zst

Lines are `source<TAB>text`. They are drawn with a seed, cut to 32 tokens, and exactly the cut text is embedded. No line
of the test set is in the training set (docs/data.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from unembed.data.sources import read_texts
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.stores.protocol import VectorBatch
from unembed.stores.writing import write_vectors

LIMIT = 32
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Draw, cut, embed, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="held-out lines, source<TAB>text, .tsv or .tsv.zst")
    parser.add_argument("--out", type=Path, default=HERE / "vectors.parquet")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()

    pairs = list(read_texts(options.lines))
    encoder = load_encoder("minilm")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    texts: list[str] = []
    sources: list[str] = []
    for place in np.random.default_rng(options.seed).permutation(len(pairs)):
        text, source = pairs[place]
        cut = tokenizer.truncate([text], LIMIT)[0]
        if cut is None:
            continue
        display = tokenizer.detokenize(cut.ids)  # the form in which recovered texts are shown
        texts.append(display if tokenizer.encode([display])[0] == cut.ids else cut.text)
        sources.append(source)
        if len(texts) == options.count:
            break
    metadata = {"text": texts, "source": sources}
    write_vectors(options.out, [VectorBatch(list(range(len(texts))), encoder.encode(texts), metadata)])
    options.out.chmod(0o644)  # public sentences
    print(f"{options.out}: {len(texts)} texts of {len(set(sources))} sources, {options.out.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
