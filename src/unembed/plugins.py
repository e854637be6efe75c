"""Code of other packages: what goes wrong in it is one error of ours that names it, and ends no program by itself.

Contents: `guarded`, `told`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from unembed.errors import UnembedError

_LONGEST = 200


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
