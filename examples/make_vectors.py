"""Make examples/vectors.parquet: 200 held-out sentences and their all-MiniLM-L6-v2 vectors.

    python examples/make_vectors.py ../shared/corpus/english-test.tsv.zst

Lines are `source<TAB>text`. They are drawn with a seed, cut to 32 tokens, and exactly the cut text is embedded. No line
of the test set is in the training set (docs/data.md).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.files import atomic_path

LIMIT = 32
HERE = Path(__file__).resolve().parent


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Read (source, text) pairs from a .tsv or .tsv.zst file."""
    with open(path, "rb") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
        lines = io.TextIOWrapper(stream, encoding="utf-8").read().splitlines()
    pairs = [line.split("\t", 1) for line in lines if "\t" in line]
    return [(source, text) for source, text in pairs]


def main() -> None:
    """Draw, cut, embed, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="held-out lines, source<TAB>text, .tsv or .tsv.zst")
    parser.add_argument("--out", type=Path, default=HERE / "vectors.parquet")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()

    pairs = read_lines(options.lines)
    order = np.random.default_rng(options.seed).permutation(len(pairs))
    encoder = load_encoder("minilm")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    rows: list[tuple[str, str]] = []
    for place in order:
        source, text = pairs[place]
        cut = tokenizer.truncate([text], LIMIT)[0]
        if cut is None:
            continue
        display = tokenizer.detokenize(cut.ids)  # the form in which recovered texts are shown
        rows.append((source, display if tokenizer.encode([display])[0] == cut.ids else cut.text))
        if len(rows) == options.count:
            break
    vectors = encoder.encode([text for _, text in rows]).astype(np.float32)
    values = pa.array(vectors.reshape(-1), pa.float32())
    table = pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int32()),
            "text": pa.array([text for _, text in rows]),
            "source": pa.array([source for source, _ in rows]),
            "embedding": pa.FixedSizeListArray.from_arrays(values, encoder.dimension),
        }
    )
    with atomic_path(options.out) as part:
        pq.write_table(
            table,
            part,
            compression="zstd",
            compression_level=19,
            use_dictionary=["source"],
            column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
        )
    sources = len({source for source, _ in rows})
    print(f"{options.out}: {len(rows)} texts of {sources} sources, {options.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
