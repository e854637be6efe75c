"""A checkpoint is a directory: config, tokenizer, encoder identity, recipe, calibration and safetensors shards.

Contents: `Checkpoint`, `save_checkpoint`, `load_checkpoint`, `verify_checkpoint`, `add_fit_score`,
`weights_digest`.

Nothing is ever unpickled. Shards stay under 15 MiB; a tensor that is larger is split by rows. With dtype "int8" or
"int6" matrices are stored by rows of codes and dequantised at load (`codec.py`), with "int6" the
token prior in 4 bits; the whitening matrix stays in float32, because it blows small components up. The squares of the
token prior's means are made at load, from the means as they were stored.
A corrector may be next to them (`corrector_file.py`), and how held-out vectors look (`fit_file.py`); config.json names
neither.
config.json is written last and names the sha256 of every file that the model is made of: a directory without it is not
a checkpoint. SHA256SUMS (`sums.py`) lists every file of the directory, also those that were put beside the model later.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.checkpoint.codec import Unfilled, decode, encode, load_into, plan_for
from unembed.checkpoint.corrector_file import CORRECTOR_FILE, read_corrector
from unembed.checkpoint.fit_file import read_fit_score, write_fit_score
from unembed.checkpoint.sums import FIT_FILE, LISTED, REPAIR, check_all, check_file, check_listed, list_files
from unembed.checkpoint.untrusted import (
    FORMAT,
    MOST_TOKENIZER,
    VERSION,
    read_config,
    read_object,
    read_tensors,
    read_text,
)
from unembed.errors import CheckpointError, DataError
from unembed.files import atomic_path, atomic_write_bytes, sha256_file, write_json
from unembed.network.base import Network
from unembed.network.config import ModelConfig
from unembed.network.corrector import Corrector
from unembed.network.denoiser import build_network
from unembed.priors.fit_score import FitScore
from unembed.priors.token_prior import squares

SHARD_BYTES = 15 * 2**20 - 4096
_EXACT = ("whitening.matrix", "token_prior.counts")
_CODES, _SCALE, _SQUARE = "token_prior.codes", "token_prior.scale", "token_prior.square"


@dataclass
class Checkpoint:
    """What a checkpoint directory holds.

    Attributes:
        path: the directory.
        denoiser: the network in evaluation mode, float32.
        tokenizer_json: the tokenizer, as the `tokenizers` library writes it.
        identity: the encoder's identity and probe vectors, as JSON values.
        recipe: the resolved recipe of the run.
        calibration: knots of the confidence calibration, or None.
        notes: free facts (steps, texts seen, licence).
        sha256: digest of config.json, which names every other file's digest.
        weights: digest of the weights alone, "" where they come from elsewhere.
    """

    path: Path
    denoiser: Network
    tokenizer_json: str
    identity: dict[str, Any]
    recipe: dict[str, Any]
    calibration: dict[str, Any] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    weights: str = ""

    def __repr__(self) -> str:
        """Where it lies, and whose vectors it reads."""
        c = self.denoiser.config
        return (
            f"<Checkpoint {self.path.name!r} ({self.sha256[:8]}): vectors of {self.identity.get('name')!r} "
            f"({c.vector_dim} dimensions) to texts of up to {c.max_length} tokens>"
        )

    @cached_property
    def corrector(self) -> Corrector | None:
        """The corrector that is next to the weights, read at first use; None where there is none.

        Raises:
            CheckpointError: it is damaged, or belongs to other weights.
        """
        path = self.path / CORRECTOR_FILE
        check_listed(self.path, CORRECTOR_FILE)
        if not path.exists():
            return None
        return read_corrector(path, self.denoiser, self.weights)

    @cached_property
    def fit_score(self) -> FitScore | None:
        """How held-out texts' vectors look, read at first use; None where nothing is known of them.

        Raises:
            CheckpointError: it is damaged, or belongs to other vectors.
        """
        path = self.path / FIT_FILE
        check_listed(self.path, *LISTED, must=True)  # also where it is gone: without it nothing is warned of
        if not path.exists():
            return None
        return read_fit_score(path, self.denoiser.config.vector_dim)


def weights_digest(config: dict[str, Any]) -> str:
    """Digest of the weights that a config.json names: what a corrector belongs to."""
    files = sorted(item for item in config.get("files", {}).items() if item[0].startswith("model-"))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _joined(stored: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Tensors that were split over shards, as one again."""
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, value in stored.items():
        base, _, index = name.partition("@")
        if index:
            parts.setdefault(base, {})[index] = value
        else:
            whole[base] = value
    for base, pieces in parts.items():
        found = [pieces.get(str(i)) for i in range(len(pieces))]
        known = [piece for piece in found if piece is not None and piece.dim()]
        if len(known) < len(found) or len({(piece.dtype, piece.shape[1:]) for piece in known}) > 1:
            raise CheckpointError(f"{where} is damaged: the parts of {base} do not belong together.", REPAIR)
        whole[base] = torch.cat(known)
    return whole


