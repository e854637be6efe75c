"""Write docs/cli.md from the commands themselves; nothing on that page is typed.

python -m reports.cli_reference           # write
python -m reports.cli_reference --check   # exit 1 when the page is stale

It reads the parameters of the click commands, not their rendered help, so that the page does not depend on the version
of click or on the width of a terminal.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from unembed.cli.app import INTERRUPTED, PIPE_CLOSED, USER_ERROR, group
from unembed.files import atomic_write_bytes

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cli.md"
WIDTH = 120
_MARK = (
    "<!-- test page: small; with notes.txt, texts.txt, vectors.npy, vectors.parquet, corpus, shards/train, "
    "shards/validation; take invert for COMMAND; take minilm for http://127.0.0.1:8000/v1?model=NAME; "
    "take notes.txt for hf:allenai/c4?config=en&take=2000000; take recipes/default.toml for recipes/long.toml; "
    "take runs/mine for runs/long -->"
)
_HEAD = f"""# Commands

Written by `reports/cli_reference.py` from the commands themselves. `unembed COMMAND --help` says the same.

A command exits with 0 when it did what was asked, and with {USER_ERROR} when you can fix what went wrong: two lines on
stderr say what is wrong and what to do. {INTERRUPTED} follows Ctrl-C, {PIPE_CLOSED} a reader that closed the pipe.

{_MARK}
"""
# Examples that tests/integration/test_docs_run.py does not run, and why.
_SKIPPED = {
    "unembed reproduce": "it needs models of several encoders, tests/integration/test_reproduce.py has some",
    "unembed serve": "it serves until it is stopped, tests/integration/test_serve.py starts and stops it",
}


def build() -> str:
    """Return the whole page."""
    parts = [_HEAD, *_section(group, None, "unembed", 2)]
    return "\n".join(parts).rstrip() + "\n"


def _section(command: click.Command, parent: click.Context | None, name: str, level: int) -> Iterator[str]:
    """Yield the lines of one command and, behind them, those of its subcommands."""
    context = click.Context(command, info_name=name, parent=parent)
    path = context.command_path
    yield f"{'#' * level} {path}\n"
    paragraphs, examples = _help(command)
    for paragraph in paragraphs:
        yield _wrap(paragraph) + "\n"
    yield f"```text\n{path} {_usage(command)}\n```\n"
    options = [_option(part, context) for part in command.params if isinstance(part, click.Option)]
    if any(options):
        yield "Options:\n"
        yield "\n".join(line for line in options if line) + "\n"
    if examples:
        plain = not any(re.search(r"COMMAND|[<>|]", line) for line in examples)  # a test parses what is marked sh
        yield "Examples:\n"
        if path in _SKIPPED:
            yield f"<!-- test: skip {_SKIPPED[path]} -->\n"
        yield f"```{'sh' if plain else 'bash'}\n" + "\n".join(examples) + "\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            if not found.hidden:
                yield from _section(found, context, child, min(level + (parent is not None), 4))


def _help(command: click.Command) -> tuple[list[str], list[str]]:
    """Split a docstring into its paragraphs and the lines of its examples."""
    paragraphs, examples = [], []
    for block in inspect.cleandoc(command.help or "").split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip() != "\b"]
        if lines and lines[0].strip() == "Examples:":
            examples += [line.strip() for line in lines[1:] if line.strip()]
        elif lines:
            paragraphs.append(" ".join(line.strip() for line in lines))
    return paragraphs, examples


def _usage(command: click.Command) -> str:
    """What stands behind the name of a command; brackets where it may be left out."""
    arguments = [part for part in command.params if isinstance(part, click.Argument)]
    names = [(part.metavar or str(part.name).upper(), part.required) for part in arguments]
    pieces = ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]
    return " ".join([*pieces, "COMMAND ..."] if isinstance(command, click.Group) else pieces)


def _option(option: click.Option, context: click.Context) -> str:
    """Return one bullet: names and value, what it does, what it may be, what holds when it is not given."""
    if option.hidden:
        return ""
    names = ", ".join(f"`{name}`" for name in sorted([*option.opts, *option.secondary_opts], key=len))
    value = "" if option.is_flag else f" {_metavar(option)}"
    text = [(option.help or "").rstrip(".") + "."]
    kind = option.type
    if isinstance(kind, click.Choice):
        text.append("One of " + ", ".join(f"`{choice}`" for choice in kind.choices) + ".")
    elif isinstance(kind, click.IntRange | click.FloatRange):
        if kind.min is not None and kind.max is not None:
            text.append(f"From {kind.min} to {kind.max}.")
        elif kind.min is not None:
            text.append(f"At least {kind.min}.")
    default = option.get_default(context, call=False)
    if option.required:
        text.append("Must be given.")
    elif not option.is_flag and isinstance(default, str | int | float):
        text.append(f"Default: `{default}`.")
    if option.multiple and "repeat" not in (option.help or ""):
        text.append("May be given several times.")
    return _wrap(f"- {names}{value}: {' '.join(text)}", indent="  ")


def _metavar(option: click.Option) -> str:
    """The name of an option's value."""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "NAME"
    return "N" if option.type.name.startswith("integer") else "X" if option.type.name.startswith("float") else "TEXT"


def _wrap(text: str, indent: str = "") -> str:
    """Break a paragraph at the width of the page, never inside a word."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    """Write the page, or compare it."""
    new = build()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != new:
            print("docs/cli.md is stale: run `python -m reports.cli_reference`.", file=sys.stderr)
            return 1
        return 0
    atomic_write_bytes(PAGE, new.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
