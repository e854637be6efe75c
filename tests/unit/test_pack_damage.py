"""Packs that were changed, cut or mixed are refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_pack import HASHING, TOKENIZER, bert, corpus, make, texts_of  # noqa: F401

from unembed.data.pack import read_pack, write_pack
from unembed.data.pack_manifest import PACK
from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError


def test_folders_that_do_not_go_together(tmp_path: Path, bert: Encoder) -> None:
    rows, known = corpus(20), make(tmp_path / "known", corpus(20))
    other = Tokenizer.from_json(TOKENIZER.to_json().replace("##ing", "##ung"))
    write_pack(tmp_path / "tokenizer", rows, HASHING, other, 8, False)
    make(tmp_path / "limit", rows, max_length=9)
    write_pack(tmp_path / "the encoder", rows, bert, TOKENIZER, 8, False)
    for name, message in (("tokenizer", ""), ("limit", r" \(8 and 9\)"), ("the encoder", "")):
        what = name if name.startswith("the") else f"the {name}"
        with pytest.raises(DataError, match=f"differ in {what}{message}"):
            read_pack([known, tmp_path / name])
    write_pack(tmp_path / "same name", rows, HashingEncoder(16), TOKENIZER, 8, False)
    rewrite(tmp_path / "same name", lambda value: value["identity"]["probe_vectors"][1].reverse())
    with pytest.raises(DataError, match="differ in the encoder"):
        read_pack([known, tmp_path / "same name"])
    for folders, message in (([], "No pack is given"), ([known, tmp_path], r"it has no pack\.json")):
        with pytest.raises(DataError, match=message):
            read_pack(folders)


def rewrite(folder: Path, change: object) -> None:
    """Change pack.json as somebody would who knows about its digest."""
    from unembed.data.pack_manifest import _digest

    value = json.loads((folder / PACK).read_text())
    value.pop("sha256")
    change(value)  # type: ignore[operator]
    (folder / PACK).write_text(json.dumps({**value, "sha256": _digest(value)}))


def test_a_manifest_that_does_not_fit_its_files(tmp_path: Path, bert: Encoder) -> None:
    """Whoever writes a pack by hand gets an error too, not another corpus or a process without memory."""
    make(tmp_path / "good", corpus(40), encoder=bert)
    swapped = "0" * 64
    for k, (change, message) in enumerate(
        [
            (lambda v: v.update(version=2), "version 2, this unembed reads 1"),
            (lambda v: v.update(format="other"), "does not describe a pack"),
            (lambda v: v.pop("limit"), "damaged"),
            (lambda v: v["identity"].pop("name"), "damaged"),
            (lambda v: v["parts"][0].update(more=1), "damaged"),
            (lambda v: v.update(parts=[]), "hold no text"),
            (lambda v: v["parts"][1].update(n=9), "does not hold what the pack says"),
            (lambda v: v["parts"][1].update(n=11, tokens=1), "does not hold what the pack says"),
            (lambda v: v.update(sources={"s0": 1}), "lengths or sources"),
            (lambda v: v.update(limit=3), "lengths or sources"),
            (lambda v: v.update(vocabulary=20), "ids, the pack 20"),
            (lambda v: v["parts"][0].update(sha256=swapped), "another sha256"),
            (lambda v: v["encoder"].update(sha256=swapped), "another sha256"),
            (lambda v: v["encoder"]["config"].update(heads=5), "do not fit 5 heads"),
            (lambda v: v["encoder"]["config"].update(normalise=False), "that it says it is"),
            (lambda v: v["encoder"]["shapes"].pop("words"), "does not hold what the pack says"),
            (lambda v: v.update(tokenizer_sha256=swapped), "another sha256"),
        ]
    ):
        folder = tmp_path / str(k)
        shutil.copytree(tmp_path / "good", folder)
        rewrite(folder, change)
        with pytest.raises(DataError, match=message):
            read_pack(folder)


def test_flipped_and_cut_bytes_never_pass(tmp_path: Path, bert: Encoder) -> None:
    """At random places of every file: always a DataError of two sentences, or nothing that differs."""
    make(tmp_path, corpus(60), encoder=bert)
    want, rng = read_pack(tmp_path), np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir()):
        good, passed = path.read_bytes(), 0
        for trial in range(30):
            bad = bytearray(good)
            place = int(rng.integers(len(good)))
            if trial % 3 == 2:
                del bad[place:]
            else:
                bad[place] ^= int(rng.integers(1, 256))
            path.write_bytes(bad)
            try:
                found = read_pack(tmp_path)
            except DataError as error:
                assert all(re.search(r"[.?]$", sentence) for sentence in (error.what, error.do)), (path, place)
                continue
            passed += 1
            assert texts_of(found) == texts_of(want)
            assert (found.identity, found.fingerprints) == (want.identity, want.fingerprints)
        path.unlink()
        with pytest.raises(DataError):
            read_pack(tmp_path)
        path.write_bytes(good)
        assert passed <= (3 if path.suffix == ".json" else 0), path  # a space between the values of JSON
    assert texts_of(read_pack(tmp_path)) == texts_of(want)
