"""Scores over the tokens that were not known beforehand: knowing words must not raise a score by itself.

Contents: `unknown_statistics`, `known_places`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from unembed.errors import InputError
from unembed.metrics.bootstrap import Statistic


def unknown_statistics(
    preds: Sequence[Sequence[int]], refs: Sequence[Sequence[int]], known: Sequence[Collection[int]]
) -> dict[str, Statistic]:
    """Score recovered texts over the tokens of the references that were not known.

    Args:
        preds: n recovered texts, token ids.
        refs: n references, token ids.
        known: for each text the positions in its reference whose tokens were known, by place or as words.

    Returns:
        `token_accuracy_unknown`: share of the other positions that hold the reference's token (micro).
        `token_f1_unknown`: mean multiset F1 after the known tokens have been taken out of both sides; a text that was
        known as a whole counts as 1 if nothing is left of its prediction.

    Raises:
        InputError: lengths that differ, or a position outside its reference.
    """
    if not len(preds) == len(refs) == len(known) or not len(refs):
        raise InputError(
            f"{len(preds)} predictions, {len(refs)} references and {len(known)} sets of known positions cannot be "
            "scored.",
            "Pass one of each for each text, and at least one text.",
        )
    rows, f1 = [], []
    for i, (pred, ref, places) in enumerate(zip(preds, refs, known, strict=True)):
        places = set(places)
        if any(not 0 <= place < len(ref) for place in places):
            raise InputError(
                f"A known position of text {i} is outside its {len(ref)} tokens.", "Count positions from 0."
            )
        asked = [k for k in range(len(ref)) if k not in places]
        rows.append((sum(k < len(pred) and int(pred[k]) == int(ref[k]) for k in asked), len(asked)))
        taken = Counter(int(ref[k]) for k in places)
        found, sought = Counter(map(int, pred)) - taken, Counter(int(ref[k]) for k in asked)
        both = found.total() + sought.total()
        f1.append(2 * (found & sought).total() / both if both else 1.0)
    return {
        "token_accuracy_unknown": Statistic(np.array(rows, dtype=np.float64)),
        "token_f1_unknown": Statistic.mean(f1),
    }


def known_places(
    pred: Sequence[int], ref: Sequence[int], given: Sequence[bool], forced: Sequence[bool] = ()
) -> set[int]:
    """Positions of a reference that were known, as far as a result says.

    Args:
        pred: the recovered ids.
        ref: the reference's ids.
        given: for each recovered token whether it was known at its position.
        forced: for each recovered token whether it belongs to a required word; it stands for the first position of the
            reference with that token that is not known yet.
    """
    shared = enumerate(zip(pred, ref, given, strict=False))
    places = {i for i, (token, other, known) in shared if known and token == other}
    for token, required in zip(pred, forced, strict=False):
        if required:
            same = (i for i, other in enumerate(ref) if other == token and i not in places)
            places |= {place for place in [next(same, None)] if place is not None}
    return places
