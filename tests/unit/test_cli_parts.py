"""Parts of the command line that need no model."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest

from unembed.cli.console import Progress, plain, show_json
from unembed.cli.display import RecoveryTable, mark_shared
from unembed.cli.output import escape_cell
from unembed.cli.sampling import reservoir


def styled(text: str, other: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"green": [], "dim": []}
    marked = mark_shared(text, other)
    for span in marked.spans:
        found[str(span.style)].append(marked.plain[span.start : span.end])
    assert marked.plain == text
    return found


def test_shared_words_are_marked_as_often_as_both_have_them() -> None:
    found = styled("the cat and the the dog, don't", "The DOG saw the bird; don't")
    assert found["green"] == ["the", "the", "dog", "don", "'", "t"]
    assert found["dim"] == ["cat", "and", "the", ","]


def test_a_table_in_parts_keeps_its_columns() -> None:
    from rich.console import Console

    class Recovery:
        text = "a text that is long enough to be folded into a second line of the column"
        confidence, likelihood, fit, misfit = 0.5, 0.7, 0.001, "language"

    out = io.StringIO()
    table = RecoveryTable(Console(file=out, width=80), compare=True)
    for part in (["x"], ["a name that is far too long for its column"]):
        table.add(part, [Recovery()], ["the original text"])
    lines = out.getvalue().splitlines()
    assert len({line.index("0.50") for line in lines if "0.50" in line}) == 1
    assert len({line.index("language") for line in lines if "language" in line}) == 1
    assert len({line.index("the original") for line in lines if "the original" in line}) == 1
    assert max(map(len, lines)) <= 80


def test_progress_is_silent_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress("x", 10)
    bar._began -= 60
    bar.advance(5)
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_progress_waits_two_seconds_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = Progress("Counting", 10)
    bar.advance(1)
    assert terminal.getvalue() == ""
    bar._began -= 3
    bar.advance(1)
    bar.close()
    assert "Counting" in terminal.getvalue()


def test_json_knows_numpy_and_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), 3: (1, None, True), "p": np.array([np.inf])}
    show_json(value)
    assert json.loads(capsys.readouterr().out) == {
        "a": 0.5,
        "b": [0, 1],
        "c": None,
        "3": [1, None, True],
        "p": [None],
    }
    assert plain({1}) == [1]


def test_only_cells_that_could_run_are_escaped() -> None:
    assert escape_cell("a=b") == "a=b" and escape_cell("") == "" and escape_cell("=b") == "'=b"


def test_the_draw_is_seeded_uniform_and_in_order() -> None:
    texts = [str(i) for i in range(50)]
    assert reservoir(iter(texts), 10, 1) == reservoir(iter(texts), 10, 1) != reservoir(iter(texts), 10, 2)
    assert reservoir(iter(texts[:7]), 10, 1) == (texts[:7], 7)
    counts = np.zeros(50)
    for seed in range(1000):
        drawn, total = reservoir(iter(texts), 10, seed)
        assert total == 50 and [int(t) for t in drawn] == sorted({int(t) for t in drawn}) and len(drawn) == 10
        counts[[int(t) for t in drawn]] += 1
    assert 140 < counts.min() and counts.max() < 260  # 200 expected, standard deviation 12.6
