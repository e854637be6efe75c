"""`unembed embed`: texts in, vectors out, as one file or as shards for training.

Each text is cut to the limit in tokens, decoded back, and exactly that text is embedded.
"""

from __future__ import annotations

import base64
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.options import as_column, given, makes_folder, output_options, text_options
from unembed.cli.sampling import limited, row_options
from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.cli.chunks import Chunks
    from unembed.data.records import Record
    from unembed.data.tokenization import Tokenizer
    from unembed.encoders.protocol import Encoder
    from unembed.stores.protocol import VectorBatch

CHUNK = 256  # texts between two looks at what is kept
ROWS = 1024  # of a row group
OWN = frozenset(("id", "text", "embedded_text", "source", "embedding"))


@click.command("embed")
@click.argument("texts", nargs=-1, required=True, metavar="TEXTS...")
@click.option("--out", "-o", metavar="FILE", help="Write vectors to a .parquet, .npy or .jsonl file (mode 600).")
@click.option("--shards", metavar="FOLDER", help="Write training shards into a folder; continues where it stopped.")
@click.option("--resume", is_flag=True, help="With --out: continue with the finished rows of an interrupted run.")
@click.option(
    "--encoder", default="minilm", show_default=True, metavar="NAME", help="Encoder: a name, a folder or an endpoint."
)
@click.option(
    "--tokenizer", default="encoder", show_default=True, metavar="NAME", help="Folder, hub name, or the encoder's own."
)
@click.option(
    "--max-length",
    "--limit",
    "max_length",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Longest text in tokens.",
)
@text_options
@click.option("--id-column", metavar="NAME", help="With --out: the ids; default: a column named id, else row numbers.")
@click.option("--keep", multiple=True, metavar="NAME", help="With --out: copy this column; may be repeated.")
@row_options("texts")
@click.option("--shard-size", type=click.IntRange(1), default=65536, show_default=True, help="Texts per shard.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16", help="Number type in shards.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Precision of the encoder's arithmetic.")
@click.option("--prompt-name", metavar="NAME", help="One of the encoder's own prompts, put before every text.")
@click.option("--batch-size", type=click.IntRange(1), help="Texts per batch of the encoder.")
@click.option("--device", metavar="NAME", help="Device: cpu, cuda or mps; default: the encoder's choice.")
@output_options
@makes_folder("shards")
@makes_folder("out")
def command(
    texts: tuple[str, ...],
    out: str | None,
    shards: str | None,
    resume: bool,
    encoder: str,
    tokenizer: str,
    max_length: int,
    column: str | None,
    source_column: str | None,
    exclude_source: tuple[str, ...],
    id_column: str | None,
    keep: tuple[str, ...],
    limit_rows: int | None,
    sample: int | None,
    shard_size: int,
    dtype: str,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Embed TEXTS (.txt, .tsv, .jsonl, .parquet, each also .zst; files or folders) into a file or into shards.

    A Hugging Face dataset is named hf:NAME, with options after a question mark, and is read as a stream.

    With --out each vector has its text beside it, as it was (text) and as it was embedded (embedded_text), with its id
    and the columns of --keep.

    Texts that are empty or hold characters that the encoder's tokenizer does not know are dropped. Rows that are
    finished when a run is interrupted are kept, in FILE.partial or as whole shards; the same command continues after
    them, with --resume where it writes a file.

    \b
    Examples:
      unembed embed notes.txt --out vectors.parquet
      unembed embed notes.txt --out vectors.parquet --resume
      unembed embed corpus/ --shards data/train --exclude-source medquad
      unembed embed corpus/ --out sample.parquet --limit-rows 10000 --sample 1
      unembed embed "hf:allenai/c4?config=en&take=2000000" --shards data/c4
      unembed embed notes.txt --encoder "http://127.0.0.1:8000/v1?model=NAME" --out vectors.parquet
    """
    from unembed.cli.chunks import Chunks, refuse_partial
    from unembed.cli.console import note, progress, show_json
    from unembed.cli.recovered import kept_names
    from unembed.data.hub_datasets import DatasetStream, is_dataset
    from unembed.data.records import Record
    from unembed.data.sources import read_records, read_texts
    from unembed.data.tokenizers import load_tokenizer
    from unembed.encoders.http import HttpEncoder
    from unembed.encoders.registry import load_encoder
    from unembed.stores.writing import check_target

    if (out is None) == (shards is None):
        raise InputError("Neither or both of --out and --shards are given.", "Give exactly one of them.")
    if shards is not None and (id_column is not None or keep):
        raise InputError("--id-column and --keep go with --out.", "Leave them out: shards hold no columns.")
    names = kept_names(keep, quiet, OWN)
    if out is not None:
        check_target(out)
        _refuse_overwriting(out, texts, encoder, tokenizer)
        if not resume:
            refuse_partial(out)
    model = load_encoder(encoder, **given(**options))  # before any text is read: an endpoint may want a key
    total = limit_rows
    stream: Any  # pairs for shards, records for a file
    if all(map(is_dataset, texts)):
        if column is not None or source_column is not None:
            raise InputError(
                "--column and --source-column do not go with a dataset.", "Write hf:NAME?column=...&source=... instead."
            )
        if id_column is not None or keep:
            raise InputError("--id-column and --keep do not go with a dataset.", "Leave them out.")
        stream = DatasetStream(texts, exclude_source, limit_rows if sample is None else None)
    else:
        where = texts, as_column(column), as_column(source_column), exclude_source
        stream = iter(read_texts(*where)) if shards is not None else read_records(*where, id_column, keep)
        if limit_rows is None and sys.stderr.isatty() and not quiet and not any(map(is_dataset, texts)):
            # reading is a hundred times faster than embedding
            total = sum(1 for _ in read_texts(texts, as_column(column), as_column(source_column), exclude_source))
    if sample is not None and shards is None:
        stream = itertools.starmap(_numbered, enumerate(stream))
    if sample is not None or not isinstance(stream, DatasetStream):  # which stops at its limit by itself
        stream = limited(stream, limit_rows, sample)
    tokens = load_tokenizer(tokenizer, model)
    with progress("Embedding", total, quiet) as bar:
        if shards is not None:
            from unembed.data.shards import write_shards

            done = 0

            def advance(count: int) -> None:
                nonlocal done
                bar.advance(count - done)
                done = count

            manifest = write_shards(shards, stream, model, tokens, max_length, shard_size, dtype, advance)
            report = {"path": shards, "texts": manifest.n, "dropped": manifest.dropped, "shards": len(manifest.shards)}
        else:
            counter = {"rows": 0}
            reading = {"column": column, "source_column": source_column, "exclude_source": exclude_source}
            others = {"id_column": id_column, "keep": names, "vectors": model.identity.to_dict()}
            known = {key: getattr(model.identity, key) for key in ("name", "revision", "prompt", "dimension")}
            made = {
                "encoder": known,
                "tokenizer": tokens.sha256,
                "limit": max_length,
                "precision": options["precision"],
            }
            settings = {"texts": texts, **reading, **others, "limit_rows": limit_rows, "sample": sample, **made}
            finish = partial(_assemble, str(out), counter)
            with Chunks(str(out), settings, finish, same={"vectors": _same_vectors}) as chunks:
                records = itertools.starmap(Record, stream)
                _fill(chunks, records, model, tokens, max_length, list(names.values()), bar.advance)
                chunks.finish()
            report = {"path": out, "texts": counter["rows"], "dropped": chunks.done - counter["rows"]}
    usage = model.usage if isinstance(model, HttpEncoder) else None
    if usage is not None and not as_json:
        note(f"{model.name}: {usage}.", quiet)
    if as_json:
        report = report if usage is None else {**report, "usage": usage.to_dict()}
        show_json({**report, "encoder": model.name, "dimension": model.dimension, "limit": max_length})
    else:
        note(f"{report['texts']} texts in {report['path']}; {report['dropped']} were dropped.", quiet)


def _refuse_overwriting(out: str, texts: tuple[str, ...], encoder: str, tokenizer: str) -> None:
    """Refuse a file that is read, or that the same command would read as texts the next time."""
    from unembed.cli.output import files_of, refuse_same
    from unembed.data.hub_datasets import is_dataset
    from unembed.data.sources import format_of, list_files

    files = [path for path in texts if not is_dataset(path)]
    models = [*files_of(encoder), *files_of(tokenizer)]
    refuse_same({"--out": out}, {"a file of texts": list_files(files) if files else [], "read for the encoder": models})
    for folder in filter(os.path.isdir, files):
        if format_of(Path(out)) and Path(folder).resolve() in Path(out).resolve().parents:
            raise InputError(
                f"--out {out} is in {folder}, all files of which are read as texts.", "Name a file elsewhere."
            )


def _same_vectors(then: Any, now: Any) -> bool:
    """Whether two identities are of encoders that make the same vectors, but for rounding."""
    from unembed.encoders.identity import EncoderIdentity

    return EncoderIdentity.from_dict(then).same_vectors(EncoderIdentity.from_dict(now))


def _numbered(number: int, row: tuple[Any, ...]) -> Record:
    """A text whose id is its number among all, where it has none of its own."""
    from unembed.data.records import Record

    record = Record(*row)
    return record if record.id is not None else record._replace(id=number)


def _fill(
    chunks: Chunks,
    stream: Iterator[Record],
    encoder: Encoder,
    tokenizer: Tokenizer,
    max_length: int,
    kept: list[str],
    advance: Callable[[int], None],
) -> None:
    """Cut and embed the texts that `chunks` does not cover.

    Args:
        chunks: of the output.
        stream: all texts; those without an id get their number.
        encoder, tokenizer, max_length: what makes vectors of them.
        kept: names of their columns in the output.
        advance: called with the number of texts that are done.
    """
    import numpy as np

    from unembed.cli.console import plain

    for number, record in enumerate(itertools.islice(stream, chunks.done)):
        chunks.reread(number, repr(record).encode("utf-8", "backslashreplace"))
        advance(1)
    chunks.compare()
    while part := list(itertools.islice(stream, CHUNK)):
        cut = tokenizer.truncate([record.text for record in part], max_length)
        used = [(row, found.text) for row, found in enumerate(cut) if found is not None]
        vectors: Any = np.asarray(encoder.encode([text for _, text in used]), dtype="<f4") if used else []
        rows = [
            {
                "id": chunks.done + row if part[row].id is None else plain(part[row].id),
                "text": part[row].text,
                "embedded_text": text,
                "source": part[row].source,
                **dict(zip(kept, map(plain, part[row].columns), strict=True)),
                "embedding": base64.b64encode(vector.tobytes()).decode(),
            }
            for (row, text), vector in zip(used, vectors, strict=True)
        ]
        chunks.write(rows, len(part), [repr(record).encode("utf-8", "backslashreplace") for record in part])
        advance(len(part))


def _assemble(out: str, counter: dict[str, int], chunks: Callable[[], Iterator[list[dict[str, Any]]]]) -> None:
    """Make the file of the finished chunks; count its rows."""
    from unembed.stores.column_types import Column
    from unembed.stores.writing import write_vectors

    columns: dict[str, Column] = {}
    for rows in chunks() if out.lower().endswith(".parquet") else ():
        for name in rows[0] if rows else ():
            if name != "embedding":
                columns.setdefault(name, Column()).add([row[name] for row in rows])
    types = {name: column.type() for name, column in columns.items()}
    counter["rows"] = write_vectors(out, _batches(chunks()), types)


def _batches(chunks: Iterator[list[dict[str, Any]]]) -> Iterator[VectorBatch]:
    """Make batches of one size of the finished rows, so that the file does not depend on where a run was cut."""
    import numpy as np

    from unembed.stores.protocol import VectorBatch

    stream = itertools.chain.from_iterable(chunks)
    count = 0
    while rows := list(itertools.islice(stream, ROWS)):
        vectors = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows])
        metadata = {name: [row[name] for row in rows] for name in rows[0] if name not in ("id", "embedding")}
        yield VectorBatch([row["id"] for row in rows], vectors, metadata, count)
        count += len(rows)
