"""The command `unembed`: the group of commands, and what happens when one fails or is stopped.

Contents: `main`, `Stopped`, `catch_sigterm`.

Exit codes: 0 success; 2 for anything that the user can fix, with two lines on stderr (what is wrong, what to do); 130
after Ctrl-C, 143 after SIGTERM; 141 when the reader of a pipe went away. A stack trace means a defect of the program.
Ctrl-C (SIGINT) and SIGTERM both arrive as exceptions, so that what is open is closed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import click

from unembed import __version__
from unembed.checks import nearest
from unembed.cli.console import open_streams, visible
from unembed.errors import UnembedError

# Command -> the first sentence of its help. Held here so that `unembed --help` imports no command.
COMMANDS = {
    "completion": "Print the script that completes commands in a shell.",
    "doctor": "Check that this machine, the model and the encoder fit together.",
    "embed": "Embed texts into a file of vectors, or into training shards.",
    "evaluate": "Score a model on texts, with intervals and baselines.",
    "fit-lsa": "Fit the encoder lsa on texts.",
    "invert": "Recover texts from a file of vectors.",
    "models": "List, show and verify checkpoints.",
    "pack": "Pack texts as token ids, with the encoder, for training on another machine.",
    "reproduce": "Run the paper's tables and write them beside its figures.",
    "serve": "Serve a page that shows denoising live, and an API, on this machine.",
    "train": "Train a model from a recipe.",
}
INTERRUPTED, PIPE_CLOSED, USER_ERROR = 130, 141, 2


class LazyGroup(click.Group):
    """A group whose commands are modules of `unembed.cli`, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"unembed.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is answered with the nearest name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = nearest(args[0], COMMANDS, f"Known: {', '.join(sorted(COMMANDS))}.")
            raise click.UsageError(f"There is no command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="unembed")
def group() -> None:
    """Recover text from embedding vectors, to see and measure what they leak.

    \b
    Examples:
      unembed doctor
      unembed invert vectors.parquet
      unembed COMMAND --help
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        args: arguments without the program's name; None takes those of the process.
    """
    _quiet_libraries()
    open_streams()
    try:
        with catch_sigterm():
            group.main(args=None if args is None else list(args), prog_name="unembed", standalone_mode=False)
            sys.stdout.flush()
    except UnembedError as error:
        return _fail(error.what, error.do)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        _say(lambda: click.echo(visible(said.getvalue(), lines=True), err=True, nl=False))
        return USER_ERROR
    except (click.Abort, KeyboardInterrupt):
        _say(lambda: click.echo("\nInterrupted.", err=True))
        return INTERRUPTED
    except Stopped as stopped:
        word = "Terminated" if stopped.number == signal.SIGTERM else "Interrupted"
        _say(lambda: click.echo(f"{word}.", err=True))
        return 128 + stopped.number
    except BrokenPipeError:
        _close_stdout()
        return PIPE_CLOSED
    except SystemExit as error:  # click ends so after a completion, and when the reader of a pipe went away
        if "_UNEMBED_COMPLETE" in os.environ:
            return int(error.code or 0)
        _close_stdout()
        return PIPE_CLOSED
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        if error.filename is None:  # it may have been stdout, which is flushed once more at the end
            _close_stdout()
        return _fail(f"{name}{error.strerror or error}.", "Check the path, its permissions and the space on the disk.")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return _fail("The memory is not enough.", "Lower --batch-size, --lengths or --samples.")
        raise
    return 0


def _fail(what: str, do: str) -> int:
    """Print the two sentences and return the exit code."""
    what, do = visible(what), visible(do)
    color = False if os.environ.get("NO_COLOR") else None
    _say(lambda: click.echo(f"{click.style('error:', fg='red', bold=True)} {what}\n{do}", err=True, color=color))
    return USER_ERROR


def _say(speak: Callable[[], object]) -> None:
    """Print to stderr; where nobody listens any more, the exit code must do."""
    with contextlib.suppress(OSError):
        speak()


def _close_stdout() -> None:
    """Keep the interpreter from complaining once more when it flushes stdout at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _quiet_libraries() -> None:
    """Keep progress bars, advice and notes off the terminal; a command that wants notes asks for them."""
    logging.getLogger("unembed").setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Stopped(BaseException):
    """A signal asks the command to end; the exit code is 128 + its number.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: cleaning up must not be interrupted
    raise Stopped(number)


@contextlib.contextmanager
def catch_sigterm() -> Iterator[None]:
    """Raise `Stopped` at a SIGTERM within the block; outside the main thread nothing changes."""
    try:
        before = signal.signal(signal.SIGTERM, _stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