def _shards(stored: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    pieces: list[tuple[str, Tensor]] = []
    for name, value in stored.items():
        size = value.numel() * value.element_size()
        if size > SHARD_BYTES:
            count = -(-size // SHARD_BYTES)
            pieces += [(f"{name}@{i}", part.contiguous()) for i, part in enumerate(value.chunk(count))]
        else:
            pieces.append((name, value))
    shards: list[dict[str, Tensor]] = []
    sizes: list[int] = []
    for name, value in sorted(pieces, key=lambda p: -p[1].numel() * p[1].element_size()):
        size = value.numel() * value.element_size()
        for i, used in enumerate(sizes):
            if used + size + 256 <= SHARD_BYTES:
                shards[i][name] = value
                sizes[i] += size + 256
                break
        else:
            shards.append({name: value})
            sizes.append(size + 256)
    return shards


def save_checkpoint(
    path: str | Path,
    denoiser: Network,
    tokenizer_json: str,
    identity: dict[str, Any],
    recipe: dict[str, Any],
    calibration: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
    dtype: str = "fp32",
    state: dict[str, Tensor] | None = None,
    fit_score: FitScore | None = None,
) -> None:
    """Write a checkpoint directory; each file appears whole, config.json last.

    Args:
        path: the directory; an older checkpoint there is replaced.
        denoiser: the network.
        tokenizer_json: see `Checkpoint`.
        identity: see `Checkpoint`.
        recipe: see `Checkpoint`.
        calibration: see `Checkpoint`.
        notes: see `Checkpoint`.
        dtype: "fp32", "fp16", "int8" or "int6" for the stored weights.
        state: weights to store instead of the denoiser's own, such as the EMA.
        fit_score: see `Checkpoint`.

    Raises:
        InputError: another dtype.
        DataError: the directory cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    kept = dict(state if state is not None else denoiser.state_dict())
    if dtype != "fp32":
        kept.pop(_SQUARE, None)
    shards = _shards(encode(kept, plan_for(dtype, _EXACT)))
    files: dict[str, str] = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        with atomic_path(path / name) as part:
            save_file(shard, str(part), metadata={"format": "pt"})
        files[name] = sha256_file(path / name)
    atomic_write_bytes(path / "tokenizer.json", tokenizer_json.encode())
    write_json(path / "encoder.json", identity)
    write_json(path / "recipe.json", recipe)
    names = ["tokenizer.json", "encoder.json", "recipe.json"]
    if calibration is not None:
        write_json(path / "calibration.json", calibration)
        names.append("calibration.json")
    if fit_score is None:
        (path / FIT_FILE).unlink(missing_ok=True)
    else:
        write_fit_score(path / FIT_FILE, fit_score)
    for name in names:
        files[name] = sha256_file(path / name)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype,
        "denoiser": denoiser.config.to_dict(),
        "notes": notes or {},
        "files": files,
    }
    write_json(path / "config.json", config)
    for old in path.glob("model-*.safetensors"):
        if old.name not in files:
            old.unlink()
    list_files(path, *files, *([] if fit_score is None else [FIT_FILE]), "config.json")


def add_fit_score(path: str | Path, score: FitScore) -> None:
    """Put how held-out vectors look beside the weights of a checkpoint directory, or replace what is there.

    Its config.json, and with it its digest, stays.

    Raises:
        CheckpointError: not a whole checkpoint.
        DataError: the directory cannot be written.
    """
    read_config(path)
    write_fit_score(Path(path) / FIT_FILE, score)
    list_files(path, FIT_FILE)


def verify_checkpoint(path: str | Path) -> tuple[dict[str, str], list[str]]:
    """Compare every file of a checkpoint's directory with its digest.

    Args:
        path: the directory.

    Returns:
        Name -> sha256 of every file that is listed, and the names of what else is in the directory.

    Raises:
        CheckpointError: not a checkpoint, a file missing, or a digest that differs.
    """
    return check_all(path, read_config(path)["files"])


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint directory.

    Args:
        path: the directory.
        device: where the network goes.

    Returns:
        Network, tokenizer, identity of the encoder and everything else that the directory holds.

    Raises:
        CheckpointError: missing, foreign, truncated, damaged or of another version.
    """
    path = Path(path)
    config = read_config(path)
    shape = ModelConfig.from_dict(config["denoiser"])
    for name, digest in config["files"].items():
        check_file(path, name, digest)
    stored: dict[str, Tensor] = {}
    try:
        for name in config["files"]:
            if name.startswith("model-") and name.endswith(".safetensors"):
                stored.update(read_tensors(path / name, REPAIR))
        with Unfilled(stored, path, REPAIR):
            denoiser = build_network(shape)
        state = decode(_joined(stored, path), path, REPAIR)
        if _SQUARE not in state and {_CODES, _SCALE} <= state.keys():
            codes, scale = state[_CODES], state[_SCALE]
            state[_SQUARE] = squares(codes, scale) if scale.shape == codes.shape[:1] else scale
        load_into(denoiser, state, path, REPAIR)
        calibration = read_object(path / "calibration.json") if "calibration.json" in config["files"] else None
        return Checkpoint(
            path=path,
            denoiser=denoiser.to(device).eval(),
            tokenizer_json=read_text(path / "tokenizer.json", MOST_TOKENIZER),
            identity=read_object(path / "encoder.json"),
            recipe=read_object(path / "recipe.json"),
            calibration=calibration,
            notes=config.get("notes", {}),
            sha256=sha256_file(path / "config.json"),
            weights=weights_digest(config),
        )
    except (RuntimeError, KeyError, ValueError, IndexError, TypeError, DataError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be loaded: {first.rstrip('.')}.", REPAIR) from error
