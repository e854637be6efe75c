"""What a denoiser has to beat, each with nothing but the training set.

- `random_tokens`: tokens drawn from the unigram distribution, lengths from the training lengths.
- `nearest_neighbour`: the text of the nearest vector in a seeded sample of the training set.
- `unconditional`: the same denoiser and strategy with the mean training vector in place of each vector.
- `closed_form`: token, position and length priors alone, no network.

None of them sees a reference or its length.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from unembed.evaluation.sets import TrainingSample

if TYPE_CHECKING:
    from unembed.decoding.config import DecodeConfig
    from unembed.network.base import Network
    from unembed.priors.fit import ClosedForm

BASELINES = ("random-tokens", "unconditional", "nearest-neighbour", "closed-form")


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
