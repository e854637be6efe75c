"""`unembed evaluate`: how much of known texts a model recovers, with intervals and, on request, baselines beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.options import (
    decoding_options,
    encoder_option,
    given,
    makes_folder,
    model_options,
    output_options,
    precision_option,
)
from unembed.cli.query_curve import read_budgets, show_curve
from unembed.cli.sampling import reservoir
from unembed.errors import DataError, InputError
from unembed.refinement.refine import METHODS

if TYPE_CHECKING:
    from unembed.evaluation.sets import EvaluationSet, TrainingSample
    from unembed.inverter import Inverter

_CHUNK = 256  # texts embedded between two looks at the clock


@click.command("evaluate")
@click.argument("data", metavar="DATA")
@model_options
@encoder_option
@precision_option
@click.option(
    "-n", "count", type=click.IntRange(1), default=1000, show_default=True, help="Number of texts, drawn with the seed."
)
@click.option("--column", metavar="NAME", help="Column of the texts; default: text, or the last of a .tsv.")
@click.option("--name", metavar="NAME", help="What the set is called in results; default: the file's name.")
@decoding_options
@click.option("--rate", "rates", multiple=True, type=click.FloatRange(0, 1), help="Also masked_token_accuracy@RATE.")
@click.option("--train", metavar="FOLDER", help="Training shards: adds the baselines and bins by distance to them.")
@click.option(
    "--neighbours", type=click.IntRange(1), default=200_000, show_default=True, help="Number of --train texts used."
)
@click.option("--no-cosine", is_flag=True, help="Do not embed the recovered texts for their cosine.")
@click.option("--queries", metavar="N,N,...", help="Query budgets per text, such as 0,4,16,64: the curve over them.")
@click.option("--refinement", type=click.Choice(list(METHODS)), default=None, help="How drafts are refined.")
@click.option("--figure", metavar="FILE", help="Draw the curve over queries as .svg or .png.")
@click.option("--out", "-o", metavar="FOLDER", help="Write one JSON file per run.")
@output_options
@makes_folder("out")
def command(
    data: str,
    model: str,
    device: str | None,
    encoder: str | None,
    precision: str,
    count: int,
    column: str | None,
    name: str | None,
    strategy: str | None,
    seed: int,
    batch_size: int | None,
    rates: tuple[float, ...],
    train: str | None,
    neighbours: int,
    no_cosine: bool,
    queries: str | None,
    refinement: str | None,
    figure: str | None,
    out: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Score a model on DATA: texts (.txt, .tsv, .jsonl, .parquet, each also .zst) or a folder of shards.

    Texts are cut to the model's limit in tokens and embedded by its own encoder; the model sees the vectors alone.

    \b
    Examples:
      unembed evaluate examples/vectors.parquet -n 100
      unembed evaluate corpus/english-test.tsv.zst --train data/train --out docs/results
      unembed evaluate examples/vectors.parquet -n 8 --queries 0,1,4 --refinement search
    """
    from unembed.cli.console import note, show_json
    from unembed.cli.output import files_of, refuse_same
    from unembed.evaluation.harness import Setting, evaluate_set, write_result
    from unembed.evaluation.tables import main_table
    from unembed.files import make_folder
    from unembed.inverter import Inverter

    if (refinement is not None or figure is not None) and queries is None:
        raise InputError("--refinement and --figure need queries.", "Add --queries 0,4,16,64.")
    budgets = None if queries is None else read_budgets(queries)
    refuse_same({"--figure": figure}, {"the texts": files_of(data)})
    if out is not None:
        make_folder(out, private=True)
    inverter = Inverter.from_pretrained(model, device, precision)
    if encoder is not None:
        inverter.use_encoder(encoder)
    if budgets is not None:
        if train is not None or rates or no_cosine:
            raise InputError(
                "--queries measures a curve and does not go with --train, --rate or --no-cosine.",
                "Run the two one after the other.",
            )
        texts = load_set(data, inverter, count, seed, name, column, quiet)
        decode = given(strategy=strategy, **options)
        show_curve(inverter, texts, budgets, refinement, decode, seed, batch_size, figure, out, as_json, quiet)
        return
    default = inverter.resolve({}).strategy
    used = given(**options)
    setting = Setting(strategy or default, used, default=strategy in (None, default) and not used)
    texts = load_set(data, inverter, count, seed, name, column, quiet)
    sample = load_sample(train, inverter, neighbours, seed) if train is not None else None
    asked = None if no_cosine else inverter.encoder
    nearest = sample.nearest(texts.vectors)[1] if sample is not None else None
    results = [
        evaluate_set(
            inverter,
            texts,
            setting,
            sample=sample,
            nearest=nearest,
            encoder=asked,
            rates=rates,
            seed=seed,
            batch_size=batch_size,
            progress=not quiet and sys.stderr.isatty(),
        )
    ]
    if sample is not None:
        results += _baselines(inverter, texts, sample, setting, nearest, asked, seed)
    if out is not None:
        paths = [write_result(out, result) for result in results]
        note("\n".join(f"wrote {path}" for path in paths), quiet)
    if as_json:
        show_json(results[0] if sample is None else results)
        return
    click.echo(main_table(results), nl=False)
    if "cosine" in results[0].get("floors", {}):
        note(f"The cosine of random pairs of these texts is {results[0]['floors']['cosine']['value']:.3f}.", quiet)


