"""Shards of the same texts in another vector space, from shards that are there already.

    python -m benchmarks.experiments.spaces_shards data/train data/spaces/minilm-256 --shards 5 \
        --encoder "minilm?dimensions=256"
    python -m benchmarks.experiments.spaces_shards data/train data/spaces/lsa --encoder lsa:encoders/lsa --shards 5

Tokens, lengths and sources are copied. Vectors of the shards' own encoder are copied, or cut where the new encoder only
keeps their first components; for any other encoder the tokens are decoded and embedded. A stopped call goes on.
"""

from __future__ import annotations

import argparse
import logging

import numpy as np

from unembed.data.shards import ShardDataset, ShardWriter
from unembed.data.tokenization import Tokenizer
from unembed.encoders.protocol import Encoder
from unembed.encoders.registry import load_encoder
from unembed.encoders.truncation import TruncatedEncoder
from unembed.errors import DataError

_log = logging.getLogger("spaces_shards")


def embed(encoder: Encoder, data: ShardDataset, texts: list[str], cached: np.ndarray) -> np.ndarray:
    """Vectors (n, d) of texts whose vectors of the shards' encoder are known."""
    if encoder.name == data.identity.name:
        return cached
    if isinstance(encoder, TruncatedEncoder) and encoder.inner.name == data.identity.name:
        return encoder.cut(cached)
    return encoder.encode(texts)


def main() -> None:
    """Parse the options and write the shards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="shards that are there")
    parser.add_argument("out", help="folder of the new ones")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--shards", type=int, default=0, help="only the first so many; 0: all")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data, encoder = ShardDataset(args.source), load_encoder(args.encoder)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    if tokenizer.sha256 != data.manifest.tokenizer_sha256:
        raise DataError(f"{encoder.name} has another tokenizer than {args.source}.", "Embed the texts instead.")
    manifest = data.manifest
    writer = ShardWriter(args.out, encoder.identity, tokenizer, manifest.limit, manifest.shard_size, manifest.dtype)
    entries = manifest.shards[: args.shards or None]
    for k in range(len(writer.manifest.shards), len(entries)):
        first = sum(entry.n for entry in entries[:k])
        rows = np.arange(first, first + entries[k].n)
        ids, lengths, cached = data.gather(rows)
        real = np.arange(ids.shape[1]) < lengths[:, None]
        texts = [tokenizer.decode(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
        names = [data.source_names[i] for i in data.sources[rows]]
        vectors = embed(encoder, data, texts, cached)
        writer.add(ids[real], lengths, vectors, names, entries[k].read, entries[k].digest)
        _log.info("shard %d of %d", k + 1, len(entries))
    writer.finish()


if __name__ == "__main__":
    main()
