"""What goes wrong on a real machine: full disks, folders that cannot be written, damaged shards, strange stores.

Each ends in exit code 2 with two sentences, leaves nothing that is half written, and keeps what was finished.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.cli import Place, fails, run
from unembed.cli import main
from unembed.cli.chunks import partial_folder
from unembed.errors import DataError
from unembed.plugins import register
from unembed.stores.opening import open_store

DEFAULT = ["id", "text", "confidence", "likelihood", "fit", "misfit", "length", "passes", "queries"]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that may be read and not written, also where the tests run as root: they become nobody meanwhile."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def commands(place: Place, folder: Path) -> dict[str, list[str | Path]]:
    """Every command that writes, told to write into a folder."""
    invert: list[str | Path] = ["invert", place.vectors, "-m", place.model]
    embed: list[str | Path] = ["embed", place.texts, "--encoder", "hashing:32", "-q"]
    shards = f'data.shards="{place.shards}"'
    return {
        "invert": [*invert, "--out", folder / "o.csv"],
        "compare": [*invert, "--out", folder / "o.csv", "--compare", "text"],
        "trace": [*invert, "--trace", folder / "t.jsonl"],
        "embed": [*embed, "--out", folder / "o.npy"],
        "shards": [*embed, "--shards", folder / "shards"],
        "train": ["train", place.recipe, "--set", shards, "-q", "--out", folder / "run"],
        "evaluate": ["evaluate", place.texts, "-m", place.model, "-n", "10", "--out", folder / "results"],
    }


WRITERS = ("invert", "compare", "trace", "embed", "shards", "train", "evaluate")


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written(place: Place, tmp_path: Path, name: str) -> None:
    """A read-only folder, a path under a file and a file system of the kernel, found before any work is done."""
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, Path("/proc")):
        found = run_here(*commands(place, folder)[name])
        assert found[0] == 2 and len(found[1].splitlines()) == 2, found
        assert str(folder) in found[1] and "writable" in found[1], found
    assert names(tmp_path) == ["file"]


def run_here(*args: str | Path) -> tuple[int, str]:
    """Run a command in this process without pytest's capturing of files; return its exit code and stderr."""
    import io

    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(arg) for arg in args])
    return code, text.getvalue()


