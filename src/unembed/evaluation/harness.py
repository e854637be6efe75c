"""Runs an inverter on a set and writes down what came back, at which cost, on what.

- `Setting`: a strategy with its options, under a name.
- `evaluate_set`: one setting on one set -> one result (JSON values).
- `evaluate_baseline`: the same for texts that a baseline returned.
- `teacher_forced`: masked_token_accuracy@rate, which is not token_accuracy: it sees part of the text.
- `fit_calibration`: the confidence calibration, from drafts on validation.
- `write_result`: one file a result, named by set and setting.

`perplexity` under a named language model is left out: nothing in the dependencies is such a model.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.decoding.config import DecodeConfig
from unembed.evaluation.measure import RESAMPLES, measure
from unembed.evaluation.sets import EvaluationSet, TrainingSample
from unembed.files import PRIVATE, write_json
from unembed.machine import describe
from unembed.metrics.bootstrap import Statistic, summary
from unembed.metrics.text import id_statistics, masked_token_statistic, token_f1

if TYPE_CHECKING:
    from unembed.decoding.confidence import Calibration
    from unembed.encoders.protocol import Encoder
    from unembed.inverter import Inverter

EXAMPLES = 12
_SETTINGS = frozenset(item.name for item in fields(DecodeConfig))


@dataclass(frozen=True)
class Setting:
    """A way to decode.

    Attributes:
        strategy: name of the strategy.
        options: further arguments of `DecodeConfig`.
        name: how it is called in tables; the strategy's name where empty.
        default: whether it is what `invert` does when nothing is said.
    """

    strategy: str = "adaptive"
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    default: bool = False

    @property
    def label(self) -> str:
        """Name for tables and files."""
        return self.name or self.strategy


def embedder(inverter: Inverter, encoder: Encoder) -> Callable[[Sequence[Sequence[int]]], np.ndarray]:
    """Return ids -> vectors (n, d), through the text that the encoder would be given."""
    return lambda rows: np.asarray(encoder.encode([inverter.tokenizer.decode(list(row)) for row in rows]))


def frame(inverter: Inverter, data: EvaluationSet, seed: int, left_out: bool) -> dict[str, Any]:
    """What every result states beside its figures: data, encoder, checkpoint, machine, seed."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "seed": seed,
        "left_out": left_out,
        "data": {"name": data.name, "n": len(data), "of": data.of, "seed": data.seed},
        "encoder": inverter.identity.name,
        "checkpoint": {"name": inverter.name, "sha256": inverter.sha256},
        "machine": {**describe(), "device": str(inverter.device), "precision": inverter.precision, "load": load},
    }


