"""Shards: what is read is what was written, resuming, damage, foreign settings, memory."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unembed.data.feed import Feed
from unembed.data.shards import Manifest, ShardDataset, ShardWriter, write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.errors import DataError

ENCODER = load_encoder("hashing:16")
TOKENIZER = Tokenizer.from_json(ENCODER.tokenizer_json() or "")
WORDS = "the cat sat on a mat and the dog had to wait for its food all day long in the house".split()


def corpus(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 1 to 20 words; every seventh cannot be kept."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(n)]
    return [(f"{t} [MASK]" if k % 7 == 6 else t, f"s{k % 3}") for k, t in enumerate(texts)]


def expected(rows: list[tuple[str, str]], max_length: int) -> list[tuple[list[int], str]]:
    """(ids, source) of the texts that are kept."""
    cut = TOKENIZER.truncate([text for text, _ in rows], max_length)
    return [(c.ids, source) for c, (_, source) in zip(cut, rows, strict=True) if c is not None]


@pytest.mark.parametrize(
    ("shard_size", "max_length", "dtype"), [(10, 8, "float16"), (64, 300, "float32"), (1000, 8, "float16")]
)
def test_what_is_read_is_what_was_written(tmp_path: Path, shard_size: int, max_length: int, dtype: str) -> None:
    rows, seen = corpus(100), []
    write_shards(tmp_path, iter(rows), ENCODER, TOKENIZER, max_length, shard_size, dtype, progress=seen.append)
    data, want = ShardDataset(tmp_path), expected(rows, max_length)
    assert len(data) == len(want) == seen[-1]
    assert len(data.manifest.shards) == -(-len(want) // shard_size)
    index = np.random.default_rng(1).permutation(np.r_[: len(want), :5])
    ids, lengths, vectors = data.gather(index)
    assert (ids.dtype, lengths.dtype, vectors.dtype) == (np.int64, np.int64, np.float32)
    assert ids.shape == (len(index), lengths.max())
    for row, k in enumerate(index):
        assert ids[row].tolist() == want[k][0] + [TOKENIZER.pad_id] * (ids.shape[1] - lengths[row])
        assert data.source_names[data.sources[k]] == want[k][1]
    texts = [TOKENIZER.decode(want[k][0]) for k in index]
    np.testing.assert_allclose(vectors, ENCODER.encode(texts), atol=1e-3 if dtype == "float16" else 1e-6)
    assert data.lengths.tolist() == [len(i) for i, _ in want]
    assert data.lengths.dtype == (np.uint8 if max_length < 256 else np.uint16)
    assert (data.dimension, data.max_length, data.identity) == (16, max_length, ENCODER.identity)
    assert data.manifest.complete
    assert data.manifest.dropped == 100 - len(want)
    assert dict(zip(data.source_names, data.manifest.counts, strict=True)) == {
        name: sum(source == name for _, source in want) for name in ("s0", "s1", "s2")
    }
    data.verify()


def test_gather_of_nothing_and_out_of_range(tmp_path: Path) -> None:
    write_shards(tmp_path, corpus(20), ENCODER, TOKENIZER, 8, 10)
    data = ShardDataset(tmp_path)
    ids, lengths, vectors = data.gather(np.array([], dtype=np.int64))
    assert (ids.shape, lengths.shape, vectors.shape) == ((0, 0), (0,), (0, 16))
    for bad in (-1, len(data)):
        with pytest.raises(DataError, match="outside"):
            data.gather(np.array([0, bad]))
    assert data.ids(3) == expected(corpus(20), 8)[3][0]


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("stop", [0, 9, 25, 95])
def test_an_interrupted_run_resumes_to_the_same_files(tmp_path: Path, stop: int) -> None:
    rows = corpus(100)

    def until(n: int) -> Iterator[tuple[str, str]]:
        yield from rows[:n]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "a", until(stop), ENCODER, TOKENIZER, 8, 10)
    if stop > 20:
        done = Manifest.load(tmp_path / "a")
        assert not done.complete
        assert 0 < done.n == len(ShardDataset(tmp_path / "a")) < 86
    write_shards(tmp_path / "a", rows, ENCODER, TOKENIZER, 8, 10)
    write_shards(tmp_path / "b", rows, ENCODER, TOKENIZER, 8, 10)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    write_shards(tmp_path / "a", rows, ENCODER, TOKENIZER, 8, 10)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_resuming_embeds_no_text_twice(tmp_path: Path) -> None:
    class Counting:
        identity, dimension, count = ENCODER.identity, 16, 0

        def encode(self, texts: list[str]) -> np.ndarray:
            self.count += len(texts)
            return ENCODER.encode(texts)

    rows = [(text, source) for text, source in corpus(100) if "[MASK]" not in text]

    def cut() -> Iterator[tuple[str, str]]:
        yield from rows[:45]
        raise OSError

    first, second = Counting(), Counting()
    with pytest.raises(OSError):
        write_shards(tmp_path, cut(), first, TOKENIZER, 8, 10)
    write_shards(tmp_path, rows, second, TOKENIZER, 8, 10)
    assert first.count == 40
    assert second.count == len(rows) - 40


def test_other_texts_or_settings_do_not_resume(tmp_path: Path) -> None:
    rows = corpus(30)
    write_shards(tmp_path, rows, ENCODER, TOKENIZER, 8, 10)
    before = files(tmp_path)
    other = [(text, source + "x") for text, source in rows]
    with pytest.raises(DataError, match="shard 0"):
        write_shards(tmp_path, other, ENCODER, TOKENIZER, 8, 10)
    with pytest.raises(DataError, match="shard 2"):
        write_shards(tmp_path, rows[:24], ENCODER, TOKENIZER, 8, 10)
    for options, message in (((9, 10), "limit 8"), ((8, 11), "shard_size 10"), ((8, 10, "float32"), "dtype float16")):
        with pytest.raises(DataError, match=message):
            write_shards(tmp_path, rows, ENCODER, TOKENIZER, *options)
    with pytest.raises(DataError, match="hashing:16"):
        write_shards(tmp_path, rows, load_encoder("hashing:32"), TOKENIZER, 8, 10)
    assert files(tmp_path) == before


def test_damage_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, corpus(40), ENCODER, TOKENIZER, 8, 10)
    for part in ("tokens", "lengths", "vectors", "sources"):
        path = tmp_path / f"shard-00001.{part}.npy"
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DataError, match="Shard 1"):
            ShardDataset(tmp_path).verify()
        path.write_bytes(good[:-8])
        with pytest.raises(DataError, match="Shard 1"):
            ShardDataset(tmp_path)
        path.unlink()
        with pytest.raises(DataError, match="Shard 1"):
            ShardDataset(tmp_path)
        path.write_bytes(good)
    ShardDataset(tmp_path).verify()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_shards(tmp_path, corpus(10), ENCODER, TOKENIZER, 8, 10)
    np.save(tmp_path / "shard-00000.vectors.npy", np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Shard 0"):
        ShardDataset(tmp_path)


def test_a_bad_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no shards"):
        ShardDataset(tmp_path)
    write_shards(tmp_path, corpus(10), ENCODER, TOKENIZER, 8, 10)
    path = tmp_path / "manifest.json"
    good = json.loads(path.read_text())
    for bad, message in (
        ({**good, "format": 99}, "format 99"),
        ({k: v for k, v in good.items() if k != "limit"}, "damaged"),
        ({**good, "identity": {}}, "damaged"),
        ({**good, "shards": [{"n": 1}]}, "damaged"),
        ({**good, "shards": []}, "no whole shard"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(DataError, match=message):
            ShardDataset(tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match="JSON"):
        ShardDataset(tmp_path)


def test_bad_parts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    tokens, lengths, vectors = np.full(5, 9), np.array([2, 3]), np.ones((2, 16), np.float32)
    cases = [
        (tokens[:4], lengths, vectors, ["a", "b"]),
        (tokens, np.array([0, 5]), vectors, ["a", "b"]),
        (tokens, lengths, vectors[:1], ["a", "b"]),
        (tokens, lengths, vectors[:, :8], ["a", "b"]),
        (tokens, lengths, vectors, ["a"]),
        (tokens * 1000, lengths, vectors, ["a", "b"]),
        (tokens, lengths, vectors * np.nan, ["a", "b"]),
        (tokens, lengths, vectors * 1e6, ["a", "b"]),
        (tokens[:0], lengths[:0], vectors[:0], []),
    ]
    for case in cases:
        with pytest.raises(DataError, match="Shard 0"):
            ShardWriter(tmp_path, ENCODER.identity, TOKENIZER, 8).add(*case)
    assert list(tmp_path.iterdir()) == []
    for options in ({"max_length": 0}, {"shard_size": 0}, {"dtype": "int8"}):
        with pytest.raises(DataError):
            ShardWriter(tmp_path, ENCODER.identity, TOKENIZER, **options)
    with pytest.raises(DataError, match="No text is left"):
        write_shards(tmp_path, [("[MASK]", "s")], ENCODER, TOKENIZER)


def test_a_dataset_travels_as_its_path(tmp_path: Path) -> None:
    write_shards(tmp_path, corpus(50), ENCODER, TOKENIZER, 8, 10)
    data = ShardDataset(tmp_path)
    sent = pickle.dumps(data)
    assert len(sent) < 400
    np.testing.assert_array_equal(pickle.loads(sent).gather(np.arange(9))[0], data.gather(np.arange(9))[0])


def test_a_feed_gives_the_rows_of_the_shards(tmp_path: Path) -> None:
    """Batches of one length, every text once an epoch, and a state to resume from."""
    write_shards(tmp_path, corpus(100), ENCODER, TOKENIZER, 8, 30)
    data = ShardDataset(tmp_path)
    feed = Feed(data, 8, seed=1)
    rows = sum(len(group) for _ in range(feed.batches_per_epoch) for group in feed.next())
    assert rows == len(data)
    state = feed.state()
    again = Feed(data, 8, seed=1)
    again.restore(state)
    for first, second in zip(feed.next(), again.next(), strict=True):
        np.testing.assert_array_equal(first.ids, second.ids)
        np.testing.assert_array_equal(first.vectors, second.vectors)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        texts = ((" ".join(WORDS[k % 7 : k % 7 + 5]), "s") for k in range(n))
        tracemalloc.start()
        write_shards(tmp_path / str(n), texts, ENCODER, TOKENIZER, 8, 1000)
        data = ShardDataset(tmp_path / str(n))
        data.gather(np.arange(64))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(500)
    assert peak(8000) < peak(2000) * 1.3 + (1 << 18)
