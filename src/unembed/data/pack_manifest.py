"""What a folder of packed texts holds: `pack.json` and the names of its files.

Contents: `PackManifest`, `PackPart`, `EncoderFile`, `is_pack`.

A pack is a corpus that travels: token ids and the encoder that makes vectors of them, but no vectors. A folder holds

    pack.json         written last; while texts are still being packed it is pack.partial.json
    tokenizer.json    of the encoder
    encoder.xz        its weights as bf16 (may be absent): the upper bytes of all of them, then the lower ones
    part-0000k.xz     three xz streams, one after the other, of n texts with t tokens in all:
                      (n,) uint8 or uint16: tokens of each text
                      (t,) uint16 or int32: ids of all texts, one after the other
                      (n,) uint16: index into the manifest's sources

Numbers are little-endian. `pack.json` holds the sha256 of the other files and of itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from unembed.encoders.identity import EncoderIdentity
from unembed.errors import DataError, EncoderError
from unembed.files import PRIVATE, read_json, write_json

VERSION = 1
PACK, PARTIAL, TOKENIZER, ENCODER = "pack.json", "pack.partial.json", "tokenizer.json", "encoder.xz"
_KIND = "unembed pack"
_AGAIN = "Copy it again, or pack the texts again into an empty folder."


@dataclass
class PackPart:
    """One part: `n` texts with `tokens` tokens, `read` texts read for it, their `digest`, and the file's sha256."""

    n: int
    tokens: int
    read: int
    digest: str
    sha256: str


@dataclass
class EncoderFile:
    """The encoder's file: settings of `BertOnIds`, shapes of the tensors in the order of the file, and its sha256."""

    config: dict[str, Any]
    shapes: dict[str, list[int]]
    sha256: str


@dataclass
class PackManifest:
    """What a pack holds and how it was made.

    Attributes:
        identity: the encoder, as `EncoderIdentity.to_dict`.
        tokenizer_sha256: `Tokenizer.sha256`, which is the sha256 of `tokenizer.json`.
        limit: greatest number of tokens of a text.
        vocabulary: `Tokenizer.size`.
        encoder: its file, or None where it was left out.
        sources: texts of each source; the parts hold indices into its order.
        parts: the whole parts, in order.
        rest: texts read after the last part, all of them dropped, and their digest.
    """

    identity: dict[str, Any]
    tokenizer_sha256: str
    limit: int
    vocabulary: int
    encoder: EncoderFile | None = None
    sources: dict[str, int] = field(default_factory=dict)
    parts: list[PackPart] = field(default_factory=list)
    rest: tuple[int, str] = (0, "")

    @property
    def n(self) -> int:
        """Texts in all parts."""
        return sum(part.n for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens in all parts."""
        return sum(part.tokens for part in self.parts)

    @property
    def dropped(self) -> int:
        """Texts that were empty or held special or unknown tokens."""
        return sum(part.read - part.n for part in self.parts) + self.rest[0]

    @property
    def fingerprint(self) -> str:
        """A digest of the texts that the pack holds, their tokenizer and their limit, whatever the folder is called."""
        content = [self.tokenizer_sha256, str(self.limit), *(part.sha256 for part in self.parts), *self.sources]
        return hashlib.sha256("\n".join(content).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def token_type(self) -> str:
        """numpy's name of the type of the ids."""
        return "<u2" if self.vocabulary <= 1 << 16 else "<i4"

    @property
    def length_type(self) -> str:
        """numpy's name of the type of the lengths."""
        return "<u1" if self.limit < 1 << 8 else "<u2"

    def save(self, folder: Path, name: str = PACK) -> None:
        """Write it, atomically, with its own digest."""
        value = {"format": _KIND, "version": VERSION, "texts": self.n, "tokens": self.tokens, "dropped": self.dropped}
        value |= asdict(self)
        write_json(folder / name, {**value, "sha256": _digest(value)}, PRIVATE)

    @classmethod
    def load(cls, folder: Path, name: str = PACK) -> PackManifest:
        """Read it.

        Raises:
            DataError: absent, unfinished, damaged or of another version.
        """
        path = folder / name
        if not path.is_file():
            if (folder / PARTIAL).is_file():
                raise DataError(
                    f"The pack in {folder} is not finished.", "Continue with the same `unembed pack` command."
                )
            raise DataError(f"{folder} holds no pack: it has no {name}.", "Make it with `unembed pack`.")
        value = read_json(path)
        if not isinstance(value, dict) or value.get("format") != _KIND:
            raise DataError(f"{path} does not describe a pack.", _AGAIN)
        if value.get("version") != VERSION:
            raise DataError(
                f"{path} has version {value.get('version')}, this unembed reads {VERSION}.",
                "Pack the texts again, or use the unembed that made it.",
            )
        if value.pop("sha256", None) != _digest(value):
            raise DataError(f"{path} was altered: its digest is another.", _AGAIN)
        try:
            known = {f.name: value[f.name] for f in fields(cls)}
            known["parts"] = [PackPart(**part) for part in known["parts"]]
            known["encoder"] = EncoderFile(**known["encoder"]) if known["encoder"] else None
            known["rest"] = tuple(known["rest"])
            known["identity"] = EncoderIdentity.from_dict(known["identity"]).to_dict()
            return cls(**known)
        except (KeyError, TypeError, EncoderError) as error:
            raise DataError(f"{path} is damaged ({error}).", _AGAIN) from error


def is_pack(path: str | Path) -> bool:
    """Whether a folder holds a pack, finished or not; `read_pack` refuses one that is not."""
    return any((Path(path) / name).is_file() for name in (PACK, PARTIAL))


def part_path(folder: Path, k: int) -> Path:
    """Path of one part."""
    return folder / f"part-{k:05d}.xz"


def read_checked(path: Path, sha256: str) -> bytes:
    """Read a file of a pack and compare its sha256.

    Raises:
        DataError: it is missing, truncated or altered.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", _AGAIN) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path} is damaged: it has another sha256 than {PACK} says.", _AGAIN)
    return data


def _digest(value: dict[str, Any]) -> str:
    """A digest of JSON values and of the order of their keys, which is that of the sources; white space aside."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
