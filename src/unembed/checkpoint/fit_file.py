"""How held-out vectors look (`priors/fit_score.py`), in one small file beside a checkpoint's weights.

Contents: `write_fit_score`, `read_fit_score`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unembed.checkpoint.untrusted import read_header, read_tensors
from unembed.errors import CheckpointError
from unembed.files import atomic_path
from unembed.priors.fit_score import KNOTS, REASONS, FitScore

_REPAIR = "Fetch the checkpoint again, or remove the file from it."


def write_fit_score(path: str | Path, score: FitScore) -> None:
    """Write the file, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    from safetensors.numpy import save_file

    state = {
        "weights": score.weights.astype(np.float32),
        "offsets": score.offsets.astype(np.float32),
        "knots": score.knots,
        "tails": score.tails,
        "trust_x": score.trust_x,
        "trust_y": score.trust_y,
    }
    with atomic_path(Path(path)) as part:
        save_file(
            {name: np.ascontiguousarray(value) for name, value in state.items()},
            str(part),
            metadata={"reasons": " ".join(score.reasons), "n": str(score.n)},
        )


def read_fit_score(path: str | Path, dim: int) -> FitScore:
    """Read the file.

    Args:
        path: of the file.
        dim: dimension d of the checkpoint's vectors.

    Raises:
        CheckpointError: not such a file, or of another shape.
    """
    told, tensors = read_header(path, _REPAIR), read_tensors(path, _REPAIR)
    try:
        state = {name: tensor.numpy() for name, tensor in tensors.items()}
        reasons, n = tuple(told["reasons"].split()), int(told["n"])
        score = FitScore(reasons, n=n, **state)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}).", _REPAIR) from error
    k = len(reasons)
    shapes = (
        score.weights.shape == (k - 1, dim)
        and score.offsets.shape == (k - 1,)
        and score.knots.shape == (k, KNOTS)
        and score.tails.shape == (KNOTS,)
        and score.trust_x.shape == score.trust_y.shape == (k, score.trust_x.shape[-1])
        and 1 <= score.trust_x.shape[-1] <= KNOTS
    )
    whole = shapes and all(np.issubdtype(v.dtype, np.floating) and (np.abs(v) < 1e9).all() for v in state.values())
    if not (
        whole
        and reasons[:1] == REASONS[:1]
        and set(reasons) <= set(REASONS)
        and n > 0
        and (np.diff(score.knots, axis=1) >= 0).all()
        and (np.diff(score.tails) < 0).all()
        and 0 < score.tails[-1] <= score.tails[0] <= 1
        and (np.diff(score.trust_x, axis=1) > 0).all()
        and (np.diff(score.trust_y, axis=1) <= 0).all()
        and 0 <= score.trust_y.min() <= score.trust_y.max() <= 1
    ):
        raise CheckpointError(f"{path} does not belong to this checkpoint, or is damaged.", _REPAIR)
    return score
