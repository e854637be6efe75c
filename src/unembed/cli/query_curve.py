"""`unembed evaluate --queries`: the curve over budgets, measured, printed, written and drawn.

Contents: `read_budgets`, `show_curve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.evaluation.sets import EvaluationSet
    from unembed.inverter import Inverter


def read_budgets(text: str) -> tuple[int, ...]:
    """Read "0,4,16".

    Raises:
        InputError: anything but whole numbers of at least 0 with commas between.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--queries is {text!r}, which is not a list of numbers.", "Write them as 0,4,16,64.")
    return tuple(sorted({int(part) for part in parts}))


def show_curve(
    inverter: Inverter,
    data: EvaluationSet,
    budgets: tuple[int, ...],
    method: str | None,
    options: dict[str, Any],
    seed: int,
    batch_size: int | None,
    figure: str | None,
    out: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the curve of one method on a set, and show it as asked.

    Args:
        inverter: the model.
        data: the texts.
        budgets: queries per text, ascending.
        method: how drafts are refined; the default where None.
        options: of the first decode.
        seed: of decoding and intervals.
        batch_size: texts refined together.
        figure: .svg or .png for the curve.
        out: folder for the JSON file.
        as_json: print the result instead of a table.
        quiet: no notes and no progress.
    """
    from unembed.cli.console import note, progress, show_json
    from unembed.evaluation.budgets import budget_steps
    from unembed.evaluation.harness import write_result
    from unembed.evaluation.tables import budget_figure, curve_table
    from unembed.refinement.refine import DEFAULT

    steps = budget_steps(inverter, data, budgets, method or DEFAULT, seed=seed, batch_size=batch_size, options=options)
    with progress("Refining", len(data), quiet) as bar:
        seen = 0
        while True:
            try:
                at = next(steps)
            except StopIteration as end:
                result = end.value
                break
            if at is not None:
                label = f"cosine {at.cosine:.3f}, {at.matched} matched"
                bar.advance(at.done - seen, f"Query {at.queries} of {budgets[-1]}: {label}")
                seen = at.done
    if out is not None:
        note(f"wrote {write_result(out, result)}", quiet)
    if figure is not None:
        budget_figure([result], figure)
        note(f"wrote {figure}", quiet)
    if as_json:
        show_json(result)
        return
    click.echo(curve_table(result), nl=False)
    floor = result["budgets"][0]["floors"]["cosine"]["value"]
    note(f"The cosine of random pairs of these texts is {floor:.3f}.", quiet)
