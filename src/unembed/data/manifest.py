"""What a folder of shards holds: `manifest.json` and the names of its files.

Contents: `Manifest`, `ShardEntry`, `part_path`, `verify_shards`, `PARTS`.

A folder holds `manifest.json` and, for shard k of n texts with t tokens in all,

    shard-0000k.tokens.npy    (t,) uint16 or int32: ids of all texts, one after the other
    shard-0000k.lengths.npy   (n,) uint8 or uint16: tokens of each text
    shard-0000k.vectors.npy   (n, d) float16 or float32: what the encoder made of exactly these tokens
    shard-0000k.sources.npy   (n,) uint16: index into the manifest's list of sources
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from unembed.encoders.identity import EncoderIdentity
from unembed.errors import DataError, EncoderError
from unembed.files import PRIVATE, read_json, sha256_file, write_json

FORMAT = 1
PARTS = ("tokens", "lengths", "vectors", "sources")
MANIFEST = "manifest.json"


@dataclass
class ShardEntry:
    """One whole shard: texts `n`, tokens `tokens`, texts read for it (also dropped ones), sha256 of each part.

    A part without a sha256 is not verified.
    """

    n: int
    tokens: int
    read: int
    digest: str
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass
class Manifest:
    """What a folder of shards holds and how it was made.

    Attributes:
        identity: the encoder, as `EncoderIdentity.to_dict`.
        tokenizer_sha256: `Tokenizer.sha256`.
        limit: greatest number of tokens of a text.
        vocabulary: `Tokenizer.size`.
        pad_id: what fills the rows that the reader pads.
        dtype: of the vectors, "float16" or "float32".
        shard_size: texts of a whole shard.
        complete: whether all texts were read.
        sources: names; `sources.npy` holds indices into it.
        counts: texts kept of each source.
        dropped: texts that were empty or held special or unknown tokens.
        shards: the whole shards, in order.
    """

    identity: dict[str, Any]
    tokenizer_sha256: str
    limit: int
    vocabulary: int
    pad_id: int
    dtype: str
    shard_size: int
    complete: bool = False
    sources: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    dropped: int = 0
    shards: list[ShardEntry] = field(default_factory=list)
    format: int = FORMAT

    @property
    def n(self) -> int:
        """Texts in all shards."""
        return sum(shard.n for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """A digest of what the shards hold, by their sha256; "" where one of them has none."""
        parts = [shard.sha256.get(part, "") for shard in self.shards for part in PARTS]
        return hashlib.sha256("".join(parts).encode()).hexdigest() if all(parts) else ""

    def save(self, folder: Path) -> None:
        """Write `manifest.json`, atomically."""
        value = asdict(self)
        write_json(folder / MANIFEST, {"format": value.pop("format"), "texts": self.n, **value}, PRIVATE)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `manifest.json`.

        Raises:
            DataError: absent, damaged or of another format version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            what = (
                f"{folder} holds no shards: it has no {MANIFEST}" if folder.exists() else f"There is no folder {folder}"
            )
            raise DataError(
                f"{what}.", "Make shards with `unembed embed`, or packs with `unembed pack`, and name those."
            )
        value = read_json(path)
        try:
            if value["format"] != FORMAT:
                raise DataError(
                    f"{path} has format {value['format']}, this version reads {FORMAT}.", "Embed the texts again."
                )
            known = {f.name: value[f.name] for f in fields(cls)}
            known["shards"] = [ShardEntry(**entry) for entry in value["shards"]]
            known["identity"] = EncoderIdentity.from_dict(known["identity"]).to_dict()
            counts = [
                known["dropped"],
                *known["counts"],
                *(n for e in known["shards"] for n in (e.n, e.tokens, e.read)),
            ]
            if any(type(count) is not int or count < 0 for count in counts):
                raise TypeError("a count is not a whole number")
            return cls(**known)
        except (KeyError, TypeError, EncoderError) as error:
            raise DataError(f"{path} is damaged ({error}).", "Embed the texts again.") from error


def part_path(folder: Path, shard: int, part: str) -> Path:
    """Path of one part of one shard."""
    return folder / f"shard-{shard:05d}.{part}.npy"


def verify_shards(folder: Path, manifest: Manifest, progress: Callable[[int], None] | None = None) -> None:
    """Compare every file with the sha256 that the manifest gives it; about a second a gigabyte.

    Args:
        folder: of the shards.
        manifest: of the folder.
        progress: called with the number of shards checked.

    Raises:
        DataError: a file that is missing or changed; the message names shard and file.
    """
    for k, entry in enumerate(manifest.shards):
        for part in PARTS:
            path = part_path(folder, k, part)
            known = entry.sha256.get(part)
            if not path.is_file() or (known is not None and sha256_file(path) != known):
                raise DataError(
                    f"Shard {k} of {folder} is damaged: {path.name} has another sha256 than the manifest.",
                    "Copy it again, or embed the texts again into an empty folder.",
                )
        if progress:
            progress(k + 1)
