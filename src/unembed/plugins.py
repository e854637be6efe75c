"""Code of other packages: how it is found, and what goes wrong in it is one error of ours that names it.

Contents: `register`, `plugin`, `plugin_names`, `REPAIR`, `guarded`, `told`.

A package adds a strategy, a re-masking rule, a noise schedule, a store or an encoder with an entry point, and a program
with `register`. What is built in comes first: whoever asks here has looked there.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

from unembed.errors import InputError, UnembedError

GROUPS = {
    "strategy": "unembed.strategies",
    "remasking": "unembed.remasking",
    "schedule": "unembed.schedules",
    "store": "unembed.stores",
    "encoder": "unembed.encoders",
}
"""What can be added -> the group of its entry points, whose names are the names that users write."""

_BUILT_IN = {
    "strategy": "unembed.decoding.config:STRATEGIES",
    "remasking": "unembed.decoding.config:REMASK_RULES",
    "schedule": "unembed.diffusion.schedule:SCHEDULES",
    "encoder": "unembed.encoders.registry:_BUILT_IN",
}
"""Where the names that are built in are; imported when something is registered."""

REPAIR = "Repair or remove the package that brings it."
_LONGEST = 200
_registered: dict[tuple[str, str], Any] = {}


def register(kind: str, name: str, value: Any) -> None:
    """Add a strategy, a re-masking rule, a noise schedule, a store or an encoder in this process.

    A package does the same with an entry point of the group `unembed.strategies`, `unembed.remasking`,
    `unembed.schedules`, `unembed.stores` or `unembed.encoders`; then the command line finds it too. What is built in
    keeps its name. The value is checked where it is first used.

    Args:
        kind: "strategy", "remasking", "schedule", "store" or "encoder".
        name: how it is called in options and recipes, or the scheme of a store.
        value: a `Strategy`; a rule from `View` to (A, n) bool; a class of `Schedule`; a function
            `open(address, column, id_column)` that returns a `Store`; a function that returns an `Encoder`.

    Raises:
        InputError: another kind, no name, or one that is built in, so that nobody measures one for the other.
    """
    if kind not in GROUPS:
        raise InputError(f"A plug-in cannot be a {kind!r}.", f"Use one of: {', '.join(GROUPS)}.")
    if not isinstance(name, str) or not name:
        raise InputError(f"A {kind} cannot be registered as {name!r}.", "Give it a name.")
    home, _, table = _BUILT_IN.get(kind, "").partition(":")
    if home and name in getattr(importlib.import_module(home), table):
        raise InputError(f"The {kind} {name!r} is built in.", "Register yours under another name.")
    _registered[kind, name] = value


def plugin_names(kind: str) -> list[str]:
    """Names of a kind that were registered here or come with installed packages, sorted."""
    here = {name for of, name in _registered if of == kind}
    return sorted({*here, *(point.name for point in entry_points(group=GROUPS[kind]))})


def plugin(kind: str, name: str, error: type[UnembedError] = InputError) -> Any:
    """What was registered under a name, or what an installed package brings; None where nothing is.

    Raises:
        UnembedError: of the type `error`; the package cannot be imported.
    """
    if not isinstance(name, str):  # of a file that is anybody's
        return None
    if (kind, name) in _registered:
        return _registered[kind, name]
    for point in entry_points(group=GROUPS[kind], name=name):
        what = f"The plug-in for {kind} {name!r} ({point.value}) cannot be imported"
        with guarded(lambda cause, what=what: error(f"{what} ({told(cause)}).", REPAIR)):  # type: ignore[misc]
            return point.load()
    return None


@contextlib.contextmanager
def guarded(refuse: Callable[[BaseException], UnembedError]) -> Iterator[None]:
    """Run a block of somebody else's code; whatever it raises, `SystemExit` too, becomes the error of `refuse`.

    Errors of this package pass, and so do Ctrl-C and the signals that the command line raises.
    """
    try:
        yield
    except (UnembedError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if type(error).__module__.partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise refuse(error) from error


def told(error: BaseException) -> str:
    """The type of an error and the first line of its words, cut short and printable, without a full stop."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # its words are somebody else's code too
        lines = []
    words = "".join(c if c.isprintable() else " " for c in lines[0])[:_LONGEST].rstrip(". ") if lines else ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
