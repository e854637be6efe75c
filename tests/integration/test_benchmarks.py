"""Every script of benchmarks/ that belongs to decoding, training, embedding, memory and results runs on tiny data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import common
from reports import results
from tests.helpers.scripts import run_script
from tests.helpers.tiny import save_tiny
from unembed.data.shards import ShardDataset, write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import HashingEncoder

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 8
QUICK = ("--matmul-seconds", 0.02)


@pytest.fixture
def script(capsys):
    """Run a module with arguments; return its exit code and what it printed."""
    return lambda name, *arguments: (run_script(f"benchmarks.{name}", *arguments), capsys.readouterr().out)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Shards for training and testing, texts, vectors and an untrained checkpoint of the hashing encoder."""
    home = tmp_path_factory.mktemp("home")
    encoder = HashingEncoder(16)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json())
    words = "the old dog saw a small house near river and city people went home with water every morning".split()
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, size=generator.integers(2, LIMIT + 3))) for _ in range(400)]
    (home / "texts.txt").write_text("\n".join(texts))
    pairs = [(text, ["news", "mail"][i % 2]) for i, text in enumerate(texts)]
    write_shards(home / "train", pairs[:300], encoder, tokenizer, max_length=LIMIT, shard_size=128)
    write_shards(home / "test", pairs[300:], encoder, tokenizer, max_length=LIMIT, shard_size=128)
    np.save(home / "vectors.npy", ShardDataset(home / "test").gather(np.arange(20))[2])
    save_tiny(home / "model", encoder, prefix_tokens=1)
    return home


def one_line(out):
    lines = out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_decode(script, home):
    _, out = script(
        "speed.decode", "--model", home / "model", "--vectors", home / "vectors.npy", "--batches", 1, 24,
        "--seconds", 0, "--strategies", "sequential", "left-to-right", "--passes", 4, "--lengths", 1, *QUICK,
    )  # fmt: skip
    found = one_line(out)
    assert found["benchmark"] == "decode" and found["machine"]["summary"]
    assert [(r["strategy"], r["batch"]) for r in found["runs"]] == [
        ("sequential", 1), ("sequential", 24), ("left-to-right", 1), ("left-to-right", 24),
    ]  # fmt: skip
    for r in found["runs"]:
        assert r["texts_per_second"] == pytest.approx(r["batch"] / r["seconds"], rel=0.01)
        assert r["share"] == pytest.approx(r["gflops"] / found["matmul_gflops"]["fp32"], rel=0.01)
        assert 0 < r["share"] <= r["share_padded"] and 0 <= r["padding"] < 1 and r["gflop_per_text"] > 0


def test_counter_counts_what_the_design_says(home):
    """2 A n a pass plus 2 x rows x columns x width for the head; padding is not work."""
    from unembed.checkpoint.checkpoint import load_checkpoint

    denoiser = load_checkpoint(home / "model").denoiser
    counter = common.Counter(denoiser)
    ids = torch.full((2, 6), denoiser.config.mask_id)
    rows = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    with counter.counting(), torch.no_grad():
        denoiser.logits(ids, torch.zeros_like(ids), denoiser.condition(torch.ones(2, 16)), torch.tensor([6, 3]), rows)
    blocks, vocabulary = denoiser.parameter_counts()["blocks"], denoiser.config.vocab_size
    assert counter.forward_operations == 2 * blocks * 9 + 2 * 9 * vocabulary * 16
    assert (counter.padded, counter.passes) == (12, 1)
    with torch.no_grad():
        denoiser.logits(ids, torch.zeros_like(ids), denoiser.condition(torch.ones(2, 16)))
    assert counter.passes == 1  # nothing is counted outside the block


def test_constraints(script, home, tmp_path):
    """Every scenario is satisfied, its control scored, and what was measured is not measured again."""
    out, page, figure = tmp_path / "c.json", tmp_path / "c.md", tmp_path / "c.svg"
    page.write_text("# Title\n<!-- table -->\nold\n<!-- /table -->\nend\n")
    arguments = ["--model", home / "model", "--test", home / "test", "-n", 12, "--out", out]
    arguments += ["--table", page, "--figure", figure]
    script("experiments.constraints", *arguments)
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 2 * (2 + 3 * 3) and {row["satisfied"] for row in rows} == {1.0}
    for row in rows:
        assert ("control" in row) == (row["known"] != "nothing")
        if row["known"] == "positions":
            assert row["decoded"]["token_accuracy"]["value"] >= row["decoded"]["token_accuracy_unknown"]["value"]
    assert page.read_text().startswith("# Title\n") and page.read_text().endswith("-->\nend\n")
    assert page.read_text().count("\n| ") == 2 + 22 and "old" not in page.read_text()
    assert figure.read_text().startswith("<?xml")
    result = json.loads(out.read_text())
    result["rows"][-1]["passes"] = 0.123
    out.write_text(json.dumps(result))
    script("experiments.constraints", *arguments, "--resume")
    assert json.loads(out.read_text())["rows"][-1]["passes"] == 0.123


def test_memory(script, home):
    code, out = script("speed.invert_memory", "--model", home / "model", "--count", 60, "--batch", 4)
    found = one_line(out)
    assert found["count"] == 60 and len(found["resident_mib"]) == 11 and found["flat"] == (code == 0)
    code, out = script(
        "speed.invert_memory", "--model", home / "model", "--count", 60, "--batch", 4, "--most", "-10000"
    )
    assert code == 1 and one_line(out)["flat"] is False


