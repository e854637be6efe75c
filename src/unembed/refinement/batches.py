"""Refinement of any number of vectors, batch by batch. Contents: `refine_batches`, `resolve_budget`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unembed.decoding.batches import batch_starts
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.rules import Rules
from unembed.decoding.prior import PriorReader
from unembed.errors import InputError
from unembed.refinement.budget import Budget
from unembed.refinement.refiner import Refinement, Refiner, Report


def resolve_budget(queries: int, budget: Budget | None, trace: bool) -> Budget | None:
    """What may be spent, None where no query is allowed.

    Raises:
        InputError: limits that make no sense, queries named twice, or a trace of texts that are refined.
    """
    if budget is not None and queries:
        raise InputError("Both queries and a budget are given.", "Name the queries in the budget alone.")
    found = Budget(queries) if budget is None else budget
    if not found.queries:
        return None
    if trace:
        raise InputError(
            "A trace shows how a draft is decoded, and refinement starts from finished drafts.",
            "Leave out the trace or the queries.",
        )
    return found


def refine_batches(
    refiner: Refiner,
    rows: np.ndarray,
    budget: Budget,
    config: DecodeConfig,
    batch_size: int | None,
    *,
    rules: Rules | None = None,
    priors: PriorReader | None = None,
    progress: bool = False,
    report: Report | None = None,
    salvage: Callable[[list[Refinement]], None] | None = None,
) -> Iterator[Refinement]:
    """Refine the rows of an array.

    Args:
        refiner: does it.
        rows: (n, d) float32.
        budget: of each text; its seconds are those of each batch.
        config: of the first decode.
        batch_size: vectors refined together; the decode's own where None.
        rules, priors, report: as for `Refiner`; the rules are of all n rows.
        progress: show a bar on stderr.
        salvage: called at an interruption with the finished rows and the best so far of the batch under way.

    Yields:
        One refinement per row, in order.
    """
    import torch

    done: list[Refinement] = []
    kept = None if salvage is None else (lambda part: salvage([*done, *part]))
    for part in batch_starts(len(rows), min(config.batch_size, 64) if batch_size is None else batch_size, progress):
        found: list[Any] = refiner(
            torch.from_numpy(rows[part]),
            budget,
            config,
            rules=None if rules is None else rules.part(part),
            priors=priors,
            report=report,
            salvage=kept,
        )
        done += found
        yield from found
