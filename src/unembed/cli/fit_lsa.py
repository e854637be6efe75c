"""`unembed fit-lsa`: fit the encoder `lsa` (TF-IDF and a truncated SVD) on texts and write it into a folder."""

from __future__ import annotations

import itertools

import click

from unembed.cli.options import as_column, output_options
from unembed.cli.sampling import limited, row_options


@click.command("fit-lsa")
@click.argument("texts", nargs=-1, required=True, metavar="TEXTS...")
@click.option("--out", "-o", required=True, metavar="FOLDER", help="Where the encoder is written.")
@click.option("--dimensions", type=click.IntRange(2), default=512, show_default=True, help="Length of a vector.")
@click.option(
    "--max-length",
    "--limit",
    "max_length",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Longest text in tokens.",
)
@click.option("--column", metavar="NAME", help="Column of the texts; default: text, or the last of a .tsv.")
@click.option("--exclude-source", multiple=True, metavar="NAME", help="Leave out the texts of a source; repeatable.")
@row_options("texts")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the decomposition.")
@output_options
def command(
    texts: tuple[str, ...],
    out: str,
    dimensions: int,
    max_length: int,
    column: str | None,
    exclude_source: tuple[str, ...],
    limit_rows: int | None,
    sample: int | None,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fit the encoder lsa on TEXTS (.txt, .tsv, .jsonl, .parquet, each also .zst; files or folders).

    Texts are cut as `unembed embed` cuts them; their tokens are those of MiniLM's tokenizer. The encoder is then named
    lsa:FOLDER.

    \b
    Examples:
      unembed fit-lsa corpus/ --out encoders/lsa --limit-rows 200000 --sample 1
      unembed embed corpus/ --encoder lsa:encoders/lsa --shards data/lsa
    """
    from unembed.cli.console import note, progress, show_json
    from unembed.data.sources import read_texts
    from unembed.data.tokenization import Tokenizer
    from unembed.encoders.lsa import fit_lsa
    from unembed.encoders.minilm import minilm_tokenizer_json

    every = (text for text, _ in read_texts(texts, as_column(column), None, exclude_source))
    stream = limited(every, limit_rows, sample)
    tokenizer = Tokenizer.from_json(minilm_tokenizer_json())
    cut = (
        part.text
        for chunk in iter(lambda: list(itertools.islice(stream, 4096)), [])
        for part in tokenizer.truncate(chunk, max_length)
        if part is not None
    )
    with progress("Reading", limit_rows, quiet) as bar:
        encoder = fit_lsa(cut, out, tokenizer.to_json(), dimensions, seed, bar.advance)
    if as_json:
        show_json({"path": out, "encoder": encoder.name, "dimension": encoder.dimension, **encoder.fitted})
    else:
        note(f"{encoder.name}: {encoder.dimension} dimensions, fitted on {encoder.fitted['texts']} texts.", quiet)
