"""Numbers that are hardly embeddings: what is noted, what is refused, and that neither happens without need."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from unembed.cli import invert
from unembed.errors import InputError
from unembed.stores.opening import open_store
from unembed.stores.quantised import Quantisation
from unembed.stores.reading import ReadOptions

VECTORS = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
BYTES = np.clip(VECTORS * 40 + 128, 0, 255).astype(np.uint8)
TOKENS = np.random.default_rng(1).integers(0, 30522, size=(5, 24))
ENDINGS = ("jsonl", "npy", "csv")


def write(path: Path, array: np.ndarray) -> Path:
    """Write the array in the format of the path's ending."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"id": i, "embedding": row}) for i, row in enumerate(array.tolist())))
    else:
        names = ",".join(f"e{i}" for i in range(array.shape[1]))
        path.write_text("\n".join([names, *(",".join(map(str, row)) for row in array.tolist())]))
    return path


def notes_of(path: Path, **options: Any) -> list[str]:
    """Read the whole file twice, in small batches; return the notes."""
    notes: list[str] = []
    store = open_store(path, reading=ReadOptions(Quantisation(**options), on_note=notes.append))
    for _ in range(2):
        assert sum(map(len, store.batches(2))) == 5
    return notes


@pytest.mark.parametrize("ending", ENDINGS)
def test_bytes_and_numbers_of_one_sign_are_noted_once(tmp_path: Path, ending: str) -> None:
    for array, said in (
        (BYTES, "uint8"),
        (BYTES.astype(np.float64), "uint8"),
        ((BYTES.astype(int) - 128), "only their direction"),
        (BYTES / 256, "no number below 0"),
    ):
        (note,) = notes_of(write(tmp_path / f"a.{ending}", array))
        assert note.startswith(str(tmp_path)) and said in note and "--" in note


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_said_of_vectors_or_where_it_is_known_what_numbers_mean(tmp_path: Path, ending: str) -> None:
    assert notes_of(write(tmp_path / f"a.{ending}", VECTORS)) == []
    path = write(tmp_path / f"a.{ending}", BYTES)
    assert notes_of(path, scale=0.025, offset=-3.2) == notes_of(path, packed=True) == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [int, float])
def test_token_ids_are_refused(tmp_path: Path, ending: str, kind: type) -> None:
    path = write(tmp_path / f"a.{ending}", TOKENS.astype(kind))
    with pytest.raises(InputError, match=r"whole numbers from \d+ to \d+, as token ids.*--column.*--scale"):
        notes_of(path)
    assert notes_of(path, scale=1) == []


def test_notes_reach_stderr_and_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.npy", BYTES)
    with caplog.at_level(logging.WARNING, "unembed"):
        list(open_store(path).batches())
    assert "uint8" in caplog.text

    def stop(*rest: Any) -> Any:
        list(rest[-1].batches())
        raise InputError("Enough.", "Stop.")

    monkeypatch.setattr(invert, "_load", stop)
    for options, shown in (([], True), (["--json"], True), (["-q"], False), (["--scale=1"], False)):
        found = CliRunner().invoke(invert.command, [str(path), *options])
        assert ("note: " in found.stderr and "uint8" in found.stderr) == shown and not found.stdout
