"""Speed of embedding: texts a second of an encoder, as one JSON line.

    python -m benchmarks.speed.embed --encoder minilm --texts ../shared/corpus/english-test.tsv.zst --count 2000

`share` is the part of the measured matrix-multiply rate that 2 A operations a token say is used, A being the encoder's
parameters without its embedding tables. Texts are cut to the limit in tokens first, as for training.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import torch

from benchmarks.common import emit, machine, matmul_rates
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder


def cut_texts(paths: list[str], count: int, tokenizer: Tokenizer, max_length: int) -> tuple[list[str], int]:
    """Take the first `count` usable texts, cut; and how many tokens they hold, two special ones each included."""
    from unembed.data.sources import read_texts

    found: list[str] = []
    tokens = 0
    stream = read_texts(paths)
    while len(found) < count and (part := list(itertools.islice(stream, 1024))):
        for cut in tokenizer.truncate([text for text, _ in part], max_length):
            if cut is not None and len(found) < count:
                found.append(cut.text)
                tokens += len(cut.ids) + 2
    return found, tokens


def active_parameters(encoder: Any) -> int:
    """Parameters that work on every token: all but embedding tables; 0 where the encoder is no torch module."""
    model = getattr(encoder, "_model", None)
    if not isinstance(model, torch.nn.Module):
        return 0
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return sum(p.numel() for name, p in model.named_parameters() if id(p) not in tables and "pooler" not in name)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--texts", nargs="+", required=True, help="text files: .txt .tsv .jsonl .parquet, also .zst")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--max-length", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--matmul-seconds", type=float, default=1.0, help="for measuring the rate of each dtype")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    options: dict[str, Any] = {}
    if not args.encoder.startswith("hashing"):
        options = {"precision": args.precision, "batch_size": args.batch, "device": args.device}
    encoder = load_encoder(args.encoder, **options)
    described = encoder.tokenizer_json()
    if described is None:
        raise SystemExit(f"The encoder {args.encoder} has no tokenizer, so tokens cannot be counted.")
    texts, tokens = cut_texts(args.texts, args.count, Tokenizer.from_json(described), args.max_length)
    rates = matmul_rates(args.device, args.matmul_seconds)
    encoder.encode(texts[:64])
    took = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        encoder.encode(texts)
        took.append(time.perf_counter() - start)
    best = min(took)
    active = active_parameters(encoder)
    gflops = 2 * active * tokens / best / 1e9
    emit(
        {
            "benchmark": "embed",
            "encoder": encoder.name,
            "texts": len(texts),
            "tokens": tokens,
            "limit": args.max_length,
            "batch": args.batch,
            "precision": args.precision,
            "active_parameters": active,
            "seconds": round(best, 4),
            "texts_per_second": round(len(texts) / best, 1),
            "gflops": float(f"{gflops:.4g}"),
            "share": float(f"{gflops / rates[args.precision]:.4g}"),
            "matmul_gflops": rates,
            "machine": machine(),
        }
    )


if __name__ == "__main__":
    main()
