"""Size and time of a pack: written and read on one corpus shard. One JSON line, and the table of docs/data.md.

    python -m benchmarks.speed.pack_sizes --texts ../shared/corpus/english-train-010.tsv.zst \
        --out docs/results/pack.json --page docs/data.md

Seconds are those of one core (process time), so that a busy machine misleads little. `unembed pack` is written once
without the encoder and once, on its first 1,000 texts, with it; the difference is what the encoder takes.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import emit, machine
from reports.marks import fill
from unembed.data.pack import check_encoder, read_pack, write_pack
from unembed.data.sources import read_texts
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.files import write_json

MIB = 1 << 20


def size(folder: Path, pattern: str) -> int:
    """Bytes of the files of a folder."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def timed(work: Any) -> tuple[Any, float]:
    """What a function returns, and its seconds of one core."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def measure(paths: list[str], name: str, max_length: int, folder: Path) -> dict[str, Any]:
    """Write and read packs in a folder."""
    encoder = load_encoder(name)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    encoder.encode(["warm"])
    plain, whole = folder / "plain", folder / "whole"
    few = list(itertools.islice(read_texts(paths), 1000))
    manifest, wrote = timed(lambda: write_pack(plain, read_texts(paths), encoder, tokenizer, max_length, False))
    _, small = timed(lambda: write_pack(folder / "few", few, encoder, tokenizer, max_length, False))
    _, both = timed(lambda: write_pack(whole, few, encoder, tokenizer, max_length))
    _, read = timed(lambda: read_pack(plain))
    pack, read_both = timed(lambda: read_pack(whole))
    parts = size(plain, "part-*")
    return {
        "benchmark": "pack",
        "texts_of": [Path(path).name for path in paths],
        "encoder": encoder.name,
        "limit": max_length,
        "texts": manifest.n,
        "tokens": manifest.tokens,
        "dropped": manifest.dropped,
        "parts_bytes": parts,
        "bits_a_token": round(8 * parts / manifest.tokens, 2),
        "write_seconds": round(wrote, 1),
        "read_seconds": round(read, 2),
        "encoder_bytes": size(whole, "encoder.xz"),
        "encoder_write_seconds": round(both - small, 1),
        "encoder_read_seconds": round(read_both, 2),
        "least_probe_cosine": {
            kind: round(check_encoder(pack.encoder("cpu", dtype), pack.identity, pack.tokenizer), 6)
            for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        },
        "machine": machine(),
    }


def page(found: dict[str, Any]) -> str:
    """The table of the page."""
    rows = [
        (
            f"{found['texts']:,} texts, {found['tokens']:,} tokens ({', '.join(found['texts_of'])})",
            found["parts_bytes"],
            found["write_seconds"],
            found["read_seconds"],
        ),
        (
            f"the encoder, `{found['encoder']}`",
            found["encoder_bytes"],
            found["encoder_write_seconds"],
            found["encoder_read_seconds"],
        ),
    ]
    lines = ["| in a pack | MiB | seconds to write | seconds to read |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {bytes_ / MIB:.1f} | {write:.1f} | {read:.1f} |" for name, bytes_, write, read in rows]
    cosine = found["least_probe_cosine"]
    words = (
        f"Seconds of one core; {found['bits_a_token']} bits per token. Least cosine of the packed encoder to the "
        f"original on the three probes: {cosine['fp32']:.5f} in fp32, {cosine['bf16']:.5f} in bf16."
    )
    return "\n".join([*lines, "", *textwrap.wrap(words, 120)]) + "\n"


def main() -> None:
    """Parse the options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--max-length", type=int, default=32)
    parser.add_argument("--out", help="JSON")
    parser.add_argument("--page", help="a page with the marks of the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.texts, args.encoder, args.max_length, Path(folder))
    if args.out:
        write_json(args.out, found)
    if args.page:
        fill(args.page, "pack", page(found))
    emit(found)


if __name__ == "__main__":
    main()
