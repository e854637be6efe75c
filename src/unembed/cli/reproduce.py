"""`unembed reproduce`: the tables of arXiv 2602.11047 with models of one's own, beside the paper's figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.options import output_options, precision_option
from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.evaluation.reproduction import Reproduction, Subject
    from unembed.inverter import Inverter


@click.command("reproduce")
@click.argument("data", metavar="DATA")
@click.option(
    "--model",
    "-m",
    "models",
    multiple=True,
    metavar="NAME=PATH",
    help="A model, one for each encoder; the first one is used for tables 3 to 6. Default: the shipped one.",
)
@click.option("--milestone", "milestones", multiple=True, metavar="LABEL=PATH", help="A checkpoint from during a run.")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="NAME=ENCODER",
    help="Where a model's encoder is: an endpoint, a folder or a hub name.",
)
@click.option("--log", "logs", multiple=True, metavar="NAME=FILE", help="A run's log.jsonl, for figure 2.")
@click.option("--train", metavar="FOLDER", help="Training shards of the first model: adds the baselines.")
@click.option(
    "--recipe", "recipes", multiple=True, metavar="FILE", help="A recipe for table 4, beside the model's own."
)
@click.option("--multilingual", "multilingual", multiple=True, metavar="NAME=PATH", help="Models for tables 7 to 9.")
@click.option("--languages", metavar="FILE", help="Texts for them: language, then source, then text (.tsv).")
@click.option("--note", "notes", multiple=True, metavar="TEXT", help="A sentence for the page; may be repeated.")
@click.option(
    "-n", "count", type=click.IntRange(1), default=300, show_default=True, help="Number of texts, drawn with the seed."
)
@click.option("--per-language", type=click.IntRange(1), default=50, show_default=True, help="Texts of each language.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all that is drawn.")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Vectors decoded together.")
@click.option("--device", metavar="NAME", help="Device: cpu, cuda, cuda:1 or mps; default: the fastest.")
@precision_option
@click.option("--again", is_flag=True, help="Run cells again that the file already holds.")
@click.option(
    "--out", "-o", default="reproduction/paper.json", show_default=True, metavar="FILE", help="The JSON file of cells."
)
@click.option("--page", metavar="FILE", help="The page made of them; default: beside the cells, as .md.")
@output_options
def command(
    data: str,
    models: tuple[str, ...],
    milestones: tuple[str, ...],
    encoders: tuple[str, ...],
    logs: tuple[str, ...],
    train: str | None,
    recipes: tuple[str, ...],
    multilingual: tuple[str, ...],
    languages: str | None,
    notes: tuple[str, ...],
    count: int,
    per_language: int,
    seed: int,
    batch_size: int | None,
    device: str | None,
    precision: str,
    again: bool,
    out: str,
    page: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the paper's tables on DATA (texts, as for evaluate) and write them beside the paper's figures.

    Every cell is written to --out as soon as it is measured; started again, the command continues where it was.

    \b
    Examples:
      unembed reproduce texts.txt -n 100 --out paper.json --page paper.md
      unembed reproduce texts.txt --model minilm=default --model lsa=runs/lsa/checkpoint --train shards/train
      unembed reproduce texts.txt --milestone 1m=runs/a/1m --milestone 5m=runs/a/5m --log a=runs/a/log.jsonl
      unembed reproduce texts.txt --multilingual jina=runs/jina/checkpoint --languages multilingual.tsv
    """
    from unembed.cli.console import note, show_json
    from unembed.cli.output import files_of, refuse_same
    from unembed.evaluation import paper_page, reproduction
    from unembed.files import LOCK, Lock, make_folder, short_name
    from unembed.training.recipes.recipe import Recipe

    if (multilingual and languages is None) or (languages is not None and not multilingual):
        raise InputError("--multilingual and --languages go together.", "Give both: the models, and their texts.")
    beside = Path(out).with_suffix(".md")
    if page is None and beside.exists() and not Path(out).exists():
        raise InputError(f"There is a {beside}, which this command did not make.", "Name the page with --page.")
    page = page or str(beside)
    refuse_same(
        {"--out": out, "--page": page},
        {
            "the texts": files_of(data),
            "the texts of --languages": [languages],
            "a recipe": recipes,
            "a log": [value.partition("=")[2] for value in logs],
        },
    )
    named = {
        option: _pairs(values, option)
        for option, values in (("--model", models), ("--milestone", milestones), ("--log", logs))
    }
    spoken, asked = _pairs(multilingual, "--multilingual"), _pairs(encoders, "--encoder")
    resolved = {path: Recipe.load(path).to_dict() for path in recipes}
    lock = Lock(make_folder(Path(out).parent) / f".{short_name(Path(out).name)}{LOCK}", out)
    click.get_current_context().call_on_close(lock.release)
    run = reproduction.Reproduction(out, seed, batch_size, again, lambda name: note(f"  {name}", quiet))

    def load(name: str, path: str) -> Subject:
        return _subject(name, path, data, count, seed, device, precision, asked.get(name))

    subjects = [load(name, path) for name, path in (named["--model"] or {"minilm": "default"}).items()]
    reproduction.run_models(run, subjects)
    first = subjects[0]
    reproduction.run_remasking(run, first)
    if train is not None:
        from unembed.cli.evaluate import load_sample

        reproduction.run_baselines(run, first, load_sample(train, first.inverter, 200_000, seed))
    reproduction.run_milestones(run, [load(name, path) for name, path in named["--milestone"].items()])
    reproduction.run_sentence(run, first)
    for name, path in spoken.items():
        _languages(run, name, path, str(languages), per_language, seed, device, precision, asked.get(name))
    run.values["recipes"] = {Path(path).name: values for path, values in resolved.items()}
    run.values["recipes"][first.name] = dict(first.recipe)
    if notes:
        run.values["notes"] = list(notes)
    for name, path in named["--log"].items():
        run.values.setdefault("logs", {})[name] = paper_page.read_curve(path)
    run.save()
    text = paper_page.write_page(out, page)
    note(f"wrote {out} and {page}", quiet)
    if as_json:
        show_json(run.values)
    elif not quiet:
        click.echo(text, nl=False)


