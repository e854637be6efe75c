"""`unembed invert`: a file of vectors in, recovered texts out, as a table, JSON lines, CSV or parquet.

The file is read, decoded and written batch by batch, so memory does not grow with it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unembed.cli.options import (
    Known,
    decoding_options,
    given,
    known_options,
    model_options,
    output_options,
    precision_option,
)
from unembed.cli.query_options import QueryOptions, query_options
from unembed.cli.sampling import limited_batches, row_options
from unembed.cli.skipped import Skipped
from unembed.errors import EncoderMismatchError, InputError
from unembed.stores.opening import STREAMS
from unembed.stores.reading import BadRow

if TYPE_CHECKING:
    from unembed.cli.console import Progress
    from unembed.cli.recovered import Sink
    from unembed.inverter import Inverter, Recovery
    from unembed.stores.protocol import Store, VectorBatch
    from unembed.stores.reading import ReadOptions

T = TypeVar("T")
CHUNK = 64  # vectors read and shown at a time


@click.command("invert")
@click.argument("vectors", metavar="VECTORS")
@model_options
@precision_option
@click.option("--out", "-o", metavar="FILE", help="Write .jsonl, .csv or .parquet (mode 600) instead of a table.")
@click.option("--resume", is_flag=True, help="Continue with the finished rows of an interrupted run.")
@click.option("--column", metavar="NAME", help="Column or array with the vectors, or places such as 1-384.")
@click.option("--id-column", metavar="NAME", help="Column with the ids; default: one named id, else row numbers.")
@click.option("--keep", multiple=True, metavar="NAME", help="Copy this column to the output; may be repeated.")
@click.option("--compare", metavar="NAME", help="Column of true texts: show them too, then the scores.")
@click.option("--format", "kind", type=click.Choice(STREAMS), help="Format of standard input (-); default: jsonl.")
@click.option("--header/--no-header", default=None, help="Whether a table's first line names columns; default: guess.")
@click.option("--scale", metavar="NUMBERS", help="Scale of int8 or uint8: a number, several, or a .npy file.")
@click.option("--offset", metavar="NUMBERS", help="Offset added after the scale: a number, several, or a .npy file.")
@click.option("--packed", is_flag=True, help="Each byte holds 8 dimensions, the first in its highest bit.")
@click.option("--skip-bad", is_flag=True, help="Report rows without a usable vector and leave them out.")
@row_options("rows")
@decoding_options
@known_options
@query_options
@click.option("--tokens", is_flag=True, help="Also write each token's probability, and p_exact, that of all.")
@click.option("--alternatives", is_flag=True, help="Also write the other drafts, best first.")
@click.option("--trace", metavar="FILE", help="Write the steps of every decode to this .jsonl file (mode 600).")
@click.option("--animate", metavar="FILE", help="Draw the first row's decode as an animated .svg file (mode 600).")
@output_options
def command(
    vectors: str,
    model: str,
    device: str | None,
    precision: str,
    out: str | None,
    resume: bool,
    column: str | None,
    id_column: str | None,
    keep: tuple[str, ...],
    compare: str | None,
    kind: str | None,
    header: bool | None,
    scale: str | None,
    offset: str | None,
    packed: bool,
    skip_bad: bool,
    limit_rows: int | None,
    sample: int | None,
    tokens: bool,
    alternatives: bool,
    trace: str | None,
    animate: str | None,
    batch_size: int | None,
    as_json: bool,
    quiet: bool,
    **decoding: Any,
) -> None:
    """Recover texts from VECTORS: a .npy, .npz, .parquet, .arrow, .json, .jsonl, .csv, .tsv, .safetensors, .fvecs or
    .h5 file, each text format also as .gz or .zst, or - for stdin.

    The confidence is the share of tokens (token_f1) that is expected to be right. Where nothing is calibrated (other
    strategies, and texts that the encoder was asked about) it is empty; the likelihood, what the model thinks of its
    own text, is always there. The fit is the share of usual texts whose vectors look at least as unusual: below 0.01 a
    row does not fit the model, and misfit says why: vector (another encoder, or damaged), long or language.

    Rows that are finished when a run with --out is interrupted are kept in FILE.partial; the same command with --resume
    continues after them.

    Quantised vectors are read as scale * stored + offset, with one number or one per dimension ("0.1,0.2" or a .npy
    file); a .npy file of shape (2, dimension) holds sentence-transformers' ranges.

    With --queries the encoder measures how near drafts are, and the nearest found within that many queries per text is
    shown; after Ctrl-C the best so far.

    What is known of the texts beforehand is kept in every strategy: --prefix, --known, --require, --ban and --length,
    for all rows or from a column. Positions and lengths count tokens: words, marks and pieces of rare words.

    \b
    Examples:
      unembed invert examples/vectors.parquet --limit-rows 5
      unembed invert examples/vectors.parquet --limit-rows 5 --compare text
      unembed invert examples/vectors.parquet --limit-rows 5 --sample 1
      unembed invert examples/vectors.parquet --limit-rows 5 --out texts.csv --keep source
      unembed invert examples/vectors.parquet --limit-rows 5 --strategy sequential --lengths 5 --json
      unembed invert examples/vectors.parquet --limit-rows 5 --out texts.parquet --resume
      unembed invert examples/vectors.parquet --strategy prior --out words.parquet
      unembed invert examples/vectors.parquet --limit-rows 5 --prefix "the" --length 5-12 --ban however
      unembed invert examples/vectors.parquet --limit-rows 5 --require "new york" --known "3=doctor" --json
      unembed invert examples/vectors.parquet --limit-rows 1 --compare text --animate decode.svg
      unembed invert examples/vectors.parquet --limit-rows 2 --queries 16 --compare text
      unembed invert - --format npy --skip-bad < vectors.npy
    """
    from unembed.checkpoint.shipped import find_checkpoint
    from unembed.cli.chunks import Chunks, refuse_partial
    from unembed.cli.compare import Scores
    from unembed.cli.console import progress
    from unembed.cli.output import check_output, draw_row, files_of, open_lines, refuse_same
    from unembed.cli.recovered import Fitting, columns, kept_names, open_sink, trace_row
    from unembed.stores.opening import open_store

    if out is not None and as_json:
        raise InputError("Both --out and --json are given.", "Use one of them: --out FILE.jsonl writes JSON lines too.")
    if resume and (out is None or compare is not None or trace is not None or animate is not None):
        raise InputError(
            "--resume goes with --out, and without --compare, --trace and --animate.",
            "Name a file, and score, trace or draw in a run of its own.",
        )
    for path, kinds in ((out, None), (trace, (".jsonl",)), (animate, (".svg",))):
        if path is not None:
            check_output(path, *([kinds] if kinds else []))
    names = kept_names(keep, quiet)
    outputs = {"--out": out, "--trace": trace, "--animate": animate}
    inputs: dict[str, list[Any]] = {"the input": [vectors], "read for --scale or --offset": [scale, offset]}
    if any(outputs.values()):
        inputs["a file of the model"] = [*files_of(find_checkpoint(model))]
    refuse_same(outputs, inputs)
    resumable = compare is None and trace is None and animate is None
    if out is not None and not resume:
        refuse_partial(out, resumable)
    known, asking = Known.take(decoding), QueryOptions.take(decoding)
    asking.refuse(trace, animate)
    skipped = Skipped(limit_rows if sample is None else None, as_json, quiet) if skip_bad else None
    used = sorted({*keep, *known.columns(), *([compare] if compare is not None else [])})
    reading = replace(_reading(scale, offset, packed, skipped, quiet), wanted=frozenset(used), header=header)
    store = open_store(vectors, column, id_column, reading=reading, kind=kind)
    inverter = _load(model, device, precision, store)
    asking.prepare(inverter)
    if compare is not None:
        _ = inverter.encoder  # the scores need it at the end
    options = given(**decoding, batch_size=batch_size, trace=True if trace else None)
    step = max(CHUNK, batch_size or inverter.resolve(given(**decoding)).batch_size)
    if asking:
        step = batch_size or CHUNK
    chunks = None
    if out is not None:
        source = {"vectors": vectors, "column": column, "id_column": id_column, "keep": names}
        rows = {"limit_rows": limit_rows, "sample": sample}
        form = {
            "format": kind,
            "header": header,
            "scale": scale,
            "offset": offset,
            "packed": packed,
            "skip_bad": skip_bad,
        }
        decode = {"model": _digests(inverter, model), "precision": inverter.precision, "options": options}
        shown = {"tokens": tokens, "alternatives": alternatives, "compare": compare}
        settings = {**source, **rows, **form, **decode, **shown, **known.settings(), **asking.settings()}
        chunks = Chunks(out, settings, resumable=resumable)
    scores = Scores(inverter, asking.queries) if compare is not None else None
    fitting = Fitting()
    total = store.count if limit_rows is None or store.count is None else min(store.count, limit_rows)
    with contextlib.ExitStack() as stack:
        chosen = columns(tokens, alternatives, bool(known), bool(asking))
        sink = stack.enter_context(open_sink(as_json, compare is not None, chunks, chosen))
        write_trace = stack.enter_context(open_lines(trace)) if trace is not None else None
        table_grows = out is None and not as_json and sys.stdout.isatty()  # it shows progress enough
        shows_both = table_grows and bool(asking)  # one batch takes long: a bar until its rows are there
        bar = stack.enter_context(progress("Inverting", total, quiet or (table_grows and not asking)))
        usable = (batch if sample is None else _usable(batch, store.name, skipped) for batch in store.batches(step))
        for batch in limited_batches(usable, limit_rows, sample, step):
            finished = sum(batch.row(i) < chunks.done for i in range(len(batch))) if chunks is not None else 0
            if finished and chunks is not None:
                old = _usable(batch.take(range(finished)), store.name, skipped)
                for i, row in enumerate(_rows_read(old, used)):
                    chunks.reread(old.row(i), row)
                bar.advance(finished)
                if finished == len(batch):
                    continue
                batch = batch.take(range(finished, len(batch)))
            if chunks is not None:
                chunks.compare()
            batch = _usable(batch, store.name, skipped)
            if not len(batch):
                continue
            originals = _column(batch, compare, store.name) if compare is not None else None
            kept = {new: _column(batch, name, store.name) for name, new in names.items()}
            refine = asking.refine(batch.vectors, reading.quantisation)
            if refine is None:
                found = _begin(inverter.invert, batch, options, known, store.name)
            else:
                session = _begin(inverter.session, batch, {"refine": refine, **options}, known, store.name)
                try:
                    for at in session:
                        asking.show(at, bar)
                except BaseException:
                    if out is None:
                        _show_best(session.recoveries(), sink, bar, batch, originals, kept)
                    raise
                found = session.recoveries()
            asking.count(found)
            fitting.add(found)
            if shows_both:
                bar.close()
            sink(batch, found, originals, kept, _rows_read(batch, used) if chunks is not None else ())
            if scores is not None and originals is not None:
                scores.add(batch.vectors, found, originals)
            if write_trace is not None:
                write_trace([trace_row(name, part) for name, part in zip(batch.ids, found, strict=True)])
            if animate is not None:
                first = {**options, **_constraints(batch.head(1), known, store.name)}
                draw_row(animate, inverter, batch.vectors[0], originals[0] if originals else None, first)
                animate = None
            bar.advance(len(batch))
    if scores is not None:
        scores.show(as_json, quiet)
    if skipped is not None:
        skipped.show()
    fitting.show(quiet)


def _rows_read(batch: VectorBatch, columns: Sequence[str]) -> list[bytes]:
    """What the output depends on of each row of a batch, for `Chunks`."""
    others = [batch.metadata[name] for name in columns if name in batch.metadata]
    return [
        repr((batch.row(i), name, [column[i] for column in others])).encode("utf-8", "backslashreplace")
        + batch.vectors[i].tobytes()
        for i, name in enumerate(batch.ids)
    ]


def _digests(inverter: Inverter, model: str) -> list[str]:
    """Digests of the checkpoint and of the files next to it that take part in decoding."""
    from unembed.checkpoint.shipped import find_checkpoint
    from unembed.checkpoint.sums import FIT_FILE
    from unembed.files import sha256_file

    beside = (find_checkpoint(model) / name for name in ("student.json", "corrector.safetensors", FIT_FILE))
    return [inverter.sha256, *(sha256_file(path) for path in beside if path.is_file())]


def _show_best(
    found: list[Recovery],
    sink: Sink,
    bar: Progress,
    batch: VectorBatch,
    originals: list[Any] | None,
    kept: dict[str, list[Any]],
) -> None:
    """Show the best drafts so far of a batch whose refinement is interrupted, as far as there are any."""
    from unembed.cli.console import note

    count = len(found)
    if count:
        bar.close()
        cut = None if originals is None else originals[:count]
        sink(batch.head(count), found, cut, {name: values[:count] for name, values in kept.items()})
        note(f"\nThe last {count} rows are shown with the best draft found before the interruption.")


def _begin(call: Callable[..., T], batch: VectorBatch, options: dict[str, Any], known: Known, source: str) -> T:
    """Invert a batch, or begin to, under what is known of its rows."""
    if not known:
        return call(batch.vectors, **options)
    constraints = _constraints(batch, known, source)
    try:
        return call(batch.vectors, **options, **constraints)
    except InputError as error:
        raise known.located(error, batch) from error


def _constraints(batch: VectorBatch, known: Known, source: str) -> dict[str, Any]:
    """Return what is known of the rows of a batch, as options of `Inverter.invert`."""
    return known.of(batch, lambda part, name: _column(part, name, source)) if known else {}


def _reading(scale: str | None, offset: str | None, packed: bool, skipped: Skipped | None, quiet: bool) -> ReadOptions:
    """Make what the reader is given of the options."""
    from unembed.cli.console import note
    from unembed.stores.quantised import Quantisation, parse_numbers
    from unembed.stores.reading import ReadOptions

    factor = parse_numbers(scale, "scale") if scale is not None else None
    shift = parse_numbers(offset, "offset") if offset is not None else None
    return ReadOptions(Quantisation(factor, shift, packed), skipped, lambda text: note(f"note: {text}", quiet))


def _load(model: str, device: str | None, precision: str, store: Store) -> Inverter:
    """Load the model and check that the store's vectors can be its encoder's."""
    from unembed.inverter import Inverter

    inverter = Inverter.from_pretrained(model, device, precision)
    if store.dimension != inverter.dimension:
        raise EncoderMismatchError(
            f"The vectors of {store.name} have dimension {store.dimension}; "
            f"the model was trained on vectors of dimension {inverter.dimension}.",
            "Use a model for the encoder that made these vectors, or name the right column with --column.",
        )
    return inverter


def _usable(batch: VectorBatch, source: str, skipped: Skipped | None) -> VectorBatch:
    """Refuse or skip vectors without a direction; the reader has seen to NaN already."""
    if bool(batch.vectors.any(axis=1).all()):
        return batch
    filled = [bool(vector.any()) for vector in batch.vectors]
    for row in (batch.row(i) for i, good in enumerate(filled) if not good):
        what = f"Row {row} of {source} is a vector of zeros."
        if skipped is None:
            raise InputError(what, "Remove that row, which holds nothing to recover, or add --skip-bad.")
        skipped(BadRow(row, what))
    return batch.take([i for i, good in enumerate(filled) if good])


def _column(batch: VectorBatch, name: str, source: str) -> list[Any]:
    """Return a metadata column of the batch."""
    if name not in batch.metadata:
        listed = ", ".join(batch.metadata) or "none"
        raise InputError(
            f"{source} has no column named {name!r} besides ids and vectors (it has: {listed}).", "Check the name."
        )
    return batch.metadata[name]
