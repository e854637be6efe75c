"""A position prior in one small file beside a checkpoint's weights: for the strategy `prior`, not for the network.

Contents: `POSITION_FILE`, `MOST_BYTES`, `write_position_prior`, `read_position_prior`.

Means are stored as int8 with float16 scales and frequencies, token ids in 16 bits where they fit. 1/2 |m|^2 is not
stored: it follows from the means.
"""

from __future__ import annotations

from pathlib import Path

import torch

from unembed.checkpoint.codec import Unfilled
from unembed.checkpoint.tensor_file import read_tensors
from unembed.errors import CheckpointError, DataError
from unembed.files import atomic_path
from unembed.priors.position_prior import PositionPrior

POSITION_FILE = "position-prior.safetensors"
MOST_BYTES = 6 * 2**20


def write_position_prior(path: str | Path, prior: PositionPrior) -> None:
    """Write the file, whole or not at all.

    Raises:
        DataError: it would hold more than `MOST_BYTES`, or cannot be written.
    """
    from safetensors.torch import save_file

    ids = prior.token_ids
    state = {
        "basis": prior.basis,
        "codes": prior.codes,
        "scale": prior.scale.half(),
        "token_ids": ids.to(torch.uint16) if prior.vocab_size <= 1 << 16 else ids,
        "log_p": prior.log_p.half(),
        "rest": prior.rest,
        "log_frequency": prior.log_frequency.half(),
        "weight": prior.weight,
    }
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > MOST_BYTES:
        raise DataError(
            f"The position prior takes {size / 2**20:.1f} MiB, more than {MOST_BYTES >> 20}.",
            "Fit it with fewer tokens or a smaller rank.",
        )
    with atomic_path(Path(path)) as part:
        save_file({name: value.cpu().contiguous() for name, value in state.items()}, str(part))


def read_position_prior(path: str | Path, max_length: int, dim: int, vocab_size: int) -> PositionPrior:
    """Read the file.

    Args:
        path: of the file.
        max_length: longest text of the checkpoint, in tokens.
        dim: dimension d of its vectors.
        vocab_size: size V of its vocabulary.

    Raises:
        CheckpointError: it belongs to a checkpoint of another shape.
        KeyError, RuntimeError, IndexError: not such a file; `load_checkpoint` turns them into CheckpointError.
    """
    stored = read_tensors(path, "Fetch the checkpoint again.")
    codes, basis, ids = stored["codes"], stored["basis"], stored["token_ids"].to(torch.int32)
    fits = codes.dim() == 4 and codes.shape[:2] == (2, max_length) and basis.shape == (dim, codes.shape[3])
    if not fits or len(stored["log_frequency"]) != vocab_size or int(ids.max()) >= vocab_size or int(ids.min()) < 0:
        raise CheckpointError(
            f"{path} does not belong to this checkpoint: its shape is another.",
            "Fetch the checkpoint again, or remove the file from it with the entry in config.json.",
        )
    with Unfilled(stored, path):
        prior = PositionPrior(max_length, dim, vocab_size, codes.shape[2], codes.shape[3])
    state = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    scale = state["scale"]
    half_square = 0.5 * (codes.float() ** 2).sum(3) * scale**2
    prior.load_state_dict({**state, "token_ids": ids, "half_square": half_square})
    return prior
