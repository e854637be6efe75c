"""A disk that is full: two sentences, and what was finished is kept."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_failures import names

from tests.helpers.cli import Place, fails
from unembed.cli import main
from unembed.cli.chunks import Chunks
from unembed.errors import DataError


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the system refuses the write as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_disk_that_is_full_while_texts_are_written(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """No chunk fits: nothing is left. The chunks fit and the whole does not: they are kept, and --resume goes on."""
    out = tmp_path / f"o{ending}"
    args = ["invert", place.vectors, "-m", place.model, "--tokens", "--alternatives", "--out", out]
    with small_disk(1500):
        fails(capsys, args, "Writing", "File too large", "Free disk space")
    assert names(tmp_path) == []

    rows = [{"id": i, "text": f"a text with some words {i} {i * i * 7919}"} for i in range(40)]
    with Chunks(tmp_path / f"whole{ending}", {}) as whole:
        whole.write(rows)
        whole.finish()
    with small_disk(600):
        with pytest.raises(DataError, match="File too large"), Chunks(out, {}) as chunks:
            for start in range(0, 40, 5):
                chunks.write(rows[start : start + 5])
                chunks.flush()
            chunks.finish()
        assert not out.exists() and chunks.done == 40
    with Chunks(out, {}) as again:
        assert again.done == 40
        again.finish()
    assert out.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert names(tmp_path) == sorted([out.name, f"whole{ending}"])


@pytest.mark.parametrize("ending", [".parquet", ".npy", ".jsonl"])
def test_a_disk_that_is_full_while_vectors_are_written(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    out = tmp_path / f"v{ending}"
    args = ["embed", place.texts, "--out", out, "--encoder", "hashing:32", "-q"]
    with small_disk(4000):
        fails(capsys, args, "Writing", "File too large", "Free disk space")
    assert names(tmp_path) == []
    shards = tmp_path / "shards"
    args = ["embed", place.texts, "--shards", shards, "--encoder", "hashing:32", "-q", "--shard-size", "100"]
    with small_disk(4000):
        fails(capsys, args, "shard-00000.vectors.npy", "requested", "Free disk space")
    assert not (shards / "manifest.json").exists() and not list(shards.glob(".*"))
    assert main([str(arg) for arg in args]) == 0 and len(list(shards.glob("*.vectors.npy"))) == 2


def test_a_disk_that_is_full_while_others_write(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trace, the result of an evaluation, the state and the log of a run."""
    trace, results, folder = tmp_path / "t.jsonl", tmp_path / "results", tmp_path / "r"
    with small_disk(1000):
        fails(capsys, ["invert", place.vectors, "-m", place.model, "--trace", trace], "t.jsonl", "File too large")
        args = ["evaluate", place.texts, "-m", place.model, "-n", "10", "--no-cosine", "--out", results]
        fails(capsys, args, "texts-adaptive.json", "File too large")
    assert names(tmp_path) == []
    args = ["train", place.recipe, "--out", folder, "--set", f'data.shards="{place.shards}"', "-q"]
    with small_disk(20_000):
        fails(capsys, args, "state.safetensors", "File too large", "Free disk space")
    assert names(folder) == ["log.jsonl", "recipe.json"]
    with small_disk(700):
        fails(capsys, args, "recipe.json", "File too large")


def test_lines_that_nobody_can_read_end_no_run(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stderr that is full, or whose reader went away, costs the lines and nothing that was learnt."""
    args = ["train", place.recipe, "--out", tmp_path / "r", "--set", f'data.shards="{place.shards}"']
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))
        main([str(arg) for arg in [*args, "--set", "run.validate_every=1e-9"]])
        monkeypatch.undo()
    assert {"checkpoint", "state.safetensors"} <= set(names(tmp_path / "r"))


def test_a_disk_that_is_full_when_the_log_grows(tmp_path: Path) -> None:
    from unembed.training.report import Reporter, read_log

    facts = {"step": 1, "texts": 8, "seconds": 1.0}
    with Reporter(tmp_path, False, None) as reporter:
        reporter.step(facts, torch.tensor(1.0), 8, 0.1, 0.1, 0.1, torch.tensor(0.0))
        with small_disk(250), pytest.raises(DataError, match=r"log\.jsonl failed.*--resume"):
            for step in range(2, 9):
                reporter.validation({**facts, "step": step}, {"bound": 1.0})
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 1 + len(lines))) and 1 <= len(lines) < 8


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    """Lines behind the saved state come again; a line that a kill has cut is dropped, not glued to the next."""
    from unembed.training.report import Reporter, read_log

    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"kind": "validation", "step": step}) + "\n" for step in (1, 4, 9)) + '{"kin')
    with Reporter(tmp_path, False, 4) as reporter:
        reporter.validation({"step": 9, "texts": 8, "seconds": 1.0}, {"bound": 1.0})
    assert [line["step"] for line in read_log(path)] == [1, 4, 9]
    assert len(path.read_text().splitlines()) == 3
    with Reporter(tmp_path, False, 9) as reporter:  # the run was killed between its last validation and its checkpoint
        reporter.validation({"step": 9, "texts": 8, "seconds": 1.0}, {"bound": 2.0})
    assert [line["step"] for line in read_log(path)] == [1, 4, 9] and read_log(path)[-1]["bound"] == 2.0


def test_standard_output_on_a_full_disk(place: Place) -> None:
    for args in (["invert", place.vectors, "-m", place.model], ["models", "show", place.model, "--json"]):
        command = [sys.executable, "-m", "unembed", *map(str, args)]
        with open("/dev/full", "w") as full:
            found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert found.returncode == 2 and len(found.stderr.splitlines()) == 2, found.stderr
        assert "No space left on device" in found.stderr and "Traceback" not in found.stderr
