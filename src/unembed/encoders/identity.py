"""Who made these vectors: the identity that a checkpoint, a set of shards and an encoder must share.

Contents: `PROBES`, `MOST_DIMENSIONS`, `EncoderIdentity`, `make_identity`.

A name is not enough: another revision, prompt or pooling under the same name gives other vectors. So three probe
texts are stored with their vectors, and an encoder is accepted when it reproduces them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from unembed.checks import SchemaError, flag, listing, number, table, text, whole
from unembed.encoders.endpoint import without_address
from unembed.errors import EncoderError, EncoderMismatchError

if TYPE_CHECKING:
    import numpy as np

PROBES: tuple[str, str, str] = (
    "the quick brown fox jumps over the lazy dog",
    "invoice 4417 was paid on 3 march, 250.00 eur",
    "why did she leave before the doctor called?",
)
"""Probe texts: short, lower-case, free of characters that tokenizers treat differently."""


MOST_DIMENSIONS = 65_536
_SCHEMA = table(
    {
        "name": text(500),
        "revision": text(500),
        "prompt": text(10_000, lines=True),
        "normalised": flag,
        "dimension": whole(1, MOST_DIMENSIONS),
        "probes": listing(text(1000, lines=True), 3, 3),
        "probe_vectors": listing(listing(number(-1e30, 1e30), 1, MOST_DIMENSIONS), 3, 3),
    }
)


class _Encodes(Protocol):
    """The part of an encoder that a check needs."""

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class EncoderIdentity:
    """What must be known of an encoder to make the same vectors again.

    Attributes:
        name: what it is called: "minilm", "hashing:64", a hub name, a folder, "endpoint:MODEL". Data, no
            configuration: where it comes from a file, only built-in encoders and plug-ins are loaded by it
            (`registry.load_matching`).
        revision: commit of the hub, "sha256:..." of local weights, or "" when unknown.
        prompt: text put before every input, "" for none.
        normalised: whether vectors have length 1.
        dimension: length of a vector.
        probes: three texts.
        probe_vectors: their vectors, rounded to 6 digits.
    """

    name: str
    revision: str
    prompt: str
    normalised: bool
    dimension: int
    probes: tuple[str, str, str] = field(repr=False)
    probe_vectors: tuple[tuple[float, ...], ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Check that probes and vectors fit together."""
        fits = len(self.probes) == len(self.probe_vectors) == 3
        if not fits or any(len(vector) != self.dimension for vector in self.probe_vectors):
            raise EncoderError(
                f"The identity of encoder {self.name!r} does not hold 3 probe vectors of {self.dimension} dimensions.",
                "Restore the file that it was read from.",
            )

    def same_vectors(self, other: EncoderIdentity) -> bool:
        """Whether both made the same probe vectors, but for rounding: 1% of their length."""
        if self.probes != other.probes or self.dimension != other.dimension:
            return False
        pairs = zip(self.probe_vectors, other.probe_vectors, strict=True)
        return all(math.dist(a, b) <= 0.01 * math.hypot(*a) for a, b in pairs)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {
            **asdict(self),
            "probes": list(self.probes),
            "probe_vectors": [list(vector) for vector in self.probe_vectors],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> EncoderIdentity:
        """Rebuild from `to_dict`; an address in the name, as version 0.1.0 wrote it, is dropped.

        Raises:
            EncoderError: a key is missing, unknown, of the wrong type or out of bounds.
        """
        try:
            _SCHEMA(value, "the identity")
        except SchemaError as error:
            raise EncoderError(
                f"The encoder's identity cannot be read: {error}.", "Restore the file that it was read from."
            ) from error
        probes, vectors = tuple(value["probes"]), tuple(tuple(map(float, v)) for v in value["probe_vectors"])
        return cls(**{**value, "name": without_address(value["name"]), "probes": probes, "probe_vectors": vectors})

    def check(self, encoder: _Encodes, tolerance: float = 0.999) -> float:
        """Let an encoder embed the probes again.

        Args:
            encoder: anything with `encode(texts)`.
            tolerance: least cosine; lower it for stores of int8 or bf16 vectors.

        Returns:
            The least cosine over the three probes.

        Raises:
            EncoderMismatchError: another dimension, a cosine below `tolerance`, or lengths that differ by more than 2%.
        """
        import numpy as np

        found = np.asarray(encoder.encode(list(self.probes)), dtype=np.float64)
        known = np.asarray(self.probe_vectors, dtype=np.float64)
        if found.shape != known.shape:
            raise EncoderMismatchError(
                f"The encoder makes vectors of {found.shape[-1]} dimensions, {self.name!r} made {self.dimension}.",
                f"Use the encoder {self.name!r}, or a checkpoint made for yours.",
            )
        lengths = np.linalg.norm(found, axis=1), np.linalg.norm(known, axis=1)
        cosine = float(np.min(np.sum(found * known, axis=1) / np.maximum(lengths[0] * lengths[1], 1e-12)))
        if not cosine >= tolerance:
            raise EncoderMismatchError(
                f"The encoder embeds the probe texts with cosine {cosine:.4f} to those of {self.name!r}, "
                f"below {tolerance}.",
                f"Use {self.name!r} with revision {self.revision or 'unknown'} and prompt {self.prompt!r}.",
            )
        if np.max(np.abs(lengths[0] / np.maximum(lengths[1], 1e-12) - 1)) > 0.02:
            raise EncoderMismatchError(
                f"The encoder's vectors have length {lengths[0].mean():.3f}, those of {self.name!r} "
                f"{lengths[1].mean():.3f}.",
                f"Switch normalisation {'on' if self.normalised else 'off'}.",
            )
        return cosine


def make_identity(encoder: _Encodes, name: str, revision: str = "", prompt: str = "") -> EncoderIdentity:
    """Embed the probes and note what came out; whether vectors are normalised is measured, not believed.

    Args:
        encoder: anything with `encode(texts)`.
        name: the name under which `load_encoder` finds it.
        revision: see `EncoderIdentity`.
        prompt: see `EncoderIdentity`.
    """
    import numpy as np

    vectors = np.asarray(encoder.encode(list(PROBES)), dtype=np.float64)
    normalised = bool(np.all(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.01))
    return EncoderIdentity(
        name=name,
        revision=revision,
        prompt=prompt,
        normalised=normalised,
        dimension=vectors.shape[1],
        probes=PROBES,
        probe_vectors=tuple(tuple(round(float(x), 6) for x in vector) for vector in vectors),
    )
