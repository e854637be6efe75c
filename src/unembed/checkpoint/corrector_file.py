"""A corrector in one small file beside a checkpoint's weights.

Contents: `CORRECTOR_FILE`, `MOST_BYTES`, `write_corrector`, `read_corrector`, `corrector_notes`.

The tensors are stored by `codec.py`. The file is not named in config.json, so that a checkpoint's digest says nothing
about it: its header holds the digest of its own tensors, its shape, and its notes, which name the weights of the
denoiser that it was trained beside.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.checkpoint.codec import Unfilled, decode, encode, load_into, plan_for
from unembed.checkpoint.untrusted import read_header, read_tensors
from unembed.checks import anything, mapping
from unembed.errors import CheckpointError, DataError, InputError
from unembed.files import atomic_path
from unembed.network.base import Network
from unembed.network.corrector import Corrector, corrector_for

CORRECTOR_FILE = "corrector.safetensors"
MOST_BYTES = 12 * 2**20
_FORMAT = "unembed-corrector-2"
_READ = ("unembed-corrector-1", _FORMAT)  # the first had int8 rows
_REPAIR = "Fetch the file again, train a new corrector, or remove it."


def _digest(stored: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(stored):
        value = stored[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_corrector(
    path: str | Path,
    corrector: Corrector,
    notes: dict[str, Any] | None = None,
    state: dict[str, Tensor] | None = None,
    dtype: str = "int6",
) -> str:
    """Write the file, whole or not at all.

    Args:
        path: of the file.
        corrector: its shape and its weights.
        notes: free facts (steps, texts seen, licence); `base` is the digest of the denoiser's weights.
        state: weights to store instead of its own, such as the EMA.
        dtype: of the stored weights, as for `save_checkpoint`.

    Returns:
        The sha256 of its tensors.

    Raises:
        InputError: another dtype.
        DataError: it would hold more than `MOST_BYTES`, or cannot be written.
    """
    from safetensors.torch import save_file

    stored = encode(state if state is not None else corrector.state_dict(), plan_for(dtype))
    size = sum(value.numel() * value.element_size() for value in stored.values())
    if size > MOST_BYTES:
        raise DataError(
            f"The corrector takes {size / 2**20:.1f} MiB, more than {MOST_BYTES / 2**20:.1f}.",
            "Train one with fewer layers or a smaller rank.",
        )
    digest = _digest(stored)
    header = {
        "format": _FORMAT,
        "sha256": digest,
        "shape": json.dumps(asdict(corrector.config)),
        "notes": json.dumps(notes or {}),
    }
    with atomic_path(Path(path)) as part:
        save_file(stored, str(part), metadata=header)
    return digest


def _header(path: Path) -> dict[str, str]:
    found = read_header(path, _REPAIR)
    if found.get("format") not in _READ:
        raise CheckpointError(f"{path} holds no corrector that this program reads.", _REPAIR)
    return found


def corrector_notes(path: str | Path) -> dict[str, Any]:
    """The notes of a file, with the digest of its tensors as `sha256`.

    Raises:
        CheckpointError: no such file.
    """
    header = _header(Path(path))
    try:
        notes = mapping(anything, 1000)(json.loads(header["notes"]), "notes")
        return {**notes, "sha256": str(header["sha256"])}
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its notes cannot be read.", _REPAIR) from error


def read_corrector(path: str | Path, base: Network, weights: str = "") -> Corrector:
    """Read the file.

    Args:
        path: of the file.
        base: the denoiser that it was trained beside.
        weights: digest of the denoiser's weights, to be compared with the one in the notes; "" for no comparison.

    Returns:
        The corrector in evaluation mode, float32, where the denoiser is.

    Raises:
        CheckpointError: damaged, foreign, or of another denoiser.
    """
    path = Path(path)
    header = _header(path)
    known = corrector_notes(path).get("base")
    if weights and known != weights:
        raise CheckpointError(f"{path} was trained beside other weights than those of this checkpoint.", _REPAIR)
    try:
        stored = read_tensors(path, _REPAIR)
        if _digest(stored) != header["sha256"]:
            raise CheckpointError(f"{path} is damaged: its checksum is not the one in its header.", _REPAIR)
        with Unfilled(stored, path, _REPAIR):
            corrector = corrector_for(base, json.loads(header["shape"]))
        load_into(corrector, decode(stored, path, _REPAIR), path, _REPAIR)
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError, InputError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} does not fit this checkpoint: {first.rstrip('.')}.", _REPAIR) from error
    return corrector.to(base.banned.device).eval()
