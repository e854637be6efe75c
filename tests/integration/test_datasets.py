"""Hugging Face datasets by name: local folders read by the library itself, and a hub that cannot be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed import Recipe, load_encoder, train
from unembed.cli import main
from unembed.data.hub_datasets import DatasetSpec, DatasetStream
from unembed.data.shard_writer import write_shards
from unembed.data.sources import read_texts
from unembed.data.tokenizers import load_tokenizer
from unembed.encoders.hashing import HashingEncoder
from unembed.errors import DataError

WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()


def make_texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{k} " + " ".join(rng.choice(WORDS, rng.integers(2, 8))) for k in range(n)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same 900 texts in three files of JSON lines, and in three of parquet; empty ones between them."""
    base = tmp_path_factory.mktemp("datasets")
    texts = make_texts(900)
    for kind in ("jsonl", "parquet"):
        (base / kind).mkdir()
    for k in range(3):
        part = texts[300 * k : 300 * (k + 1)]
        part = [*part[:100], "", *part[100:]]
        lines = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in part)
        (base / "jsonl" / f"part-{k}.jsonl").write_text(lines)
        table = pa.table({"text": part, "url": ["x"] * len(part)})
        pq.write_table(table, base / "parquet" / f"part-{k}.parquet", row_group_size=70)
    return {kind: base / kind for kind in ("jsonl", "parquet")}


def spec(folder: Path, **options: object) -> str:
    return f"hf:{folder}?" + "&".join(f"{key}={value}" for key, value in options.items())


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_stream_yields_every_text_once_in_an_order_of_its_seed(folders: dict[str, Path], kind: str) -> None:
    texts = make_texts(900)
    plain = list(DatasetStream([spec(folders[kind], shuffle=0)]))
    assert plain == [(text, kind) for text in texts]
    drawn = {seed: [t for t, _ in DatasetStream([spec(folders[kind], shuffle=200, seed=seed)])] for seed in (0, 1)}
    assert sorted(drawn[0]) == sorted(drawn[1]) == sorted(texts)
    assert drawn[0] != drawn[1] and drawn[0] != texts
    assert drawn[0] == [t for t, _ in DatasetStream([spec(folders[kind], shuffle=200)])]
    assert set(drawn[0][:199]) < set(texts[:200]), "no more than a block is in memory"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("shuffle", [0, 130])
def test_a_stream_goes_on_at_any_text(folders: dict[str, Path], kind: str, shuffle: int) -> None:
    """The rest after a state, as JSON, is the rest of the unbroken stream; also over two datasets."""
    names = [spec(folders[kind], shuffle=shuffle, take=400, source="one"), spec(folders[kind], shuffle=shuffle)]
    whole = list(DatasetStream(names))
    for cut in (0, 1, 129, 130, 131, 301, 399, 700, len(whole) - 1, len(whole)):
        stream = DatasetStream(names)
        reader = iter(stream)
        assert [next(reader) for _ in range(cut)] == whole[:cut]
        state = json.loads(json.dumps(stream.state()))
        later = DatasetStream(names)
        later.restore(state)
        assert list(later) == whole[cut:], cut
    with pytest.raises(DataError, match="before"):
        DatasetStream(names[:1]).restore(state)


def test_options_of_a_dataset(folders: dict[str, Path]) -> None:
    folder = folders["jsonl"]
    assert len(list(DatasetStream([spec(folder, take=50)]))) == 50
    assert len(list(DatasetStream([spec(folder)], limit=7))) == 7
    assert {source for _, source in DatasetStream([spec(folder, source="web", take=5)])} == {"web"}
    assert not list(DatasetStream([spec(folder, source="web")], exclude_sources=["web"]))
    assert {text for text, _ in DatasetStream([spec(folder, column="url", take=5)])} == {"x"}
    assert len(list(DatasetStream([spec(folder, files="part-1.jsonl")]))) == 300
    both = list(read_texts([spec(folder, shuffle=0), str(folder / "part-0.jsonl")]))
    assert len(both) == 900 + 300 and {source for _, source in both} == {"jsonl", "part-0"}
    assert DatasetSpec.parse("hf:allenai/c4?config=de").label == "c4-de"


class Failing(HashingEncoder):
    """An encoder that breaks after so many calls."""

    left = 3

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode(texts)


