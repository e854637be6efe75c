"""Parts of Markdown pages that are written by a program: what stands between `<!-- NAME -->` and `<!-- /NAME -->`.

Contents: `filled`, `fill`.
"""

from __future__ import annotations

from pathlib import Path

from unembed.files import atomic_write_bytes


def filled(page: str, name: str, text: str) -> str:
    """Return a page with `text` between the marks `name`, a blank line on both sides.

    Raises:
        SystemExit: a mark is missing, or stands there twice.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, *inside = page.split(begin)
    if len(inside) != 1 or inside[0].count(end) != 1:
        raise SystemExit(f"A page needs {begin} and {end} once each, where its figures belong.")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{inside[0].split(end)[1]}"


def fill(path: str | Path, name: str, text: str) -> None:
    """Write `text` between the marks `name` of a page."""
    page = Path(path).read_text(encoding="utf-8")
    atomic_write_bytes(path, filled(page, name, text).encode())
