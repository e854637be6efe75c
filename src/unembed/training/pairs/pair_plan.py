"""Which parts a folder of pairs should hold, and the making of those that are absent.

Contents: `Planned`, `plan`, `make_pairs`.

A part's texts and random numbers depend on the seed, its kind and its number alone: more pairs can be asked for later,
and what is there stays. A part appears whole, so a run that is killed loses the one it was making.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unembed.files import make_folder
from unembed.network.corrector import Corrector
from unembed.training.pairs.draft_pairs import Drafts, PairMaker
from unembed.training.pairs.pair_files import Origin, Pairs, Texts
from unembed.training.recipes.recipe_parts import PairsPart

_log = logging.getLogger(__name__)
PART = 512
"""Pairs of a part."""

_OF_TEXTS = ("own", "filled", "mistakes")
_KINDS = (*_OF_TEXTS, "corrected")
"""Methods of `PairMaker`. Each kind of `_OF_TEXTS` has every third text, so that no text comes in two of them."""


@dataclass(frozen=True)
class Planned:
    """A part that should be there.

    Attributes:
        kind: a method of `PairMaker`.
        number: of the part, from 0, within its kind.
        size: pairs, where there are that many texts.
    """

    kind: str
    number: int
    size: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.kind}-{self.number:04d}.npz"

    @property
    def seed(self) -> int:
        """Of its random numbers, beside the run's."""
        return 100_000 * (1 + _KINDS.index(self.kind)) + self.number


def plan(part: PairsPart) -> list[Planned]:
    """All parts that a recipe asks for, the kinds in turn, so that a folder that is cut short has some of each."""
    found: list[tuple[float, int, Planned]] = []
    for place, kind in enumerate(_KINDS):
        count = getattr(part, kind)
        for number, start in enumerate(range(0, count, PART)):
            planned = Planned(kind, number, min(PART, count - start))
            found.append(((start + planned.size) / count, place, planned))
    return [planned for _, _, planned in sorted(found, key=lambda item: item[:2])]


def make_pairs(
    folder: str | Path,
    parts: list[Planned],
    maker: PairMaker,
    read: Callable[[np.ndarray], Texts],
    rows: np.ndarray,
    origin: Origin,
    seed: int,
    corrector: Corrector | None = None,
    seconds: float = 0.0,
) -> int:
    """Make parts, with a bar on stderr where that is a terminal.

    Args:
        folder: where they go.
        parts: those that are absent.
        maker: of the drafts.
        read: gathers the texts of some rows.
        rows: (N,) texts that drafts may be made of, the most welcome first.
        origin: kept in each part.
        seed: of everything random.
        corrector: of the parts of kind "corrected", which are made from the own drafts of the same number.
        seconds: no part is begun that would not be done by then, but for the first; 0: all are made.

    Returns:
        How many were made.

    Raises:
        DataError: the folder cannot be written.
    """
    from tqdm import tqdm

    out = make_folder(folder, private=True)
    total = sum(planned.size for planned in parts)
    shown = sys.stderr.isatty() and _log.isEnabledFor(logging.INFO)
    _log.info("making %d pairs in %s", total, out)
    began = time.monotonic()
    slowest, made = 0.0, 0
    with tqdm(total=total, unit="pair", desc="drafts", disable=not shown) as bar:
        for planned in parts:
            before = time.monotonic()
            if seconds and made and before - began + slowest > seconds:
                _log.info("half of the time box is over: continuing with the pairs that are there")
                break
            pairs = _make(out, planned, maker, read, rows, seed, corrector)
            if pairs is not None and len(pairs):
                pairs.save(out / planned.name, origin)
                made += 1
                if not shown:
                    took = time.monotonic() - before
                    _log.info("%s: %d pairs, %.0f per second", planned.name, len(pairs), len(pairs) / took)
            bar.update(planned.size)
            slowest = max(slowest, time.monotonic() - before)
    return made


def _make(
    out: Path,
    planned: Planned,
    maker: PairMaker,
    read: Callable[[np.ndarray], Texts],
    rows: np.ndarray,
    seed: int,
    corrector: Corrector | None,
) -> Pairs | None:
    """One part; None where there are no texts for it."""
    texts: Texts
    drafts: Drafts
    own_seed = seed + planned.seed
    if planned.kind == "corrected":
        path = out / Planned("own", planned.number, planned.size).name
        if corrector is None or not path.is_file():
            return None
        pairs = Pairs.load(path)[0]
        pairs = pairs.take(np.arange(min(planned.size, len(pairs))))
        texts, drafts = pairs, maker.corrected(corrector, pairs, own_seed)
    else:
        mine = rows[_OF_TEXTS.index(planned.kind) :: len(_OF_TEXTS)]
        chosen = mine[planned.number * PART :][: planned.size]
        if not len(chosen):
            return None
        texts = read(chosen)
        drafts = getattr(maker, planned.kind)(texts, own_seed)
    return maker.embed(texts, *drafts)
