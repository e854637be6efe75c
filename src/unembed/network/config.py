"""The shape of the denoiser, as a checkpoint keeps it. Contents: `NetworkShape`, `ModelConfig`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unembed.checks import Check, SchemaError, allow, anything, bound, flag, mapping, number, one_of, text, whole
from unembed.encoders.identity import MOST_DIMENSIONS
from unembed.errors import CheckpointError, InputError
from unembed.plugins import plugin_names

_CHOICES = {
    "canvas": ("length", "eos"),
    "adaln": ("full", "factored"),
    "backbone": ("adaln-zero", "paper", "autoregressive"),
}
_BOUNDS = {
    "width": (1, 16_384),
    "layers": (1, 256),
    "heads": (1, 256),
    "mlp": (0, 65_536),
    "embedding_dim": (0, 16_384),
    "adaln_rank": (1, 4096),
    "prefix_tokens": (0, 256),
    "dropout": (0, 0.99),
}
_NAMES_IN_FILES = {"limit": "max_length"}
"""Keys that checkpoints hold under another name."""
_SIZES = {"vector_dim": MOST_DIMENSIONS, "vocab_size": 1 << 21, "max_length": 65_536}
_REMOVED = {"position_prior": False, "candidates": 0, "prior_once": True}
"""Keys of older checkpoints that are gone, and the value that a network of today has (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """What a recipe may choose of the network.

    Attributes:
        backbone: "adaln-zero" (pre-norm blocks that start as the identity), "paper" (equations 5 to 10 of 2602.11047:
            `network/variants/paper.py`; no prefix tokens and one kind of modulation) or "autoregressive" (left to right
            only, the vector as a prefix of the text: `network/variants/autoregressive.py`).
        width: model width; a multiple of `heads`.
        layers: number of blocks.
        heads: attention heads.
        mlp: hidden width of each MLP; 0 means 4 width.
        embedding_dim: width of the tied token embedding; 0 means `width`.
        canvas: "length" (exactly n positions, n from the length head) or "eos" (max_length + 1, the end learnt).
        adaln: "full" or "factored" modulation; "factored" goes through `adaln_rank` dimensions.
        adaln_rank: inner dimension of the factored modulation.
        prefix_tokens: memory rows made from the vector.
        whiten: whiten vectors first; otherwise they are only scaled to unit variance.
        token_prior: gated closed-form log-odds on the logits. A token that is in the text already gets none of it: its
            evidence is explained (otherwise words repeat).
        dropout: dropout while training.
        time_conditioning: the time t is an input of each block's modulation (`conditioning.TimeModulation`).
    """

    backbone: str = "adaln-zero"
    width: int = 384
    layers: int = 6
    heads: int = 6
    mlp: int = 0
    embedding_dim: int = 0
    canvas: str = "length"
    adaln: str = "full"
    adaln_rank: int = 64
    prefix_tokens: int = 8
    whiten: bool = True
    token_prior: bool = False
    dropout: float = 0.0
    time_conditioning: bool = False

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            InputError: the key and what it may be.
        """
        for name, allowed in _CHOICES.items():
            allow(name, getattr(self, name), allowed)
        for name, (low, high) in _BOUNDS.items():
            bound(name, getattr(self, name), low, high)
        if self.width % self.heads:
            raise InputError(
                f"width {self.width} is not a multiple of heads {self.heads}.",
                "Choose a width that is divisible by heads.",
            )
        if not self.fills_masks:
            self._check_autoregressive()
        if self.plain_embedding and self.embedding_dim not in (0, self.width):
            raise InputError(
                f"The {self.backbone} backbone cannot map embedding_dim {self.embedding_dim} to width {self.width}.",
                "Leave embedding_dim out.",
            )
        if self.backbone == "paper" and (self.prefix_tokens or self.adaln != "full"):
            raise InputError(
                "The paper backbone has no prefix tokens and one kind of modulation.",
                'Set prefix_tokens = 0 and adaln = "full".',
            )

    def _check_autoregressive(self) -> None:
        if self.prefix_tokens < 1:
            raise InputError(
                "prefix_tokens is 0, but the autoregressive backbone sees the vector in them alone.",
                "Use at least 1, such as 8.",
            )
        for name, wanted in (("canvas", "length"), ("time_conditioning", False)):
            if getattr(self, name) != wanted:
                raise InputError(
                    f"The autoregressive backbone has no use for {name} = {getattr(self, name)!r}.",
                    f"Leave {name} out.",
                )

    @property
    def plain_embedding(self) -> bool:
        """Whether token embeddings enter the blocks as they are, without a norm and a map."""
        return self.backbone == "paper"

    @property
    def fills_masks(self) -> bool:
        """Whether the network predicts masked tokens; otherwise it goes left to right only."""
        return self.backbone != "autoregressive"

    @property
    def modulation_parts(self) -> int:
        """Vectors that the modulation of one block has: shift, scale and gate twice, or gain and shift twice."""
        return 4 if self.backbone == "paper" else 6

    @property
    def stream_prefix(self) -> int:
        """Rows made from the vector that run through the blocks with each text, as its tokens do."""
        return 0 if self.fills_masks else self.prefix_tokens


@dataclass(frozen=True, kw_only=True)
class ModelConfig(NetworkShape):
    """Everything that fixes the network: its shape, and what data and objective add to it.

    Attributes:
        vector_dim: dimension d of the vectors.
        vocab_size: size V of the vocabulary.
        max_length: longest text in tokens.
        causal: trained with causal rows too, so that it can draft left to right.
        null_vector: trained with vectors dropped, so that guidance has a learnt vector that says nothing (2207.12598).
        schedule: the noise schedule of training, by which a share of masks is read as a time.
        mask_id, eos_id, bos_id, pad_id: special ids of the tokenizer.
    """

    vector_dim: int
    vocab_size: int
    max_length: int = 32
    causal: bool = False
    null_vector: bool = False
    schedule: str = "linear"
    mask_id: int = 103
    eos_id: int = 102
    bos_id: int = 101
    pad_id: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes and ids out of bounds; see also `NetworkShape`."""
        super().__post_init__()
        for name, most in _SIZES.items():
            bound(name, getattr(self, name), 1, most, whole=True)
        for name in ("mask_id", "eos_id", "bos_id", "pad_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise InputError(
                    f"{name} is {getattr(self, name)}, and the vocabulary has {self.vocab_size} tokens.",
                    "Use an id of the vocabulary.",
                )

    @property
    def canvas_length(self) -> int:
        """Positions of the longest canvas."""
        return self.max_length + (self.canvas == "eos")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build from a checkpoint's JSON; keys that are gone may be there where they switched nothing on.

        Raises:
            CheckpointError: a part that is gone, a key that this version does not know, or one that is missing.
        """
        values = {_NAMES_IN_FILES.get(name, name): value for name, value in values.items()}
        try:
            _SCHEMA(values, "denoiser")
        except SchemaError as error:
            raise CheckpointError(f"The model config cannot be used: {error}.", _ANOTHER) from error
        for name, off in _REMOVED.items():
            if values.get(name, off) != off:
                raise _gone(name, values[name])
        for name, allowed in _CHOICES.items():
            if values.get(name, allowed[0]) not in allowed:
                raise _gone(name, values[name])
        try:
            return cls(**{name: value for name, value in values.items() if name not in _REMOVED})
        except TypeError as error:
            raise CheckpointError(f"The model config does not fit this version ({error}).", _ANOTHER) from error
        except InputError as error:
            raise CheckpointError(f"The model config cannot be used: {error.what}", _ANOTHER) from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        stored = {name: key for key, name in _NAMES_IN_FILES.items()}
        return {stored.get(name, name): value for name, value in asdict(self).items()}


def _gone(name: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"The model has {name} = {value!r}, which this version does not know (docs/log.md says what was removed).",
        _ANOTHER,
    )


_ANOTHER = "Use the version of unembed that wrote the checkpoint, or train again."
_OF_TYPE = {"int": whole(-(2**63), 2**63), "float": number(), "bool": flag, "str": text(100)}


def _known(value: Any, name: str) -> Any:
    """The types of the keys; bounds are those of the dataclasses."""
    from unembed.diffusion.schedule import SCHEDULES  # imports torch, which recipes do without

    mapping(anything, 100)(value, name)
    for key, kind in ModelConfig.__annotations__.items() | NetworkShape.__annotations__.items():
        if key in value:
            known = key == "schedule" and value[key] not in list(SCHEDULES)
            check: Check = one_of(sorted({*SCHEDULES, *plugin_names("schedule")})) if known else _OF_TYPE[str(kind)]
            check(value[key], f"{name}.{key}")
    return value


_SCHEMA: Check = _known
