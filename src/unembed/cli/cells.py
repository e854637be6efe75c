"""Cells of a CSV that no spreadsheet runs. Contents: `as_cell`, `escape_cell`.

A spreadsheet takes a cell for a formula that begins with = + - or @, also in full width. It may split the line at
semicolons or tabs although commas separate the cells, so a cell may begin after these, or after a line break, inside a
text. An apostrophe before the sign makes it text. A number keeps its sign: -1001234567890 is not a formula.
"""

from __future__ import annotations

import json
import re
from typing import Any

from unembed.cli.console import plain

_BEGIN = r"[;\t\r\n\v\f\x85\u2028\u2029]"
_NUMBER = r"[+-](?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"
_FORMULA = re.compile(
    rf"(?P<before>^|{_BEGIN})(?P<space>[\s\"]*)(?!{_NUMBER}\s*(?:$|{_BEGIN}))(?P<sign>[=+\-@\uff1d\uff0b\uff0d\uff20])"
)
_BLANK = ("\t", "\r", "\n")  # some programs skip these before they look for a sign


def escape_cell(text: str) -> str:
    """Put an apostrophe before whatever of a text a spreadsheet would take for the beginning of a formula."""
    if text.startswith(_BLANK):
        text = f"'{text}"
    return _FORMULA.sub(r"\g<before>\g<space>'\g<sign>", text)


def as_cell(value: Any) -> Any:
    """Turn a value into what a CSV cell holds; lists and objects become JSON."""
    value = plain(value)
    if isinstance(value, list | dict):
        return escape_cell(json.dumps(value, ensure_ascii=False))
    return escape_cell(value) if isinstance(value, str) else value
