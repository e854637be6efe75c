"""The command line on real files: what it writes, and two sentences with exit code 2 for what a user can get wrong.

A tiny model is made by the commands themselves (embed, train); nothing here needs the shipped one.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.cli import Place, fails, run, start
from unembed.cli.app import COMMANDS, group


def test_embed_keeps_ids_texts_and_sources(place: Place) -> None:
    table = pq.read_table(place.vectors)
    assert table.column_names == ["id", "text", "embedded_text", "source", "embedding"]
    assert table.num_rows == 30 and table["embedding"].type.list_size == 32
    assert table["source"][4].as_py() == "s1"
    lines = place.texts.read_text().splitlines()
    assert table["text"][7].as_py() == lines[7].split("\t")[1]


def test_invert_prints_a_table(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "invert", place.vectors, "-m", place.model, "--limit-rows", 4)
    assert found.code == 0, found.err
    lines = [line for line in found.out.splitlines() if line.strip()]
    assert lines[0].split() == ["id", "lik.", "recovered"] and len(lines) >= 6
    assert "\x1b" not in found.out, "no colours outside a terminal"


def test_invert_compares_and_scores(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "invert", place.vectors, "-m", place.model, "--limit-rows", 8, "--compare", "text", "--json")
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert found.code == 0 and len(rows) == 9
    texts = pq.read_table(place.vectors)["text"].to_pylist()
    assert [row["original"] for row in rows[:8]] == texts[:8]
    scores = rows[8]["scores"]
    for name in ("token_f1", "token_accuracy", "exact_match", "bleu", "cosine"):
        assert scores["metrics"][name]["low"] <= scores["metrics"][name]["value"] <= scores["metrics"][name]["high"]
    assert "cosine" in scores["floors"]
    table = run(capsys, "invert", place.vectors, "-m", place.model, "--limit-rows", 8, "--compare", "text")
    assert "token_f1" in table.out and "floor" in table.out and texts[0] in table.out


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_invert_writes_files(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    out = tmp_path / f"texts.{ending}"
    args = ["invert", place.vectors, "-m", place.model, "--out", out, "--keep", "source", "--seed", 3]
    assert run(capsys, *args).code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    if ending == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    elif ending == "csv":
        with open(out, newline="") as stream:
            rows = list(csv.DictReader(stream))
    else:
        rows = pq.read_table(out).to_pylist()
    assert len(rows) == 30
    assert [str(row["id"]) for row in rows] == [str(i) for i in range(30)]
    assert rows[4]["source"] == "s1"
    assert all(0 <= float(row["likelihood"]) <= 1 for row in rows)
    if ending == "jsonl":
        again = run(capsys, "invert", place.vectors, "-m", place.model, "--json", "--seed", 3, "--batch-size", 7)
        assert [json.loads(line)["text"] for line in again.out.splitlines()] == [row["text"] for row in rows]


def test_invert_writes_a_trace(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    args = ["invert", place.vectors, "-m", place.model, "--limit-rows", 3, "--trace", trace, "--strategy", "sequential"]
    assert run(capsys, *args, "--passes", 4).code == 0
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    assert len(rows) == 3 and trace.stat().st_mode & 0o777 == 0o600
    for row in rows:
        assert row["steps"] and not any(row["steps"][-1]["masked"])


def test_invert_draws_the_first_row(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole SVG, mode 600, with the text that the table shows; --resume and other endings are refused."""
    picture = tmp_path / "decode.svg"
    args = ["invert", place.vectors, "-m", place.model, "--limit-rows", 2, "--json", "--tokens", "--animate", picture]
    done = run(capsys, *args, "--strategy", "confidence", "--passes", 3)
    assert done.code == 0, done.err
    row = json.loads(done.out.splitlines()[0])
    said = [element.text for element in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert set(row["tokens"]) <= set(said) and f"likelihood {row['likelihood']:.2f}" in " ".join(filter(None, said))
    assert picture.stat().st_mode & 0o777 == 0o600
    assert run(capsys, *args[:-1], tmp_path / "decode.gif").code == 2
    assert run(capsys, *args[:6], "--out", tmp_path / "x.csv", "--resume", "--animate", picture).code == 2


def test_a_csv_cell_cannot_be_a_formula(tmp_path: Path) -> None:
    from unembed.cli.output import write_rows

    path = tmp_path / "a.csv"
    bad = ["=1+1", "+1+1", "-a", "@x", "\tx", "\rx"]
    write_rows(path, lambda: iter([[{"text": text, "number": -1.5} for text in [*bad, "plain - text"]]]))
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["text"] for row in rows] == [f"'{text}" for text in bad] + ["plain - text"]
    assert rows[0]["number"] == "-1.5", "numbers stay numbers"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    from unembed.cli.output import write_rows

    def broken() -> Iterator[list[dict[str, str]]]:
        yield [{"text": "x"}]
        raise KeyError

    for ending in ("jsonl", "csv", "parquet"):
        with pytest.raises(KeyError):
            write_rows(tmp_path / f"a.{ending}", broken)
    assert list(tmp_path.iterdir()) == []


