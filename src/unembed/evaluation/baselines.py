"""What a denoiser has to beat, each with nothing but the training set.

- `random_tokens`: tokens drawn from the unigram distribution, lengths from the training lengths.
- `nearest_neighbour`: the text of the nearest vector in a seeded sample of the training set.
- `unconditional`: the same denoiser and strategy with the mean training vector in place of each vector.
- `closed_form`: token, position and length priors alone, no network.

None of them sees a reference or its length. `run_baseline` runs one by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from unembed.evaluation.sets import EvaluationSet, TrainingSample

if TYPE_CHECKING:
    from unembed.decoding.config import DecodeConfig
    from unembed.inverter import Inverter
    from unembed.network.base import Network
    from unembed.priors.fit import ClosedForm

BASELINES = ("random-tokens", "unconditional", "nearest-neighbour", "closed-form")
"""The first three need nothing but a sample; the last, closed-form parts fitted for it."""


def random_tokens(sample: TrainingSample, n: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Draw `n` texts of independent tokens.

    Args:
        sample: gives the unigram distribution and the distribution of lengths.
        n: number of texts.
        vocab_size: size of the vocabulary V.
        seed: seed of the draws.
    """
    generator = np.random.default_rng([seed, n])
    lengths = generator.choice(np.diff(sample.offsets), size=n)
    tokens = generator.choice(vocab_size, size=int(lengths.sum()), p=sample.unigram(vocab_size))
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def nearest_neighbour(sample: TrainingSample, vectors: np.ndarray) -> list[list[int]]:
    """Return the text of the sample whose vector has the largest cosine to each of `vectors` (n, d)."""
    index, _ = sample.nearest(vectors)
    return [sample.ids(int(i)) for i in index]


def unconditional(denoiser: Network, mean: np.ndarray, n: int, config: DecodeConfig) -> tuple[list[list[int]], int]:
    """Decode the mean vector (d,): what the denoiser writes when it knows nothing.

    Greedy strategies write one text, so it is decoded once and stands for all `n`; with a temperature each is drawn.

    Returns:
        n texts as token ids, and the passes spent per text.
    """
    import torch

    from unembed.decoding.loop import decode

    texts = n if config.temperature > 0 else 1
    found = []
    for index in range(texts):
        vector = torch.from_numpy(np.asarray(mean, dtype=np.float32)[None])
        found += decode(denoiser, vector, replace(config, seed=config.seed + index))
    preds = [list(draft.ids) for draft in found]
    return (preds if texts == n else preds * n), found[0].spent


def closed_form(parts: ClosedForm, vectors: np.ndarray, batch_size: int = 4096) -> list[list[int]]:
    """Read a text off the priors alone for each of `vectors` (n, d), as the strategy prior does."""
    import torch

    from unembed.decoding.prior import PriorReader

    reader = PriorReader.fitted(parts)

    out: list[list[int]] = []
    for start in range(0, len(vectors), batch_size):
        batch = torch.from_numpy(np.ascontiguousarray(vectors[start : start + batch_size], dtype=np.float32))
        out += reader.read(batch).texts()
    return out


def run_baseline(
    name: str,
    inverter: Inverter,
    data: EvaluationSet,
    sample: TrainingSample,
    config: DecodeConfig,
    seed: int = 0,
    parts: Callable[[], ClosedForm] | None = None,
) -> tuple[list[list[int]], float, float]:
    """Run one of `BASELINES` on a set.

    Args:
        name: which.
        inverter: whose tokenizer, and whose denoiser where one is used.
        data: n texts with their vectors.
        sample: of the training set.
        config: of the unconditional decode.
        seed: of random tokens.
        parts: makes the closed-form parts, which takes time too; for closed-form alone.

    Returns:
        n texts as token ids, the passes spent per text, and the seconds that it took: what `evaluate_baseline` takes.
    """
    began, passes = time.perf_counter(), 0
    if name == "random-tokens":
        preds = random_tokens(sample, len(data), inverter.tokenizer.size, seed)
    elif name == "unconditional":
        preds, passes = unconditional(inverter.denoiser, sample.mean, len(data), config)
    elif name == "nearest-neighbour":
        preds = nearest_neighbour(sample, data.vectors)
    else:
        assert parts is not None
        preds = closed_form(parts(), data.vectors)
    return preds, passes, time.perf_counter() - began