def load_set(
    data: str,
    inverter: Inverter,
    count: int,
    seed: int,
    name: str | None = None,
    column: str | None = None,
    quiet: bool = True,
) -> EvaluationSet:
    """Draw `count` texts from shards, or from files of texts, which are then embedded.

    Raises:
        DataError: nothing there that can be used.
        EncoderMismatchError: the encoder (or the shards') is not the model's.
    """
    import numpy as np

    from unembed.cli.console import progress
    from unembed.data.sources import read_texts
    from unembed.evaluation.sets import EvaluationSet

    if (Path(data) / "manifest.json").is_file():
        return EvaluationSet.from_rows(name or Path(data).name, open_shards(data, inverter), count, seed)
    encoder = inverter.encoder  # before any text is read: an endpoint may want a key
    at: str | int | None = int(column) if column is not None and column.lstrip("-").isdigit() else column
    texts, total = reservoir((text for text, _ in read_texts(data, at)), count, seed)
    cut = [part for part in inverter.tokenizer.truncate(texts, inverter.max_length) if part is not None]
    if not cut:
        raise DataError(f"No text of {data} can be embedded.", "Give texts in the language of the encoder.")
    stem = Path(data).name.removesuffix(".zst")
    with progress("Embedding", len(cut), quiet) as bar:
        parts = []
        for start in range(0, len(cut), _CHUNK):
            parts.append(encoder.encode([part.text for part in cut[start : start + _CHUNK]]))
            bar.advance(len(parts[-1]))
    vectors = np.concatenate(parts)
    return EvaluationSet(name or Path(stem).stem, [part.ids for part in cut], vectors, total, seed)


def load_sample(folder: str, inverter: Inverter, count: int, seed: int) -> TrainingSample:
    """Draw a part of the training shards, for the baselines."""
    from unembed.evaluation.sets import TrainingSample

    return TrainingSample.from_rows(open_shards(folder, inverter), count, seed)


def open_shards(folder: str, inverter: Inverter) -> Any:
    """Open shards and check that the model's encoder made them.

    Raises:
        DataError: they are damaged.
        EncoderMismatchError: another encoder made them.
    """
    from unembed.data.shards import ShardDataset
    from unembed.errors import EncoderMismatchError

    dataset = ShardDataset(folder)
    theirs, ours = dataset.identity, inverter.identity
    if (theirs.name, theirs.dimension) != (ours.name, ours.dimension):
        raise EncoderMismatchError(
            f"The shards in {folder} were made by {theirs.name} ({theirs.dimension} dimensions), "
            f"the model is for {ours.name} ({ours.dimension}).",
            f"Make shards with `unembed embed --encoder {ours.name}`.",
        )
    dataset.verify()
    return dataset


def _baselines(
    inverter: Inverter,
    data: EvaluationSet,
    sample: TrainingSample,
    setting: Any,
    nearest: Any,
    encoder: Any,
    seed: int,
) -> list[dict[str, Any]]:
    """Run the baselines that need training data: random tokens, the unconditional denoiser, the nearest neighbour."""
    from unembed.evaluation.baselines import BASELINES, run_baseline
    from unembed.evaluation.harness import evaluate_baseline

    config = inverter.resolve({"strategy": setting.strategy, "seed": seed, **setting.options})
    results = []
    for name in BASELINES[:3]:
        preds, passes, seconds = run_baseline(name, inverter, data, sample, config, seed)
        known = {"sample": sample, "nearest": nearest, "encoder": encoder, "seed": seed}
        results.append(evaluate_baseline(name, preds, inverter, data, seconds=seconds, passes=passes, **known))
    return results
