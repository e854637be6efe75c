"""The names of the ways to refine. Free of torch, so that the command line can show them fast.

Contents: `REFINEMENTS` (names and one line each), `DEFAULT`, `check_method`.
"""

from __future__ import annotations

from unembed.checks import nearest
from unembed.errors import InputError

REFINEMENTS: dict[str, str] = {
    "best-of": "drafts over the likely lengths, one query each; the nearest is kept",
    "correct": "a network that sees a draft and its vector corrects it, again and again; needs a corrector",
    "search": "drafts are changed token by token; the most promising changes are asked",
    "combined": "many different drafts, corrections and the search together; the default",
}
DEFAULT = "combined"


def check_method(name: str) -> str:
    """Return the name of a method.

    Raises:
        InputError: there is no such method; the nearest name is said.
    """
    if name not in REFINEMENTS:
        hint = nearest(name, REFINEMENTS, f"Use one of: {', '.join(REFINEMENTS)}.")
        raise InputError(f"There is no refinement {name!r}.", hint)
    return name