@pytest.mark.slow
def test_a_stream_of_vectors_is_read_whole_and_in_order_in_bounded_memory(script, tmp_path):
    """Strategy prior over 20,000 rows by the command line: benchmarks/speed/stream_prior.py in short.

    Between the two stretches that are compared lie 12,000 rows: kept, their vectors alone would take 17.6 MiB.
    """
    result, most = tmp_path / "out.json", ("--batch", 512, "--most", 8, "--give-back")
    code, out = script("speed.stream_prior", "--count", 20_000, "--folder", tmp_path / "big", "--out", result, *most)
    found = json.loads(result.read_text())
    assert code == 0 and len(out.splitlines()) == 2
    for run in found["runs"]:
        assert run["rows_found"] == 20_000 and run["rows_per_second"] > 0  # rows_of has compared every id
    assert {(run["read"], run["written"]) for run in found["runs"]} == {("npy", "parquet"), ("parquet", "jsonl")}
    assert not list((tmp_path / "big").iterdir()) and (tmp_path / "out.svg").stat().st_size > 1000


def test_embed(script, home):
    _, out = script(
        "speed.embed", "--encoder", "hashing:16", "--texts", home / "texts.txt", "--count", 50,
        "--max-length", LIMIT, *QUICK,
    )  # fmt: skip
    found = one_line(out)
    assert found["texts"] == 50 and found["tokens"] > 150 and found["texts_per_second"] > 0
    assert found["share"] == 0  # nothing is multiplied there


def test_train(script, home):
    overrides = {
        "data.shards": f"'{home / 'train'}'", "data.encoder": "'hashing:16'", "data.limit": LIMIT,
        "data.batch_size": 16, "model.width": 16, "model.layers": 1, "model.heads": 2, "model.embedding_dim": 0,
        "validation.texts": 20, "validation.decoded": 0, "run.compile": "'no'", "run.precision": "'fp32'",
        "objective.shortlist_frequent": 50, "objective.shortlist_sampled": 20,
    }  # fmt: skip
    options = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    _, out = script("speed.train", ROOT / "recipes" / "tiny.toml", *options, "--steps", 3, "--warmup", 1, *QUICK)
    found = one_line(out)
    assert found["texts_per_second"] > 0 and found["precision"] == "fp32" and found["shortlist"] == 70
    assert found["share"] == pytest.approx(found["gflops"] / found["matmul_gflops"]["fp32"], rel=0.01)


def test_neighbours_come_from_what_was_trained_on(home, tmp_path):
    """Shards may hold sources that the recipe leaves out; a nearest neighbour must not be found there."""
    shutil.copytree(home / "model", tmp_path / "model")
    (tmp_path / "model" / "recipe.json").write_text('{"data": {"exclude_sources": ["mail"]}}')
    dataset = ShardDataset(home / "train")
    part = results.trained_on(dataset, str(tmp_path / "model"))
    assert [dataset.source_names[i] for i in set(np.asarray(dataset.sources)[part.rows])] == ["news"]
    assert len(part) == 150
    assert len(results.trained_on(dataset, str(home / "model"))) == 300


def test_results_writes_every_run_and_the_page(script, home, tmp_path):
    out = tmp_path / "docs" / "results"
    arguments = [
        "--model", home / "model", "--test", home / "test", "--left-out", home / "test", "--train", home / "train",
        "--out", out, "-n", 20, "--n-strategies", 10, "--n-left-out", 10, "--strategies", "sequential",
        "--passes", 2, "--neighbours", 100,
    ]  # fmt: skip
    run_script("reports.results", *arguments)
    names = {path.name for path in out.glob("*.json")}
    baselines = {f"english-test-baseline-{n}.json" for n in ("random-tokens", "unconditional", "nearest-neighbour")}
    assert baselines | {"english-test-baseline-closed-form.json", "english-test-adaptive.json"} <= names
    assert {"english-test-sequential.json", "english-test-adaptive-2-passes.json"} <= names
    assert {"news-adaptive.json", "mail-adaptive.json", "mail-baseline-nearest-neighbour.json"} <= names
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "## english-test" in page and "## Sources left out of training" in page and "baseline: `closed-form`" in page
    assert {path.name for path in out.glob("*.svg")} >= {"passes.svg", "length.svg"}
    result = json.loads((out / "english-test-adaptive.json").read_text())
    assert result["data"]["n"] == 20 and {"masked_token_accuracy@0.15", "cosine"} <= set(result["metrics"])
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    run_script("reports.results", *arguments)  # the same checkpoint: nothing is measured again
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.json")} == before


def test_the_page_of_other_tools_is_what_its_file_says(script):
    """docs/peers.md is rendered from docs/results/common-tasks.json; every figure of ours was measured."""
    assert script("speed.common_tasks", "--check")[0] == 0, "run: python -m benchmarks.speed.common_tasks --page"
    result = json.loads((ROOT / "docs" / "results" / "common-tasks.json").read_text(encoding="utf-8"))
    assert {"invert", "evaluate", "check", "lookup"} <= set(result["ours"])
    assert all(part["seconds"] > 0 and part["cpu_seconds"] > 0 for part in result["ours"].values())
    for peer in result["peers"]:
        assert peer["page"].startswith("https://") and peer["copy"], peer["name"]


@pytest.mark.slow
def test_common_tasks_measures_a_command(script, tmp_path):
    """One task on the shipped model, really run."""
    code, _ = script("speed.common_tasks", "--tasks", "check", "--out", tmp_path / "tasks.json")
    result = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert code == 0 and result["ours"]["check"]["cpu_seconds"] > 0
    assert result["kind"] == "common-tasks"
