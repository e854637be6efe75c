"""What `--skip-bad` leaves out. Contents: `Skipped`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unembed.stores.reading import BadRow


class Skipped:
    """What `--skip-bad` leaves out: a line for each of the first rows, then their count; all of them in JSON.

    Args:
        limit: rows from this number on are not looked at; None for no limit.
        as_json: whether the rows are kept for `show` instead of printed.
        quiet: print nothing.
    """

    LINES = 10

    def __init__(self, limit: int | None, as_json: bool, quiet: bool) -> None:
        self._limit, self._as_json, self._quiet = limit, as_json, quiet
        self._count = 0
        self._rows: list[dict[str, Any]] = []

    def __call__(self, bad: BadRow) -> None:
        """Take a row that the reader leaves out."""
        from unembed.cli.console import note

        if self._limit is not None and bad.row >= self._limit:
            return
        self._count += 1
        if self._as_json:
            self._rows.append({"row": bad.row, "reason": bad.reason})
        else:
            note(f"skipped: {bad.reason}", self._quiet or self._count > self.LINES)

    def show(self) -> None:
        """Print the count, or one JSON object with all of them."""
        from unembed.cli.console import note, show_json

        if self._as_json:
            show_json({"skipped": self._rows}, indent=None)
        elif self._count:
            note(f"{self._count} {'row was' if self._count == 1 else 'rows were'} skipped.", self._quiet)
