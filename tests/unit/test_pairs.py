"""Pairs of a text and a draft: made part by part, kept whole, fed in a seeded order, held out by their text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.tiny import DIM, some_vectors, tiny_denoiser
from unembed.errors import CheckpointError, DataError, InputError
from unembed.training.pairs import pair_plan
from unembed.training.pairs.corruption import Corruption
from unembed.training.pairs.draft_pairs import PairMaker
from unembed.training.pairs.pair_feed import PairFeed, PairFolder
from unembed.training.pairs.pair_files import KINDS, Origin, Pairs, Texts
from unembed.training.pairs.pair_plan import make_pairs, plan
from unembed.training.recipes.recipe_parts import PairsPart

LIMIT = 8
ORIGIN = Origin("hashing:6", "abc", LIMIT, "weights")


class Words:
    """A tokenizer whose tokens are numbers."""

    size = 24

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]


def embed(texts: list[str]) -> np.ndarray:
    """Vectors that depend on the words and their places."""
    rows = np.zeros((len(texts), DIM), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for place, word in enumerate(text.split()):
            row[int(word) % DIM] += 1 / (1 + place)
    return rows


def some_texts(count: int, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, LIMIT + 1, size=count)
    ids = np.where(np.arange(LIMIT) < lengths[:, None], rng.integers(5, 24, size=(count, LIMIT)), 0)
    return Texts(ids, lengths, some_vectors(count, seed).numpy(), rng.random(count) < 0.5)


def some_pairs(count: int, seed: int = 0) -> Pairs:
    texts, drafts = some_texts(count, seed), some_texts(count, seed + 100)
    kinds = np.full(count, KINDS.index("filled"), dtype=np.uint8)
    return Pairs(
        texts.ids, texts.lengths, texts.vectors, texts.fitted, drafts.ids, drafts.lengths, drafts.vectors, kinds
    )


def write(folder: Path, *parts: Pairs) -> PairFolder:
    for number, pairs in enumerate(parts):
        pairs.save(folder / f"filled-{number:04d}.npz", ORIGIN)
    return PairFolder(folder, ORIGIN)


def drawn(feed: PairFeed, batches: int) -> list[list[list[int]]]:
    return [feed.next().ids.tolist() for _ in range(batches)]


def test_a_part_comes_back(tmp_path: Path) -> None:
    pairs = some_pairs(20)
    pairs.save(tmp_path / "a.npz", ORIGIN)
    found, origin = Pairs.load(tmp_path / "a.npz")
    assert origin == ORIGIN and len(found) == 20
    assert np.array_equal(found.ids, pairs.ids) and np.array_equal(found.drafts, pairs.drafts)
    assert np.allclose(found.draft_vectors, pairs.draft_vectors, atol=2e-3)  # float16
    assert Pairs.load(tmp_path / "a.npz")[0].digest() == found.digest() != some_pairs(20, 1).digest()


def test_damaged_and_foreign_parts_are_named(tmp_path: Path) -> None:
    folder = PairFolder(tmp_path / "none", ORIGIN)
    with pytest.raises(DataError, match="holds no pairs"):
        PairFeed(folder, 4, 0)
    write(tmp_path, some_pairs(20))
    path = tmp_path / "filled-0000.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is damaged"):
        PairFeed(PairFolder(tmp_path, ORIGIN), 4, 0)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="another encoder, tokenizer or limit"):
        PairFeed(PairFolder(tmp_path, Origin("minilm", "abc", LIMIT, "weights")), 4, 0)
    PairFeed(PairFolder(tmp_path, Origin("hashing:6", "abc", LIMIT, "other weights")), 4, 0)


def test_an_epoch_holds_every_pair_once_in_batches_of_one_length(tmp_path: Path) -> None:
    pairs = some_pairs(60)
    feed = PairFeed(write(tmp_path, pairs), 8, seed=0)
    orders = []
    for _ in range(2):
        seen = []
        for _ in range(feed.batches_per_epoch):
            batch = feed.next()
            assert batch.drafts.shape[1] == int(batch.lengths.max()) and 0 < len(batch.ids) <= 16
            seen += [tuple(row) for row in batch.ids.tolist()]
        assert sorted(seen) == sorted(tuple(row[:n]) for row, n in zip(pairs.ids.tolist(), pairs.lengths, strict=True))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_the_text_decides_what_is_held_out(tmp_path: Path) -> None:
    """Whichever draft it comes with, and however wide the part is."""
    first = some_pairs(80)
    again = some_pairs(80)
    again.drafts, again.draft_lengths = first.drafts[::-1].copy(), first.draft_lengths[::-1].copy()
    feed = PairFeed(write(tmp_path, first, again), 8, seed=0, held=0.25)
    learnt, held = ({tuple(row) for row in pairs.ids.tolist()} for pairs in (feed.learnt, feed.held))
    assert not learnt & held and 20 < len(feed.held) < 70 and len(feed.held) + len(feed.learnt) == 160
    with pytest.raises(DataError, match="no pair to learn from"):
        PairFeed(PairFolder(tmp_path, ORIGIN), 8, seed=0, held=1.0)


def test_parts_that_come_in_are_taken_in_when_the_epoch_ends(tmp_path: Path) -> None:
    """And a place is found again, with the parts of that time, whatever came since."""
    feed = PairFeed(write(tmp_path, some_pairs(40)), 8, seed=0)
    drawn(feed, 2)
    some_pairs(30, seed=1).save(tmp_path / "deep" / "another.npz", ORIGIN)
    place, left = feed.state(), feed.batches_per_epoch - 2
    rest = drawn(feed, left)
    assert len(feed.learnt) == 40
    beyond = drawn(feed, 3)
    assert len(feed.learnt) == 70 and feed.state()["epoch"] == 1
    later = feed.state()
    more = drawn(feed, 2)
    other = PairFeed(PairFolder(tmp_path, ORIGIN), 8, seed=0)  # it sees both parts, in another order
    other.restore(place)
    assert len(other.learnt) == 40 and drawn(other, left) == rest and drawn(other, 3) == beyond
    other.restore(later)
    assert drawn(other, 2) == more
    some_pairs(40, seed=2).save(tmp_path / "filled-0000.npz", ORIGIN)
    with pytest.raises(CheckpointError, match=r"filled-0000\.npz, which is gone or changed"):
        PairFeed(PairFolder(tmp_path, ORIGIN), 8, seed=0).restore(later)
    (tmp_path / "deep" / "another.npz").unlink()
    with pytest.raises(CheckpointError, match=r"another\.npz, which is gone or changed"):
        PairFeed(PairFolder(tmp_path, ORIGIN), 8, seed=0).restore(later)


def test_smaller_batches_after_memory_ran_out_are_part_of_the_place(tmp_path: Path) -> None:
    feed = PairFeed(write(tmp_path, some_pairs(60)), 16, seed=0)
    before = feed.batches_per_epoch
    assert feed.halve() and feed.batches_per_epoch > before
    other = PairFeed(PairFolder(tmp_path, ORIGIN), 16, seed=0)
    other.restore(feed.state())
    assert drawn(other, 4) == drawn(feed, 4)
    assert feed.halve() and not feed.halve()


# ---------------------------------------------------------------------- which parts there are, and their making


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_plan, "PART", 4)


def maker() -> PairMaker:
    base = tiny_denoiser(max_length=LIMIT, token_prior=True)
    base.token_prior.counts.fill_(50)
    return PairMaker(base, Words(), embed)  # type: ignore[arg-type]


def made(folder: Path, part: PairsPart, texts: Texts, seconds: float = 0.0) -> int:
    missing = [planned for planned in plan(part) if not (folder / planned.name).exists()]
    return make_pairs(folder, missing, maker(), texts.take, np.arange(len(texts)), ORIGIN, 0, None, seconds)


def test_more_pairs_can_be_asked_for_and_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    texts = some_texts(60)
    assert made(tmp_path, PairsPart(own=6, filled=4, mistakes=4), texts) == 4
    first = {path.name: Pairs.load(path)[0].digest() for path in tmp_path.glob("*.npz")}
    assert set(first) == {"own-0000.npz", "own-0001.npz", "filled-0000.npz", "mistakes-0000.npz"}
    assert made(tmp_path, PairsPart(own=6, filled=12, mistakes=8), texts) == 3
    assert made(tmp_path, PairsPart(own=6, filled=12, mistakes=8), texts) == 0
    again = {path.name: Pairs.load(path)[0] for path in tmp_path.glob("*.npz")}
    assert all(again[name].digest() == digest for name, digest in first.items())
    owners: dict[tuple[int, ...], set[str]] = {}
    for name, pairs in again.items():
        for row in pairs.ids.tolist():
            owners.setdefault(tuple(row), set()).add(name.split("-")[0])
        for draft, n, vector in zip(pairs.drafts, pairs.draft_lengths, pairs.draft_vectors, strict=True):
            assert np.allclose(embed([Words().decode(draft[:n].tolist())])[0], vector, atol=1e-3)
    assert all(len(kinds) == 1 for kinds in owners.values()), "no text comes in two kinds"
    (tmp_path / "own-0001.npz").unlink()  # a part that is made again is the same
    made(tmp_path, PairsPart(own=6, filled=4, mistakes=4), texts)
    assert Pairs.load(tmp_path / "own-0001.npz")[0].digest() == first["own-0001.npz"]


def test_where_texts_run_out_there_are_fewer_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    made(tmp_path, PairsPart(own=40, filled=40, mistakes=0), some_texts(30))
    found = [len(Pairs.load(path)[0]) for path in tmp_path.glob("own-*.npz")]
    assert sum(found) == 10  # every third text


def test_a_time_that_is_over_ends_the_making_after_some_of_each_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    assert made(tmp_path, PairsPart(own=12, filled=12, mistakes=12), some_texts(60), seconds=1e-6) == 1
    order = [planned.kind for planned in plan(PairsPart(own=8, filled=4, mistakes=16))]
    assert order == ["mistakes", "own", "mistakes", "mistakes", "own", "filled", "mistakes"]
    part = PairsPart(own=8, filled=0, mistakes=0, corrected=8)
    assert [planned.kind for planned in plan(part)] == ["own", "corrected"] * 2


def test_filled_texts_keep_their_length_and_most_differ() -> None:
    texts = some_texts(40)
    drafts, kinds = maker().filled(texts, seed=0)
    assert {KINDS[k] for k in kinds} == {"filled"} and maker().filled(texts, seed=0)[0] == drafts
    assert [len(draft) for draft in drafts] == texts.lengths.tolist()
    wrong = [
        sum(a != b for a, b in zip(draft, row[:n], strict=True))
        for draft, row, n in zip(drafts, texts.ids.tolist(), texts.lengths, strict=True)
    ]
    assert np.mean(np.array(wrong) > 0) > 0.6 and np.mean(wrong) < 5


def test_only_texts_of_the_fit_are_taken_out_of_the_class_means() -> None:
    """A text that the prior was not fitted on is drafted from the means as they are."""
    one = maker()
    generator = torch.Generator().manual_seed(0)
    prior = one.denoiser.token_prior
    assert prior is not None
    prior.codes.copy_(torch.randint(-100, 100, prior.codes.shape, generator=generator))
    prior.scale.fill_(0.01)
    texts = some_texts(6)
    texts.fitted[:] = [True, False] * 3
    plain = one.denoiser.condition(torch.from_numpy(texts.vectors)).evidence
    found = one._condition(texts).evidence
    assert plain is not None and found is not None
    for row in range(6):
        assert torch.allclose(plain[row], found[row]) == (not texts.fitted[row])
        changed = (plain[row] - found[row]).abs() > 1e-6
        assert set(changed.nonzero().flatten().tolist()) <= set(texts.ids[row].tolist())


def test_without_a_token_prior_no_mistakes_are_made() -> None:
    with pytest.raises(InputError, match=r"pairs\.mistakes = 0"):
        Corruption.of(tiny_denoiser(max_length=LIMIT), 0)
