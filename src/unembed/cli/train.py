"""`unembed train`: a recipe in, a checkpoint out."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.options import makes_folder, output_options
from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.training.loop import TrainingResult
    from unembed.training.recipes.recipe import Recipe


@click.command("train")
@click.argument("recipe", metavar="RECIPE", type=click.Path(dir_okay=False))
@click.option("--out", "-o", metavar="FOLDER", help="Where the run and its checkpoint are written.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a key of the recipe; repeatable.")
@click.option("--max-time", metavar="TIME", help='Time box, such as "90s", "20m" or "2h".')
@click.option("--resume", is_flag=True, help="Continue from the state in --out.")
@click.option("--cooldown", metavar="TIME", help="From the state in --out, let the rate fall to zero in this time.")
@click.option(
    "--init-from", metavar="MODEL", help="Start from the weights of a checkpoint, or of a student or corrector."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Prepare the run, measure ten seconds of its steps, and say what it would cost; write nothing.",
)
@click.option("--device", metavar="NAME", help="Device: cpu, cuda, cuda:1 or mps; default: the fastest.")
@output_options
@makes_folder("out")
def command(
    recipe: str,
    out: str | None,
    overrides: tuple[str, ...],
    max_time: str | None,
    resume: bool,
    cooldown: str | None,
    init_from: str | None,
    dry_run: bool,
    device: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a model from RECIPE, a TOML file: a denoiser, a student encoder or a corrector.

    The resolved recipe, the log (JSON lines), the training curve and the checkpoint are written to --out. Ctrl-C,
    SIGTERM and the end of the time box save the state and the checkpoint; --resume continues from there, bit for bit on
    a CPU. After a signal the exit code is 130 or 143; a second one ends the run at once.

    A run with run.horizon = "none" never ends by itself. --cooldown makes a checkpoint worth using from its state, in
    OUT/cooldown, and leaves the state as it is.

    \b
    Examples:
      unembed train recipes/default.toml --dry-run
      unembed train recipes/tiny.toml --out runs/tiny --max-time 3m
      unembed train recipes/default.toml --out runs/mine --max-time 2h
      unembed train recipes/default.toml --out runs/mine --resume
      unembed train recipes/long.toml --out runs/long --cooldown 20m
      unembed train recipes/default.toml --out runs/small --set model.width=192 --set optimizer.lr=3e-4
    """
    from unembed.checkpoint.shipped import find_checkpoint
    from unembed.cli.app import Stopped
    from unembed.cli.console import show_json, start_logging
    from unembed.files import LOCK, Lock, make_folder, unless_refused
    from unembed.training.loop import COOLDOWN, check_folder, train
    from unembed.training.recipes.recipe import Recipe

    start_logging(quiet)
    resolved = Recipe.load(recipe, overrides)
    for name, given in (("--resume", resume), ("--init-from", init_from), ("--max-time", max_time)):
        if cooldown is not None and given:
            raise InputError(f"--cooldown and {name} are both given.", f"Leave out {name}.")
    if out is None and (resume or cooldown is not None or not dry_run):
        raise InputError("No folder is given for the run.", "Name one with --out, or use --dry-run alone.")
    begin = init_from if init_from is None or Path(init_from).is_file() else find_checkpoint(init_from)
    if out is not None:
        check_folder(Path(out), resolved, resume, cooldown is not None)
    if dry_run:
        _show_estimate(resolved, cooldown or max_time, device, begin, as_json, quiet)
        return
    assert out is not None
    home = Path(out) / COOLDOWN if cooldown is not None else Path(out)  # a cool-down may be made beside the run
    waits = (home / "state.safetensors").exists()  # then nothing is written over: training says so itself
    _refuse_overwriting(resolved, recipe, home, None if waits else begin)
    with unless_refused(home), Lock(make_folder(home) / LOCK, home):
        result = train(
            resolved,
            Path(out),
            max_time=max_time,
            resume=resume,
            cooldown=cooldown,
            init_from=begin,
            progress=not quiet and sys.stderr.isatty(),
            device=device,
        )
    if as_json:
        show_json(dataclasses.asdict(result))
    else:
        _tell(result, resolved.run.horizon == "none", cooldown is not None, quiet)
    if result.signal:
        raise Stopped(result.signal)


def _refuse_overwriting(recipe: Recipe, path: str, home: Path, begin: str | Path | None) -> None:
    """Refuse a run whose files would replace what it is made of."""
    from unembed.cli.output import files_of, refuse_same

    written = ["recipe.json", "log.jsonl", "curve.png", "state.safetensors"]
    written += [f"checkpoint/{file.name}" for file in files_of(home / "checkpoint")]
    texts = [file for name in recipe.data.texts for file in files_of(name)]
    read: dict[str, list[Any]] = {
        "the recipe": [path],
        "a text of the recipe": texts,
        "what --init-from names": [*files_of(begin)],
    }
    refuse_same({f"the run's {name} at": home / name for name in written}, read)


def _tell(result: TrainingResult, endless: bool, cooling: bool, quiet: bool) -> None:
    """Say how a run ended."""
    from unembed.cli.console import note

    note(f"{result.texts} texts in {result.steps} steps; the checkpoint is {result.checkpoint}.", quiet)
    if cooling and not result.finished:
        note("The cool-down was cut short: its rate had not reached zero. The run's state is as it was.", quiet)
    elif endless and not cooling:
        note("The run has no end: --resume continues, --cooldown makes a checkpoint worth using.", quiet)
    elif not result.finished:
        note("The horizon is not reached: the same command with --resume continues.", quiet)


def _parameters(counts: dict[str, int]) -> str:
    """The parameters in words."""
    if "blocks" not in counts:
        return f"{counts['total']:,}"
    without, blocks = counts["without_vocabulary"], counts["blocks"]
    return f"{counts['total']:,} in all, {without:,} without the vocabulary, {blocks:,} in blocks"


def _show_estimate(
    recipe: Recipe, box: str | None, device: str | None, begin: str | Path | None, as_json: bool, quiet: bool
) -> None:
    """Print what the run would cost."""
    from rich.table import Table

    from unembed.cli.console import progress, show_json, stdout_console
    from unembed.training.estimate import estimate
    from unembed.training.loop import with_run

    with progress("Measuring", 100, quiet) as bar:
        shown = 0

        def advance(share: float) -> None:
            nonlocal shown
            bar.advance(round(100 * share) - shown)
            shown = round(100 * share)

        boxed = with_run(recipe, max_time=box) if box else recipe
        found = estimate(boxed, device, on_step=advance, init_from=begin)
    if as_json:
        show_json(found.to_dict())
        return
    table = Table(box=None, show_header=False)
    pace = found.pace
    epochs = f"{found.epochs:.2f}" if found.hours else "no end set"
    rows = [
        ("parameters", _parameters(found.parameters)),
        ("operations a text", f"{found.operations_per_text / 1e9:.2f} GFLOP"),
        ("speed", f"{found.texts_per_second:.0f} texts/s ({pace.precision})"),
        ("preparation", f"{found.preparation_seconds:.0f} s, or more where all texts are fitted"),
        ("compilation and warm-up", f"{pace.warmup_seconds:.0f} s"),
        ("length of the run", f"{found.hours:.2f} hours" if found.hours else "no end set"),
        ("texts of an epoch", f"{found.texts:,}" if found.texts else "unknown (embedded online)"),
        ("epochs", epochs if found.texts else "unknown"),
        ("memory", f"{found.memory_bytes / 2**30:.1f} GiB"),
    ]
    for row in rows:
        table.add_row(*row)
    stdout_console().print(table)