def evaluate_set(
    inverter: Inverter,
    data: EvaluationSet,
    setting: Setting,
    *,
    sample: TrainingSample | None = None,
    nearest: np.ndarray | None = None,
    encoder: Encoder | None = None,
    rates: Sequence[float] = (),
    seed: int = 0,
    batch_size: int | None = None,
    left_out: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Invert a set with one setting and score what comes back.

    Args:
        inverter: the model.
        data: the set, already cut to the n texts that are wanted (`EvaluationSet.subset`).
        setting: strategy and options.
        sample: part of the training set, for the bins by cosine to the nearest training text.
        nearest: (n,) those cosines, where they are known already.
        encoder: re-embeds the recovered texts for the cosine to the target; scoring only, no query of the attack.
        rates: mask rates of masked_token_accuracy, which is given the length and the unmasked tokens.
        seed: of decoding, masks and intervals.
        batch_size: vectors per batch; the inverter's own choice where None.
        left_out: whether the set's source was left out of training.
        progress: show a bar.

    Returns:
        JSON values: seed, data, encoder, checkpoint, machine, strategy, options, lengths, passes (mean a text), queries
        (mean a text), seconds, texts_per_second, and everything that `measure` returns.

    Raises:
        InputError: an unknown strategy or option, or vectors of another encoder.
    """
    config = inverter.resolve({"strategy": setting.strategy, "seed": seed, **setting.options})
    more: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    start = time.perf_counter()
    found = inverter.invert(
        data.vectors, strategy=setting.strategy, seed=seed, progress=progress, **setting.options, **more
    )
    seconds = time.perf_counter() - start
    preds = [list(recovery.token_ids) for recovery in found]
    sure: dict[str, Any] = {}
    if all(recovery.p_exact is not None for recovery in found):  # calibrated
        sure["confidence"] = [recovery.confidence or 0.0 for recovery in found]
        sure["p_exact"] = [recovery.p_exact or 0.0 for recovery in found]
    result = {
        "kind": "strategy",
        "name": setting.label,
        "default": setting.default,
        **frame(inverter, data, seed, left_out),
        "strategy": setting.strategy,
        "options": asdict(config),
        "lengths": config.lengths if inverter.denoiser.config.canvas == "length" and not config.causal else None,
        "passes": float(np.mean([recovery.passes for recovery in found])),
        "queries": float(np.mean([recovery.queries for recovery in found])),
        **_scores(preds, inverter, data, seconds, sample, nearest, encoder, seed, **sure),
    }
    for rate in rates:
        statistic = teacher_forced(inverter.denoiser, data, rate, seed)
        result["metrics"][f"masked_token_accuracy@{rate:g}"] = summary(statistic, RESAMPLES, seed)
    result["examples"] = [
        {
            "text": inverter.tokenizer.detokenize(list(data.ids[i])),
            "recovered": found[i].text,
            "confidence": None if (stated := found[i].confidence) is None else round(stated, 4),
            "token_f1": round(token_f1([preds[i]], [data.ids[i]]), 4),
        }
        for i in range(min(EXAMPLES, len(data)))
    ]
    return result


def evaluate_baseline(
    name: str,
    preds: Sequence[Sequence[int]],
    inverter: Inverter,
    data: EvaluationSet,
    *,
    seconds: float,
    sample: TrainingSample | None = None,
    nearest: np.ndarray | None = None,
    encoder: Encoder | None = None,
    passes: float = 0.0,
    seed: int = 0,
    left_out: bool = False,
) -> dict[str, Any]:
    """Score texts that a baseline returned; the same form as `evaluate_set`, with kind "baseline"."""
    return {
        "kind": "baseline",
        "name": name,
        **frame(inverter, data, seed, left_out),
        "lengths": None,
        "passes": passes,
        "queries": 0.0,
        **_scores(preds, inverter, data, seconds, sample, nearest, encoder, seed),
    }


def _scores(
    preds: Sequence[Sequence[int]],
    inverter: Inverter,
    data: EvaluationSet,
    seconds: float,
    sample: TrainingSample | None,
    nearest: np.ndarray | None,
    encoder: Encoder | None,
    seed: int,
    **sure: Any,
) -> dict[str, Any]:
    """The speed, everything that `measure` returns, and what the bins by distance were made from."""
    if nearest is None and sample is not None:
        nearest = sample.nearest(data.vectors)[1]
    embed = None if encoder is None else embedder(inverter, encoder)
    display = inverter.tokenizer.detokenize
    return {
        "seconds": seconds,
        "texts_per_second": len(data) / seconds if seconds > 0 else None,
        **measure(preds, data, display=display, embed=embed, nearest=nearest, seed=seed, **sure),
        **({} if sample is None else {"neighbours": {"n": len(sample), "of": sample.of, "seed": sample.seed}}),
    }


def teacher_forced(denoiser: Any, data: EvaluationSet, rate: float, seed: int = 0, batch_size: int = 32) -> Statistic:
    """masked_token_accuracy@rate: mask round(rate n) tokens (at least one) of each text, show the others, predict.

    One pass, the length given. With a small rate this is the paper's "token accuracy"; it says how well gaps are
    filled, not what comes back from a vector.

    Args:
        denoiser: the network.
        data: texts and vectors.
        rate: share of masked tokens, in (0, 1].
        seed: of the masks, which depend on the seed, the rate and the texts alone.
        batch_size: texts per pass.
    """
    import torch

    from unembed.network.base import GIVEN, MASK
    from unembed.network.denoiser import autocast

    config = denoiser.config
    device = next(denoiser.parameters()).device
    generator = np.random.default_rng([seed, round(rate * 1000), len(data)])
    lengths = data.lengths
    order = np.argsort(lengths, kind="stable")
    width = int(lengths.max())
    truth = np.full((len(data), width), config.pad_id, dtype=np.int64)
    masked = np.zeros((len(data), width), dtype=bool)
    for i, row in enumerate(data.ids):
        truth[i, : len(row)] = row
        count = max(1, round(rate * len(row)))
        masked[i, generator.permutation(len(row))[:count]] = True
    predicted = np.full_like(truth, -1)
    with torch.inference_mode(), autocast(denoiser):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            n = int(lengths[rows].max()) if config.canvas == "length" else config.canvas_length
            ids = torch.full((len(rows), n), config.pad_id if config.canvas == "length" else config.eos_id)
            hidden = torch.zeros(len(rows), n, dtype=torch.bool)
            for i, row in enumerate(rows):
                ids[i, : lengths[row]] = torch.from_numpy(truth[row, : lengths[row]])
                hidden[i, : lengths[row]] = torch.from_numpy(masked[row, : lengths[row]])
            states = torch.where(hidden, MASK, GIVEN)
            shown = ids.masked_fill(hidden, config.mask_id)
            vectors = torch.from_numpy(np.ascontiguousarray(np.asarray(data.vectors)[rows], dtype=np.float32))
            canvas = torch.from_numpy(lengths[rows]) if config.canvas == "length" else None
            scores = denoiser.logits(
                shown.to(device),
                states.to(device),
                denoiser.condition(vectors.to(device)),
                None if canvas is None else canvas.to(device),
                hidden.to(device),
            )
            owner, column = hidden.nonzero(as_tuple=True)
            predicted[rows[owner.numpy()], column.numpy()] = scores.argmax(dim=-1).cpu().numpy()
    return masked_token_statistic(predicted, truth, masked)


def fit_calibration(
    inverter: Inverter, ids: Sequence[Sequence[int]], vectors: np.ndarray, **options: Any
) -> Calibration:
    """Fit confidence on a validation set: invert it, then relate what drafts look like to how right they are.

    Args:
        inverter: the model.
        ids: n references of the validation set, at least two.
        vectors: (n, d) their vectors.
        options: strategy and other options of `Inverter.invert`; the defaults where left out.

    Returns:
        The calibration of that strategy; a checkpoint stores `{strategy: Calibration.to_dict()}`.
    """
    from unembed.decoding.confidence import Calibration, features_of

    drafts = inverter.drafts(vectors, **options)
    statistics = id_statistics([draft.ids for draft in drafts], ids)
    chosen = {k: v for k, v in options.items() if k in _SETTINGS}
    settings = {**chosen, "strategy": inverter.resolve(chosen).strategy}
    features = features_of(drafts)
    return Calibration.fit(features, statistics["token_f1"].per_text, statistics["exact_match"].per_text, settings)


def write_result(folder: str | Path, result: dict[str, Any]) -> Path:
    """Write a result as {set}-{name}.json and return the path.

    Baselines and curves over queries have their kind before the name: {set}-baseline-{name}.json.
    """
    kind = f"{result['kind']}-" if result["kind"] in ("baseline", "refinement") else ""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{result['data']['name']}-{kind}{result['name']}")
    path = Path(folder) / f"{stem}.json"
    write_json(path, result, PRIVATE)  # it holds examples
    return path