def test_evaluate(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["evaluate", place.texts, "-m", place.model, "-n", 20, "--rate", 0.5]
    found = run(capsys, *args, "--train", place.shards, "--neighbours", 50, "--out", tmp_path)
    assert found.code == 0, found.err
    for part in ("token_accuracy", "`adaptive`", "`nearest-neighbour`", "`random-tokens`", "`unconditional`"):
        assert part in found.out
    files = sorted(path.name for path in tmp_path.iterdir())
    assert "texts-adaptive.json" in files and len(files) == 4
    result = json.loads(run(capsys, *args, "--json").out)
    assert result["data"]["n"] == 20 and result["data"]["of"] == 160
    assert 0 <= result["metrics"]["masked_token_accuracy@0.5"]["value"] <= 1
    shards = json.loads(run(capsys, "evaluate", place.shards, "-m", place.model, "-n", 20, "--json", "--no-cosine").out)
    assert shards["data"]["n"] == 20 and "cosine" not in shards["metrics"]


def test_doctor(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "doctor", "-m", place.model, "--json")
    report = json.loads(found.out)
    assert found.code == 0 and report["ok"] and report["least_probe_cosine"] >= 0.999
    assert report["matmul_gflops"]["fp32"] > 0 and report["packages"]["torch"]
    assert "files right" in run(capsys, "doctor", "-m", place.model).out


def test_models(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "models", "list", "--json").code == 0
    assert "(default): for minilm (384 dimensions), texts of at most 32 tokens" in run(capsys, "models", "list").out
    shown = json.loads(run(capsys, "models", "show", place.model, "--json").out)
    assert shown["denoiser"]["vector_dim"] == 32 and shown["encoder"]["name"] == "hashing:32"
    assert "vector_dim = 32" in run(capsys, "models", "show", place.model).out
    assert run(capsys, "models", "verify", place.model).out.count("ok ") == len({*shown["files"], "config.json"})


def test_a_dry_run_measures_and_writes_nothing(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from functools import partial

    from unembed.training import estimate

    monkeypatch.setattr(estimate, "estimate", partial(estimate.estimate, seconds=0.2, warmup=1))
    monkeypatch.chdir(tmp_path)
    args = ["train", place.recipe, "--dry-run", "--set", f'data.shards="{place.shards}"']
    found = json.loads(run(capsys, *args, "--json").out)
    assert found["texts"] == 160 - 16
    assert found["texts_per_second"] > 0 and found["operations_per_text"] > 0 and found["memory_bytes"] > 2**20
    assert found["epochs"] == pytest.approx(found["hours"] * 3600 * found["texts_per_second"] / found["texts"])
    boxed = json.loads(run(capsys, *args, "--json", "--set", "run.steps=0", "--max-time", "2h").out)
    assert boxed["hours"] == 2 and boxed["preparation_seconds"] > 0
    assert boxed["epochs"] < 7200 * boxed["texts_per_second"] / boxed["texts"], "preparing takes a part of the box"
    started = json.loads(run(capsys, *args, "--json", "--init-from", place.model).out)
    assert started["parameters"] == found["parameters"]
    fails(capsys, [*args, "--init-from", tmp_path / "none"], "none")
    fails(
        capsys, [*args, "--cooldown", "2m", "--max-time", "3m", "--out", tmp_path / "run"], "--cooldown", "--max-time"
    )
    fails(capsys, [*args, "--resume"], "No folder", "--out")
    fails(capsys, [*args, "--resume", "--out", tmp_path / "run"], "state")
    fails(capsys, [*args, "--out", place.model.parent], "holds the state of a run")
    shown = run(capsys, *args).out
    for words in ("parameters", "GFLOP", "texts/s", "hours", "epochs", "GiB"):
        assert words in shown
    assert not list(tmp_path.iterdir())
    fails(capsys, ["train", place.recipe], "--out", "--dry-run")


def test_train_resumes_and_starts_from_weights(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = f'data.shards="{place.shards}"'
    args = ["train", place.recipe, "--out", tmp_path / "run", "--set", shards, "--set", "run.steps=3", "--json"]
    first = run(capsys, *args, "--init-from", place.model)
    assert first.code == 0, first.err
    assert json.loads(first.out)["steps"] == 3
    second = run(capsys, *args, "--resume")
    assert second.code == 0, second.err
    assert json.loads(second.out)["steps"] == 3
    assert (tmp_path / "run" / "checkpoint" / "config.json").exists()


def test_wrong_vectors(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = np.random.default_rng(0).normal(size=(70, 32)).astype(np.float32)
    np.save(tmp_path / "wide.npy", np.ones((3, 33), np.float32))
    fails(capsys, ["invert", tmp_path / "wide.npy", "-m", place.model], "33", "32", "wide.npy")
    for value, word in ((np.nan, "NaN"), (np.inf, "infinite")):
        bad = good.copy()
        bad[66, 5] = value
        np.save(tmp_path / "bad.npy", bad)
        fails(capsys, ["invert", tmp_path / "bad.npy", "-m", place.model, "-q"], "Row 66", word, "bad.npy")
    good[69] = 0
    np.save(tmp_path / "zero.npy", good)
    fails(capsys, ["invert", tmp_path / "zero.npy", "-m", place.model], "Row 69", "zeros")
    np.save(tmp_path / "objects.npy", np.array([["a", 1]], dtype=object), allow_pickle=True)
    fails(capsys, ["invert", tmp_path / "objects.npy", "-m", place.model], "objects.npy")
    fails(capsys, ["invert", tmp_path / "absent.npy", "-m", place.model], "absent.npy does not exist")
    fails(capsys, ["invert", place.vectors, "-m", place.model, "--compare", "title"], "title", "text, source")
    fails(capsys, ["invert", place.vectors, "-m", place.model, "--column", "text"], "'text'", "embedding")
    fails(capsys, ["invert", place.vectors, "-m", place.model, "--out", tmp_path / "x.xlsx"], ".xlsx", ".csv")
    fails(capsys, ["invert", place.vectors, "-m", place.model, "--samples", 3], "samples", "temperature")
    assert not (tmp_path / "x.xlsx").exists()


@pytest.mark.parametrize("more", [["--compare", "text"], ["--trace", "trace.jsonl"]])
def test_finished_rows_are_kept_when_a_late_row_is_bad(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """Scores and traces are of whole runs, so such a run does not go on; its rows can be read all the same."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(150, 32)).astype(np.float32)
    rows[140, 0] = np.nan
    lines = [json.dumps({"text": "a cat", "v": row}) for row in rows.tolist()]
    (tmp_path / "late.jsonl").write_text("\n".join(lines))
    args = ["invert", "late.jsonl", "-m", place.model, "--out", tmp_path / "o.csv", *more]
    fails(capsys, args, "Row 140")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.jsonl", "o.csv.partial"]
    chunks = [path.read_text() for path in sorted(tmp_path.glob("o.csv.partial/chunk-*"))]
    kept = [json.loads(line) for line in "".join(chunks).splitlines()]
    assert [row["id"] for row in kept if "id" in row] == list(range(128))
    fails(capsys, args, "o.csv.partial holds the finished rows", "Move or remove")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_broken_inversion_goes_on(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """Finished rows are kept when a late row is bad; mended and resumed, the file is that of an unbroken run."""
    rows = np.random.default_rng(0).normal(size=(150, 32)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    args = ["invert", tmp_path / "v.npy", "-m", place.model]
    assert run(capsys, *args, "--out", tmp_path / f"whole{ending}").code == 0
    bad = rows.copy()
    bad[140, 0] = np.nan
    np.save(tmp_path / "v.npy", bad)
    out = tmp_path / f"o{ending}"
    fails(capsys, [*args, "--out", out], "Row 140")
    assert not out.exists()
    np.save(tmp_path / "v.npy", rows)
    fails(capsys, [*args, "--out", out], "interrupted", "--resume")
    fails(capsys, [*args, "--out", out, "--resume", "--passes", "3"], "interrupted", "same options")
    assert run(capsys, *args, "--out", out, "--resume").code == 0
    assert out.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert not Path(f"{out}.partial").exists()
    fails(capsys, [*args, "--resume"], "--resume goes with --out", "Name a file")


def test_wrong_checkpoints(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["invert", place.vectors, "-m"]
    fails(capsys, [*args, tmp_path / "nowhere"], "nowhere", "models list")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    fails(capsys, [*args, foreign], "not an unembed checkpoint")
    for name in ("model-00001-of-00001.safetensors", "tokenizer.json", "encoder.json"):
        cut = tmp_path / f"cut-{name}"
        shutil.copytree(place.model, cut)
        (cut / name).write_bytes((cut / name).read_bytes()[:-100])
        fails(capsys, [*args, cut], name)
        fails(capsys, ["models", "verify", cut], name)
        fails(capsys, ["doctor", "-m", cut], name)
    (cut / "tokenizer.json").unlink()
    fails(capsys, [*args, cut], "tokenizer.json")


def test_wrong_encoder(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "doctor", "-m", place.model, "--encoder", "hashing:64")
    assert found.code == 2 and found.err.strip().count("\n") == 1 and "64" in found.err
    other = tmp_path / "other"
    assert run(capsys, "embed", place.texts, "--shards", other, "--encoder", "hashing:16", "-q").code == 0
    fails(capsys, ["evaluate", other, "-m", place.model], "hashing:16", "hashing:32")
    fails(capsys, ["embed", place.texts, "--shards", place.shards, "--encoder", "hashing:16", "-q"], str(place.shards))
    fails(capsys, ["embed", place.texts, "--out", tmp_path / "a.npy", "--encoder", "no such encoder", "-q"])


def test_wrong_texts_and_recipes(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, ["embed", tmp_path / "absent.txt", "--out", tmp_path / "a.npy"], "absent.txt")
    fails(capsys, ["embed", place.texts], "--out", "--shards")
    fails(capsys, ["embed", place.texts, "--out", tmp_path / "a.txt"], "a.txt", ".parquet")
    fails(capsys, ["evaluate", tmp_path / "absent.txt", "-m", place.model], "absent.txt")
    fails(capsys, ["train", tmp_path / "absent.toml", "--out", tmp_path / "r"], "absent.toml")
    fails(capsys, ["train", place.recipe, "--out", tmp_path / "r", "--set", "model.widht=3"], "widht", "width")
    fails(capsys, ["train", place.recipe, "--out", tmp_path / "r", "--set", f"data.shards={tmp_path}"], "shards")
    fails(capsys, ["train", place.recipe, "--out", tmp_path / "r", "--max-time", "soon"], "soon")


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for args, part in (
        (["invrt"], "Did you mean invert?"),
        (["invert"], "VECTORS"),
        (["invert", "x", "--no"], "--no"),
    ):
        found = run(capsys, *args)
        assert found.code == 2 and part in found.err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_an_example_and_the_line_of_the_list(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, name, "--help")
    assert found.code == 0 and f"unembed {name}" in found.out.split("Examples:")[1]
    command = group.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None and command.help
    assert "--help" in found.out and COMMANDS[name].endswith(".")


def test_a_broken_pipe_is_silent(place: Place) -> None:
    with start("invert", place.vectors, "-m", place.model, "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def test_a_shell_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    """The printed script is valid shell, and what it asks the program is answered."""
    script = run(capsys, "completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0

    def ask(words: str) -> list[str]:
        environment = {**os.environ, "_UNEMBED_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"}
        environment["COMP_CWORD"] = str(len(words.split()) - 1)
        command = [sys.executable, "-m", "unembed"]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return found.stdout.split()

    assert ask("unembed inv") == ["plain,invert"]
    assert "plain,--passes" in ask("unembed invert --pas")
