"""`unembed pack` as a user meets it: what it writes and says, going on, and what can be wrong, each in two lines."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from test_encoders import save_model

from tests.helpers.cli import WORDS, fails, run, start
from tests.helpers.scripts import run_script
from unembed.data.pack import read_pack
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder

LINES = [f"s{k % 3}\t{' '.join(WORDS[k % 7 : k % 7 + 3])} {WORDS[k % 5]}" for k in range(90)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.tsv"
    path.write_text("\n".join([*LINES, "s0\tthe [MASK] cat"]) + "\n")
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bert"), "mean", normalise=True)


def lines_of(folder: Path) -> list[str]:
    """The decoded texts of a pack with their sources."""
    pack = read_pack(folder)
    ids, lengths = pack.gather(np.arange(len(pack)))
    texts = [pack.tokenizer.decode(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
    return [f"{pack.source_names[s]}\t{text}" for s, text in zip(pack.sources, texts, strict=True)]


def test_a_pack_is_written_with_its_encoder(
    tmp_path: Path, texts: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p"
    found = run(capsys, "pack", texts, "--out", out, "--encoder", bert)
    assert found.code == 0 and found.out == ""
    assert "90 texts of 531 tokens" in found.err and "MiB with the encoder" in found.err, found.err
    assert "1 were dropped" in found.err
    assert lines_of(out) == LINES and read_pack(out).has_encoder
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = run(capsys, "pack", texts, "--out", out, "--encoder", bert, "--json")
    said = json.loads(again.out)
    assert (said["texts"], said["tokens"], said["dropped"], again.err) == (90, 531, 1, "")
    assert said["sources"] == {"s0": 30, "s1": 30, "s2": 30}
    assert said["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_options_choose_texts_and_limit(tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its encoder a pack can be of any encoder that has a tokenizer."""
    tokens = ["--encoder", "hashing:16", "--no-encoder", "--quiet"]
    cases = {
        "some": ([texts, "--max-texts", "5", "--limit", "3"], ["\t".join(line.split(" ")[:3]) for line in LINES[:5]]),
        "one": ([texts, "--exclude-source", "s0", "--exclude-source", "s1"], LINES[2::3]),
        "column": ([texts, "--column", "0"], [f"texts\t{line.split()[0]}" for line in [*LINES, "s0"]]),
    }
    for name, (options, want) in cases.items():
        assert run(capsys, "pack", *options, "--out", tmp_path / name, *tokens) == (0, "", "")
        found = lines_of(tmp_path / name)
        assert len(found) == len(want)
        if name == "one":
            assert found == want
    assert read_pack(tmp_path / "some").max_length == 3 and not read_pack(tmp_path / "some").has_encoder
    tokenizer = Tokenizer.from_json(load_encoder("hashing:16").tokenizer_json() or "")
    cut = tokenizer.truncate([line.split("\t")[1] for line in LINES[:5]], 3)
    assert [line.split("\t")[1] for line in lines_of(tmp_path / "some")] == [part.text for part in cut if part]


def test_a_stopped_command_goes_on_to_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM while it packs: exit code 143, nothing half, and the same command finishes."""
    many = tmp_path / "many.txt"
    many.write_text("".join(f"{' '.join(WORDS[k % 7 : k % 7 + 5])}\n" for k in range(12_000)))
    out, whole, options = tmp_path / "p", tmp_path / "whole", ["--encoder", "hashing:8", "--no-encoder", "--quiet"]
    process = start("pack", many, "--out", out, *options)
    while not (out / "tokenizer.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert "Traceback" not in process.communicate()[1]
    assert not (out / "pack.json").exists()
    for folder in (out, whole):
        assert run(capsys, "pack", many, "--out", folder, *options).code == 0
    names = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == names


def test_what_can_be_wrong_is_said_in_two_lines(
    tmp_path: Path, texts: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, options = tmp_path / "good", ["--encoder", bert]
    assert run(capsys, "pack", texts, "--out", good, *options).code == 0
    part = good / "part-00000.xz"
    data = part.read_bytes()
    for bad in (data[:-9], data[:30] + b"?" + data[31:]):
        part.write_bytes(bad)
        fails(capsys, ["pack", texts, "--out", good, *options], "part-00000.xz is damaged")
    part.write_bytes(data)
    fails(capsys, ["pack", texts, "--out", good, *options, "--limit", 8], "the limit 32, not 8")
    fails(capsys, ["pack", texts, "--out", good, *options, "--no-encoder"], "holds a pack with the encoder")
    fails(capsys, ["pack", texts, "--out", good, *options, "--max-texts", 9], "not those that part 0")
    fails(capsys, ["pack", texts, "--out", good, "--encoder", "hashing:8", "--no-encoder"], "encoder's name")
    new = tmp_path / "new"
    fails(capsys, ["pack", texts, "--out", new, "--encoder", "hashing:8"], "cannot run on token ids", "such as minilm")
    fails(capsys, ["pack", texts, "--out", new, *options, "--limit", 100], "limit is 100 tokens, the encoder")
    fails(capsys, ["pack", tmp_path / "no.txt", "--out", new, *options], "no.txt does not exist")
    assert not new.exists()
    fails(capsys, ["pack", texts, "--out", texts.parent, *options], "holds something other")
    fails(capsys, ["pack", "hf:name", "--out", new, "--column", "text"], "do not go with a dataset")
    everything = [part for k in range(3) for part in ("--exclude-source", f"s{k}")]
    fails(capsys, ["pack", texts, "--out", new, *options, *everything], "No text is left")
    found = run(capsys, "pack", texts)
    assert found.code == 2 and "--out" in found.err
    shutil.rmtree(good)


def test_the_benchmark_measures_and_fills_its_page(
    tmp_path: Path, texts: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = tmp_path / "page.md", tmp_path / "pack.json"
    page.write_text("before\n<!-- pack -->\nold\n<!-- /pack -->\nafter\n")
    options = ["--texts", texts, "--encoder", bert, "--out", out, "--page", page]
    assert run_script("benchmarks.speed.pack_sizes", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["texts"], found["tokens"], found["dropped"]) == (90, 531, 1)
    assert found["encoder_bytes"] > found["parts_bytes"] > 0
    assert 0.999 < found["least_probe_cosine"]["bf16"] <= 1
    assert {**json.loads(out.read_text()), "machine": 0} == {**found, "machine": 0}
    filled = page.read_text()
    assert "| 90 texts, 531 tokens (texts.tsv) |" in filled and "old" not in filled and filled.endswith("after\n")
