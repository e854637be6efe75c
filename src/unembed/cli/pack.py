"""`unembed pack`: texts as token ids, with the encoder, in a folder that is small enough to travel."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from unembed.cli.options import as_column, makes_folder, output_options, text_options
from unembed.cli.sampling import limited, row_options
from unembed.errors import InputError


@click.command("pack")
@click.argument("texts", nargs=-1, required=True, metavar="TEXTS...")
@click.option(
    "--out", "-o", required=True, metavar="FOLDER", help="Where the pack is written; continues where it stopped."
)
@click.option("--encoder", default="minilm", show_default=True, metavar="NAME", help="Name or folder of a BERT.")
@click.option(
    "--max-length",
    "--limit",
    "max_length",
    type=click.IntRange(1, 65535),
    default=32,
    show_default=True,
    help="Longest text in tokens.",
)
@text_options
@row_options("texts", "--max-texts")
@click.option("--no-encoder", is_flag=True, help="Leave out the encoder; of several packs, one needs it.")
@output_options
@makes_folder("out")
def command(
    texts: tuple[str, ...],
    out: str,
    encoder: str,
    max_length: int,
    column: str | None,
    source_column: str | None,
    exclude_source: tuple[str, ...],
    max_texts: int | None,
    sample: int | None,
    no_encoder: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pack TEXTS (.txt, .tsv, .jsonl, .parquet, each also .zst; files, folders or hf:NAME) for training.

    A pack holds the token ids of the texts, cut as `unembed embed` cuts them, and the weights of the encoder, but no
    vectors: training makes these as it goes, which is what a GPU is fast at. `unembed train` takes a pack, or several,
    where it takes shards.

    The encoder must be a BERT with mean or CLS pooling and no prompt, unless it is left out. The same command continues
    with a pack that was interrupted, and leaves alone one that is finished.

    \b
    Examples:
      unembed pack corpus/ --out packs/train --exclude-source medquad
      unembed pack corpus/ --out packs/sample --no-encoder --max-texts 4096
    """
    from unembed.cli.console import note, progress, show_json
    from unembed.data.hub_datasets import is_dataset
    from unembed.data.pack import write_pack
    from unembed.data.sources import read_texts
    from unembed.data.tokenizers import ENCODERS_OWN, load_tokenizer
    from unembed.encoders.registry import load_encoder

    began = time.monotonic()
    streamed = any(map(is_dataset, texts))
    if streamed and (column is not None or source_column is not None):
        raise InputError(
            "--column and --source-column do not go with a dataset.", "Write hf:NAME?column=...&source=... instead."
        )
    names = as_column(column), as_column(source_column)
    stream, total = limited(read_texts(texts, *names, exclude_source), max_texts, sample), max_texts
    if max_texts is None and sys.stderr.isatty() and not quiet and not streamed:
        total = sum(1 for _ in read_texts(texts, *names, exclude_source))  # a fiftieth of what packing takes
    model = load_encoder(encoder)
    tokenizer = load_tokenizer(ENCODERS_OWN, model)
    done = 0
    with progress("Packing", total, quiet) as bar:

        def advance(count: int) -> None:
            nonlocal done
            bar.advance(count - done)
            done = count

        manifest = write_pack(out, stream, model, tokenizer, max_length, not no_encoder, progress=advance)
    size, seconds = sum(path.stat().st_size for path in Path(out).iterdir()), time.monotonic() - began
    if as_json:
        show_json(
            {
                "path": out,
                "texts": manifest.n,
                "tokens": manifest.tokens,
                "dropped": manifest.dropped,
                "sources": manifest.sources,
                "parts": len(manifest.parts),
                "bytes": size,
                "seconds": round(seconds, 2),
                "encoder": model.name if manifest.encoder is not None else None,
                "limit": max_length,
                "fingerprint": manifest.fingerprint,
            }
        )
    else:
        with_encoder = f" with the encoder {model.name}" if manifest.encoder is not None else ""
        note(
            f"{manifest.n:,} texts of {manifest.tokens:,} tokens in {out}: {size / 2**20:.1f} MiB{with_encoder}, "
            f"{seconds:.0f} s; {manifest.dropped:,} were dropped.",
            quiet,
        )
