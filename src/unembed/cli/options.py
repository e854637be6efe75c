"""Options that several commands share, as decorators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from unembed.decoding.config import STRATEGIES
from unembed.plugins import plugin_names

F = TypeVar("F", bound=Callable[..., Any])


def output_options(command: F) -> F:
    """Add --json and --quiet."""
    command = click.option("--quiet", "-q", is_flag=True, help="No progress and no notes; errors are still shown.")(
        command
    )
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")(command)


def makes_folder(option: str) -> Callable[[F], F]:
    """Let a command leave no empty folder behind where it refuses; `option` names what is written, folder or file."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(**options: Any) -> Any:
            from unembed.files import unless_refused

            with unless_refused(options[option]):
                return command(**options)

        return run  # type: ignore[return-value]

    return decorate


def text_options(command: F) -> F:
    """Add --column, --source-column and --exclude-source, for `data.sources.read_texts`."""
    options = [
        click.option("--column", metavar="NAME", help="Column of the texts; default: text, or the last of a .tsv."),
        click.option(
            "--source-column", metavar="NAME", help="Column of the sources; default: source, or the file's name."
        ),
        click.option(
            "--exclude-source", multiple=True, metavar="NAME", help="Leave out the texts of a source; repeatable."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def as_column(name: str | None) -> str | int | None:
    """Read the value of a column option: a whole number is an index."""
    return int(name) if name is not None and name.lstrip("-").isdigit() else name


def model_options(command: F) -> F:
    """Add --model and --device."""
    command = click.option("--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1, mps; default: the best.")(
        command
    )
    return click.option(
        "--model", "-m", default="default", show_default=True, metavar="PATH", help="Checkpoint folder or shipped name."
    )(command)


def encoder_option(command: F) -> F:
    """Add --encoder: where the user has the model's encoder, which a checkpoint cannot say."""
    return click.option(
        "--encoder",
        metavar="NAME",
        help="Where the model's encoder is: an endpoint, a folder or a hub name; or set UNEMBED_ENCODER.",
    )(command)


def precision_option(command: F) -> F:
    """Add --precision."""
    return click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "auto"]),
        default="fp32",
        show_default=True,
        help="Products of the network; auto takes bf16 where the machine is fast in it.",
    )(command)


class _Strategy(click.Choice[str]):
    """A built-in strategy, or one of a plug-in, which is only looked for where it is named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name."""
        known = value not in STRATEGIES and value in plugin_names("strategy")
        return value if known else super().convert(value, param, ctx)


def decoding_options(command: F) -> F:
    """Add the options of `DecodeConfig` and the batch size; an option that is not given leaves the config's default."""
    options = [
        click.option(
            "--strategy",
            type=_Strategy(list(STRATEGIES)),
            default=None,
            help="How a draft is decoded; prior takes no pass of the network.",
        ),
        click.option("--passes", type=click.IntRange(1), default=None, help="Passes of the network, at most."),
        click.option("--lengths", type=click.IntRange(1), default=None, help="Likely lengths that are decoded."),
        click.option("--samples", type=click.IntRange(1), default=None, help="Drafts a length; needs a temperature."),
        click.option("--temperature", type=click.FloatRange(0), default=None, help="0 takes the likeliest tokens."),
        click.option("--beam", type=click.IntRange(1), default=None, help="Hypotheses kept by left-to-right."),
        click.option("--guidance", type=click.FloatRange(0), default=None, help="Weight of the vector against none."),
        click.option(
            "--batch-size", type=click.IntRange(1), default=None, help="Vectors a batch; default: 64, prior 4096."
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given(**values: Any) -> dict[str, Any]:
    """Keep the options that were given, so that the library's defaults hold for the others."""
    return {name: value for name, value in values.items() if value is not None}