def _pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """Split NAME=PATH; the names are used once each."""
    out: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise InputError(f"{option} {value!r} is not a NAME=PATH.", f"Write it like {option} a=runs/a/checkpoint.")
        if name in out:
            raise InputError(f"{option} names {name!r} twice.", "Give each its own name.")
        out[name] = path
    return out


def _subject(
    name: str,
    path: str,
    data: str,
    count: int,
    seed: int,
    device: str | None,
    precision: str,
    encoder: str | None,
) -> Subject:
    from unembed.cli.evaluate import load_set
    from unembed.evaluation.reproduction import Subject

    inverter, notes, recipe = _load(path, device, precision, encoder)
    return Subject(name, inverter, load_set(data, inverter, count, seed), notes, recipe)


def _load(
    path: str, device: str | None, precision: str, encoder: str | None
) -> tuple[Inverter, dict[str, Any], dict[str, Any]]:
    """Load a checkpoint, with its notes and the resolved recipe of its run."""
    from unembed.inverter import Inverter

    inverter = Inverter.from_pretrained(path, device, precision)
    if encoder is not None:
        inverter.use_encoder(encoder)
    return inverter, inverter.notes, inverter.recipe


def _languages(
    run: Reproduction,
    name: str,
    path: str,
    texts: str,
    count: int,
    seed: int,
    device: str | None,
    precision: str,
    encoder: str | None,
) -> None:
    from unembed.data.sources import read_texts
    from unembed.evaluation.reproduction import Subject, run_languages
    from unembed.evaluation.sets import EvaluationSet, seeded_subset

    inverter, notes, recipe = _load(path, device, precision, encoder)
    by_language: dict[str, list[str]] = {}
    for text, language in read_texts(texts, source_column=0):
        by_language.setdefault(language, []).append(text)
    sets: dict[str, EvaluationSet] = {}
    for language, lines in sorted(by_language.items()):
        chosen = [lines[i] for i in seeded_subset(len(lines), count, seed)]
        cut = [part for part in inverter.tokenizer.truncate(chosen, inverter.max_length) if part is not None]
        if cut:
            vectors = inverter.encoder.encode([part.text for part in cut])
            title = f"{Path(texts).name} {language}"
            sets[language] = EvaluationSet(title, [part.ids for part in cut], vectors, len(lines), seed)
    if not sets:
        raise InputError(f"{texts} holds no text that {name} can read.", "Give lines of language, source and text.")
    run_languages(run, Subject(name, inverter, next(iter(sets.values())), notes, recipe), sets)
