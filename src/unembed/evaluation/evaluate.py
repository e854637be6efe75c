"""Scores a checkpoint on texts of one's own. Contents: `evaluate`; what is measured is in `harness`, `measure`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.data.tokenization import cut_texts
from unembed.decoding.request import vector_rows
from unembed.encoders.registry import load_matching
from unembed.errors import InputError
from unembed.evaluation.harness import Setting, evaluate_set
from unembed.evaluation.sets import EvaluationSet
from unembed.inverter import Inverter

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder


def evaluate(
    model: Inverter | str | Path,
    texts: Sequence[str],
    vectors: Any = None,
    *,
    encoder: str | Encoder | None = None,
    rates: Sequence[float] = (),
    seed: int = 0,
    batch_size: int | None = None,
    name: str = "texts",
    progress: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Invert the vectors of known texts and score what comes back.

    Args:
        model: an `Inverter`, or what `Inverter.from_pretrained` takes.
        texts: n texts; each counts as far as the model reads, its first `max_length` tokens.
        vectors: (n, d) as `Inverter.invert` takes them, of the texts cut so; None embeds them with the checkpoint's own
            encoder.
        encoder: where that encoder is, as for `Inverter.use_encoder`. It also embeds the recovered texts for their
            cosine to the target, for scoring only; with vectors and no encoder there is no cosine.
        rates: mask rates of masked_token_accuracy, which is given the length and the unmasked tokens.
        seed: of decoding, masks and intervals.
        batch_size: vectors per batch; the inverter's own choice where None.
        name: what the set is called in the result.
        progress: show a bar on stderr.
        options: of the decode, as `Inverter.invert` takes them (strategy, passes, beam, ...).

    Returns:
        JSON values: "metrics" (name -> value, low, high: 95% bootstrap intervals), "bins", "calibration", "examples",
        "passes" and "queries" (mean per text), "seconds", and what fixes them: strategy, options, checkpoint, seed.

    Raises:
        InputError: a text that is empty or cannot be tokenised, vectors that do not fit, an unknown option.
        CheckpointError, EncoderError, EncoderMismatchError: the model or its encoder cannot be used.
    """
    inverter = model if isinstance(model, Inverter) else Inverter.from_pretrained(model)
    asks = load_matching(inverter.identity, encoder) if encoder is not None else None
    given = [texts] if isinstance(texts, str) else list(texts)
    cut = cut_texts(inverter.tokenizer, given, inverter.max_length, inverter.identity.name)
    if not cut:
        raise InputError("There is no text to evaluate on.", "Pass at least one.")
    if vectors is None:
        asks = asks or inverter.encoder
        vectors = asks.encode(cut)
    rows = vector_rows(vectors, inverter.dimension, inverter.identity.name, inverter.identity.normalised)
    if len(rows) != len(cut):
        raise InputError(f"There are {len(cut)} texts and {len(rows)} vectors.", "Pass one vector for each text.")
    rest = {key: value for key, value in options.items() if key != "strategy"}
    setting = Setting(inverter.resolve(options).strategy, rest, default=not options)
    return evaluate_set(
        inverter,
        EvaluationSet(name, inverter.tokenizer.encode(cut), rows),
        setting,
        encoder=asks,
        rates=rates,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