def test_a_read_only_folder(place: Place, locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.cli.chunks.remove_parts", lambda *args: None)
    copy = Path(tempfile.mkdtemp(dir="/tmp"))  # nobody may not look into pytest's own folders
    try:
        if os.geteuid() != os.getuid():
            os.seteuid(0)
            for path in (place.texts, place.vectors, place.recipe):
                shutil.copy(path, copy)
            shutil.copytree(place.model, copy / "model")
            shutil.copytree(place.shards, copy / "shards")
            copy.chmod(0o755)
            os.seteuid(65534)
            place = Place(
                copy, copy / "texts.tsv", copy / "v.parquet", copy / "shards", copy / "tiny.toml", copy / "model"
            )
        for name, args in commands(place, locked).items():
            code, err = run_here(*args)
            assert code == 2 and len(err.splitlines()) == 2 and "Permission denied" in err, (name, code, err)
        assert names(locked) == []
    finally:
        if os.geteuid() != os.getuid():
            os.seteuid(0)
        shutil.rmtree(copy)


def flipped(path: Path) -> bytes:
    """Flip one bit in the middle of a file; return what it was."""
    good = path.read_bytes()
    at = len(good) // 2
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    return good


def test_shards_with_a_flipped_byte(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, resuming, embedding on and evaluating refuse them; shards of old manifests are read without a check."""
    shards = tmp_path / "shards"
    shutil.copytree(place.shards, shards)
    train = ["train", place.recipe, "--out", tmp_path / "run", "--set", f'data.shards="{shards}"', "-q"]
    assert main([str(arg) for arg in [*train, "--set", "run.steps=2"]]) == 0
    path = shards / "shard-00000.vectors.npy"
    good = flipped(path)
    embed = ["embed", place.texts, "--shards", shards, "--encoder", "hashing:32", "--limit", "12", "-q"]
    evaluate = ["evaluate", shards, "-m", place.model, "-n", "5", "--no-cosine"]
    anew = [str(tmp_path / "new") if arg == tmp_path / "run" else arg for arg in train]
    for args in (anew, [*train, "--set", "run.steps=2", "--resume"], embed, evaluate):
        fails(capsys, args, "Shard 0", "shard-00000.vectors.npy", "damaged", "Copy it again")
    manifest = json.loads((shards / "manifest.json").read_text())
    for entry in manifest["shards"]:
        del entry["sha256"]
    (shards / "manifest.json").write_text(json.dumps(manifest))
    path.write_bytes(good)
    assert run(capsys, *evaluate, "-q").code == 0


def test_shards_of_another_encoder(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name; by what the probes become where the name is the same; and other texts where a run goes on."""
    other = tmp_path / "other"
    assert run(capsys, "embed", place.texts, "--shards", other, "--encoder", "hashing:16", "-q").code == 0
    setting = f'data.shards="{other}"'
    train = ["train", place.recipe, "--out", tmp_path / "r", "-q", "--set", setting, "--set", "data.limit=32"]
    fails(capsys, train, "hashing:16", "hashing:32", "data.encoder")

    same = tmp_path / "same"
    shutil.copytree(place.shards, same)
    manifest = json.loads((same / "manifest.json").read_text())
    vectors = manifest["identity"]["probe_vectors"]
    manifest["identity"]["probe_vectors"] = vectors[1:] + vectors[:1]
    (same / "manifest.json").write_text(json.dumps(manifest))
    train = ["train", place.recipe, "--out", tmp_path / "r", "-q", "--set", f'data.shards="{same}"']
    fails(capsys, train, "embedded by another hashing:32", "Make new shards")

    shutil.rmtree(same)
    shutil.copytree(place.shards, same)
    more = ["--set", "run.steps=2"]
    assert run(capsys, *train, *more).code == 0
    shutil.rmtree(same)
    few = tmp_path / "few.tsv"
    few.write_text("".join(place.texts.read_text().splitlines(keepends=True)[1:]))
    assert run(capsys, "embed", few, "--shards", same, "--encoder", "hashing:32", "--limit", "12", "-q").code == 0
    fails(capsys, [*train, *more, "--resume"], "began with other texts or vectors", "begin a new run")


def test_a_state_that_is_cut(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", place.recipe, "--out", tmp_path / "r", "-q", "--set", f'data.shards="{place.shards}"']
    train += ["--set", "run.steps=2"]
    fails(capsys, [*train, "--resume"], "no training state", "Begin the run first")
    assert run(capsys, *train).code == 0
    for name in (
        ".state.safetensors.0123abcd.part",
        ".tmpAb3dE6",
        "checkpoint/.tmpAb3dE6",
    ):  # what a SIGKILL leaves behind
        (tmp_path / "r" / name).write_text("")
    assert run(capsys, *train, "--resume").code == 0
    assert not [name for name in names(tmp_path / "r") if Path(name).name.startswith(".")]
    state = tmp_path / "r" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    fails(capsys, [*train, "--resume"], "training state", "Begin a new run")


def test_checkpoints_of_other_formats(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(place.model, model)
    config = json.loads((model / "config.json").read_text())
    for version, do in ((config["version"] + 1, "newer unembed"), (0, "that wrote it")):
        (model / "config.json").write_text(json.dumps({**config, "version": version}))
        for args in (["invert", place.vectors, "-m"], ["evaluate", place.texts, "-m"], ["models", "verify"]):
            fails(capsys, [*args, model], f"format {version}", do)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_columns_are_what_was_asked_for(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    def columns(*more: str) -> list[str]:
        out = tmp_path / f"o.{ending}"
        args = ["invert", place.vectors, "-m", place.model, "--limit-rows", "3", "--out", out, *more]
        assert run(capsys, *args).code == 0
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        if ending == "jsonl":
            return list(json.loads(out.read_text().splitlines()[0]))
        return pq.read_schema(out).names if ending == "parquet" else out.read_text().splitlines()[0].split(",")

    assert columns() == DEFAULT
    assert columns("--alternatives", "--keep", "source") == [*DEFAULT, "alternatives", "source"]
    assert columns("--tokens") == [*DEFAULT, "p_exact", "tokens", "token_confidence"]
    assert columns("--compare", "text") == [*DEFAULT, "original"]
    printed = run(capsys, "invert", place.vectors, "-m", place.model, "--limit-rows", "1", "--json", "--alternatives")
    row = json.loads(printed.out)
    assert list(row) == [*DEFAULT, "alternatives"] and row["alternatives"]


def test_cells_of_the_output_are_no_formulas(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"id": f"={i}", "note": "@x", "v": [1.0] * 32}) for i in range(3)]
    (tmp_path / "v.jsonl").write_text("\n".join(rows))
    args = ["invert", tmp_path / "v.jsonl", "-m", place.model, "--keep", "note", "--out", tmp_path / "o.csv"]
    assert run(capsys, *args).code == 0
    with open(tmp_path / "o.csv", newline="") as stream:
        assert [(row["id"], row["note"]) for row in csv.DictReader(stream)] == [(f"'={i}", "'@x") for i in range(3)]


def test_skip_bad_holds_for_every_store_and_is_resumed(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zero vectors are skipped too, also those of a store that checks nothing; a row mended later is not doubled."""
    vectors = np.random.default_rng(0).normal(size=(150, 32)).astype(np.float32)
    vectors[[5, 63, 100, 149]] = 0
    np.save(tmp_path / "v.npy", vectors)
    register("store", "test+zeros", lambda address, column, id_column: open_store(tmp_path / "v.npy"))
    for source in (str(tmp_path / "v.npy"), "test+zeros://x"):
        args = ["invert", source, "-m", place.model]
        fails(capsys, args, "Row 5 of", "zeros")
        found = run(capsys, *args, "--skip-bad", "--json")
        *rows, last = map(json.loads, found.out.splitlines())
        assert [part["row"] for part in last["skipped"]] == [5, 63, 100, 149]
        assert [row["id"] for row in rows] == [i for i in range(150) if i not in (5, 63, 100, 149)]

    vectors[[5, 100, 149]] = np.arange(32) - 16
    np.save(tmp_path / "v.npy", vectors)
    out, ends = tmp_path / "o.jsonl", True

    class Ends:
        """A store that ends in the middle."""

        def __init__(self, store: Any) -> None:
            self.store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        def batches(self, size: int) -> Any:
            for batch in self.store.batches(size):
                if ends and batch.start + len(batch) > 120:
                    raise DataError("The store went away.", "Try again.")
                yield batch

    register("store", "test+ends", lambda address, column, id_column: Ends(open_store(tmp_path / "v.npy")))
    args = ["invert", "test+ends://x", "-m", place.model, "--skip-bad", "--out", out]
    fails(capsys, [*args, "-q"], "went away")
    assert list(partial_folder(out).glob("chunk-*"))
    ends = False
    vectors[63] = vectors[64]
    np.save(tmp_path / "v.npy", vectors)
    assert run(capsys, *args, "--resume").code == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(range(150))


def test_a_refused_command_leaves_no_empty_folder(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor the folders above it; what was there before, or holds something, stays."""
    home = tmp_path / "runs" / "new"
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("")
    for args in (
        ["train", place.recipe, "--set", "data.shards='absent'", "--out", home],
        ["pack", nothing, "--out", home, "--encoder", "hashing:8"],
        ["embed", nothing, "--shards", home, "--encoder", "hashing:8"],
        ["embed", tmp_path / "absent.txt", "--out", home / "a.npy", "--encoder", "hashing:8"],
        ["evaluate", tmp_path / "absent.txt", "-m", place.model, "--out", home],
    ):
        fails(capsys, args)
        assert not home.parent.exists(), args
    (home.parent / "kept").mkdir(parents=True)
    fails(capsys, ["train", place.recipe, "--set", "data.shards='absent'", "--out", home])
    assert names(home.parent) == ["kept"]


@pytest.mark.parametrize("told", ["{}", "[]", '"abc"', '{"checkpoint": 1, "config": [1], "notes": {}}'])
def test_a_damaged_student_is_said_and_hides_no_model(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str
) -> None:
    """Alone it is two sentences; beside a whole checkpoint it keeps nothing from being shown."""
    alone, model = tmp_path / "alone", tmp_path / "model"
    alone.mkdir()
    shutil.copytree(place.model, model)
    for folder in (alone, model):
        (folder / "student.json").write_text(told)
    fails(capsys, ["models", "show", alone], str(alone))
    assert run(capsys, "models", "show", model).code == 0