@pytest.mark.parametrize("place", ["kept", "lost"])
def test_shards_of_a_stream_go_on_where_they_stopped(folders: dict[str, Path], tmp_path: Path, place: str) -> None:
    """The result is that of an unbroken run; where the place was kept, what was read is not read again."""
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(folders["jsonl"], folder)
    name, encoder = spec(folder, shuffle=150), load_encoder("hashing:16")
    tokenizer = load_tokenizer("encoder", encoder)
    whole = write_shards(tmp_path / "whole", DatasetStream([name]), encoder, tokenizer, 8, shard_size=120)
    identity = encoder.identity
    broken = Failing(16)
    broken.identity = identity
    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "parts", DatasetStream([name]), broken, tokenizer, 8, shard_size=120)
    if place == "lost":
        (tmp_path / "parts" / "stream.json").unlink()
    else:  # the first file is read no more: other texts in it are not noticed
        lines = (folder / "part-0.jsonl").read_text().splitlines()
        (folder / "part-0.jsonl").write_text("\n".join([json.dumps({"text": "a", "url": "x"})] * len(lines)) + "\n")
    parts = write_shards(tmp_path / "parts", DatasetStream([name]), encoder, tokenizer, 8, shard_size=120)
    assert len(whole.shards) == 8 and whole.complete
    assert [s.sha256 for s in parts.shards[3:]] == [s.sha256 for s in whole.shards[3:]]
    assert parts.n == whole.n == 900 - whole.dropped


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_texts(tmp_path: Path) -> None:
    """3,000 and 24,000 texts into shards of 1,500: the difference of the peaks is less than their vectors."""
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"text": text}) for text in make_texts(24_000)]
    (tmp_path / "data" / "a.jsonl").write_text("\n".join(lines))
    code = (
        "import resource, sys; from unembed.cli import main; assert main(sys.argv[1:]) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for take in (3_000, 24_000):
        name = spec(tmp_path / "data", take=take, shuffle=1000)
        arguments = ["embed", name, "--shards", str(tmp_path / str(take)), "--encoder", "hashing:256"]
        arguments += ["--shard-size", "1500", "--limit", "8", "--quiet"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024))
    growth = peaks[1] - peaks[0]
    assert growth < 21_000 * 256 * 2, f"{growth / 2**20:.1f} MiB more"


def test_a_recipe_may_name_a_dataset(folders: dict[str, Path], tmp_path: Path) -> None:
    """Online embedding reads it, and validation its shards."""
    name = spec(folders["parquet"])
    embed = ["embed", spec(folders["jsonl"], take=60), "--shards", str(tmp_path / "held"), "--encoder", "hashing:16"]
    assert main([*embed, "--limit", "8", "--quiet"]) == 0
    recipe = Recipe.from_dict(
        {
            "model": {"width": 16, "layers": 1, "heads": 2, "prefix_tokens": 2},
            "data": {"texts": [name], "encoder": "hashing:16", "max_length": 8, "batch_size": 32},
            "objective": {"shortlist_frequent": 20, "shortlist_sampled": 10},
            "run": {"steps": 4, "precision": "fp32", "compile": "no", "threads": 1},
            "validation": {"shards": str(tmp_path / "held"), "texts": 16, "decoded": 0},
        }
    )
    result = train(recipe, tmp_path / "run", device="cpu")
    assert result.finished and result.texts > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:", "names no dataset"),
        ("hf:{folder}?colunm=x", "unknown key 'colunm'"),
        ("hf:{folder}?take=many", "whole number"),
        ("hf:{folder}?column=body", "no column 'body'"),
        ("hf:{folder}?split=test", "test"),
        ("hf:{folder}?config=xx", "xx"),
        ("hf:{folder}/absent", "absent"),
        ("hf:a b", "no folder"),
    ],
)
def test_mistakes_are_named(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    text = name.format(folder=folders["jsonl"])
    assert main(["embed", text, "--shards", str(tmp_path / "s"), "--encoder", "hashing:16", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "hf:nobody/nothing", "--encoder", "hashing:16"],
        ["embed", "TEXTS", "--encoder", "nobody/nothing"],
        ["embed", "TEXTS", "--encoder", "hashing:16", "--tokenizer", "nobody/nothing"],
    ],
    ids=["dataset", "encoder", "tokenizer"],
)
def test_without_a_hub_it_takes_seconds_and_two_sentences(
    folders: dict[str, Path], tmp_path: Path, arguments: list[str], env: dict[str, str]
) -> None:
    arguments = [str(folders["jsonl"] / "part-0.jsonl") if a == "TEXTS" else a for a in arguments]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "unembed", *arguments, "--shards", str(tmp_path / "s")],
        env={**os.environ, "HF_HUB_OFFLINE": "", "HF_HOME": str(tmp_path / "home"), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "hub cannot be reached" in done.stderr and "nobody/nothing" in done.stderr
    assert "Retry" not in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - began < 30
