"""What is read is never written, whatever it is called; terminals get nothing that they would obey."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unembed.cli import main
from unembed.cli.console import note, open_streams, plain, show_json, stdout_console, visible
from unembed.cli.display import RecoveryTable
from unembed.cli.output import files_of, refuse_same
from unembed.errors import InputError


def spellings(path: Path) -> dict[str, Path]:
    """One file under several names."""
    folder = path.parent
    (folder / "sub").mkdir()
    os.link(path, folder / "hard.csv")
    (folder / "soft.csv").symlink_to(path.name)
    (folder / "folder").symlink_to(".", target_is_directory=True)
    return {
        "same": path,
        "hard link": folder / "hard.csv",
        "symbolic link": folder / "soft.csv",
        "dots": folder / "sub" / ".." / path.name,
        "linked folder": folder / "folder" / path.name,
    }


def test_an_input_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in.csv"
    path.write_text("1")
    for name, other in {**spellings(path), "relative": Path("in.csv")}.items():
        for given in (other, f"file://{other}"):
            with pytest.raises(InputError, match="which would be overwritten"):
                refuse_same({"--out": path}, {"the input": [given]})
        with pytest.raises(InputError, match="--out and --trace both name"):
            refuse_same({"--out": path, "--trace": other}, {})
        assert name and path.read_text() == "1"
    refuse_same({"--out": "a.csv", "--trace": "b.jsonl", "--animate": None}, {"the input": [path, None, "s://in.csv"]})


def test_outputs_that_are_not_there_yet_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="both name"):
        refuse_same({"--out": tmp_path / "o.jsonl", "--trace": tmp_path / "sub" / ".." / "o.jsonl"}, {})


def test_standard_input_is_a_file_too(tmp_path: Path) -> None:
    """`unembed invert - < in.jsonl --out in.jsonl`."""
    path = tmp_path / "in.jsonl"
    path.write_text("{}")
    command = [sys.executable, "-m", "unembed", "invert", "-", "--out", str(path)]
    with open(path) as stream:
        found = subprocess.run(command, stdin=stream, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "would be overwritten" in found.stderr and path.read_text() == "{}"


def test_files_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert files_of(tmp_path) == [tmp_path / "a"]
    assert files_of("hf:org/name") == files_of("http://127.0.0.1/v1") == files_of(None) == []


@pytest.mark.parametrize(
    "args",
    [
        ["invert", "in.jsonl", "--out", "./in.jsonl"],
        ["invert", "in.npy", "--scale", "in.jsonl", "--out", "in.jsonl"],
        ["invert", "in.npy", "--out", "in.jsonl", "--trace", "sub/../in.jsonl"],
        ["embed", "in.jsonl", "--out", "in.jsonl"],
        ["embed", "sub", "--out", "sub/new.jsonl", "--encoder", "hashing:8"],
        ["evaluate", "in.jsonl", "--queries", "0", "--figure", "in.jsonl"],
        ["reproduce", "in.jsonl", "--out", "x.json", "--page", "x.json"],
        ["reproduce", "in.jsonl", "--out", "in.jsonl", "--page", "x.md"],
    ],
)
def test_every_command_that_writes_refuses(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it loads a model: two sentences, and nothing has changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("in.jsonl", "in.npy", "sub/old.jsonl"):
        (tmp_path / name).write_text('{"text": "a", "v": [1]}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(args) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 2 and any(word in error for word in ("overwritten", "both name", "is in"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


HOSTILE = {
    "\x1b[2J\x1b]0;title\x07": r"\x1b[2J\x1b]0;title\x07",
    "a\rb": r"a\rb",
    "a\nb": r"a\nb",
    "\x9b31m": r"\x9b31m",
    "abc\u202ecba": r"abc\u202ecba",
    "\u2066x\u2069": r"\u2066x\u2069",
    "line\u2028end": r"line\u2028end",
    "half\ud800": r"half\ud800",
    "caf\u00e9 \u65e5\u672c \U0001f600": "caf\u00e9 \u65e5\u672c \U0001f600",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_obeys_no_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids, recovered texts, originals, names of files in errors and notes, and JSON, which stays the same value."""
    assert visible(text) == HOSTILE[text]

    class Found:
        confidence, queries, cosine, fit, misfit = 0.5, 0, None, 0.5, None

    found = Found()
    found.text = text  # type: ignore[attr-defined]
    RecoveryTable(stdout_console(), True).add([text], [found], [text])
    note(f"{text}.")
    assert main(["invert", f"{text}.npy", "--column", text]) == 2
    show_json({text: text}, indent=None)
    shown = capsys.readouterr()
    assert not {c for c in shown.out + shown.err if visible(c) != c} - {"\n"}
    assert json.loads(shown.out.splitlines()[-1]) == {text: text}
    assert len(shown.err.strip().splitlines()) == (4 if "\n" in text else 3), shown.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_terminals_of_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    open_streams()

    class Found:
        text, confidence, queries, cosine = "caf\u00e9 \u65e5\u672c " * 20, 0.5, 0, None
        fit, misfit = 0.5, None

    RecoveryTable(stdout_console(), True).add(["\u65e5" * 30], [Found()], ["\u00fc"])
    show_json({"a": "\u65e5"}, indent=None)
    note("\u65e5")
    assert main(["invert", "\u65e5.npy"]) == 2
    out.flush()
    lines = out.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert json.loads(lines[-1]) == {"a": "\u65e5"}


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(closed: str) -> None:
    """A command that has something to say fails where nobody can hear it; none leaves a trace."""
    command = f"{sys.executable} -m unembed models list --json {closed}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert found.returncode == (2 if ">&-" in closed.replace("2>&-", "") else 0), found
    assert "Traceback" not in found.stderr and "Exception" not in found.stderr


def test_values_that_json_lacks_become_text() -> None:
    assert plain({"a": b"caf\xc3\xa9", "b": b"\xff\x00", "c": memoryview(b"x")}) == {
        "a": "caf\u00e9",
        "b": "ff00",
        "c": "x",
    }
