"""Packed texts: token ids of a whole corpus in memory, and the encoder that makes their vectors.

Contents: `Pack`, `read_pack`, `check_encoder`, and from their own files `is_pack`, `write_pack`, `PackManifest`.

Shards (`shards.py`) keep a vector for every text, 0.8 GB a million; a pack keeps none, 22 MB a million, and so it can
be sent to another machine, where `Pack.encoder` makes the vectors in the training loop. Reading needs numpy, torch and
tokenizers alone.
"""

from __future__ import annotations

import io
import lzma
import math
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unembed.data.pack_manifest import (
    ENCODER,
    TOKENIZER,
    EncoderFile,
    PackManifest,
    PackPart,
    is_pack,
    part_path,
    read_checked,
)
from unembed.data.pack_writer import write_pack
from unembed.data.tokenization import Tokenizer
from unembed.encoders.identity import EncoderIdentity
from unembed.errors import DataError, EncoderError, EncoderMismatchError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from unembed.encoders.bert import BertOnIds

__all__ = ["Pack", "PackManifest", "check_encoder", "is_pack", "read_pack", "write_pack"]

_THREADS = 8  # lzma lets go of the interpreter's lock
_AGAIN = "Copy it again, or pack the texts again into an empty folder."


@dataclass(frozen=True, eq=False)
class Pack:
    """N texts of one or several folders, T tokens in all, V ids.

    Attributes:
        tokens: (T,) uint16 or int32, ids of all texts, one after the other.
        lengths: (N,) int64, tokens of each text, 1 to `max_length`.
        starts: (N,) int64, where each text begins in `tokens`.
        sources: (N,) uint16, index into `source_names`.
        source_names: the sources of all folders.
        tokenizer: of the ids.
        identity: of the encoder.
        max_length: greatest number of tokens of a text.
        fingerprints: a digest of the content of each folder, in the order in which they were given.
        parts_of: (N,) int16, the folder of each text.
        continues: (V,) bool, tokens that continue the word of the token before them, so that a crop should not begin
            with them.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    sources: np.ndarray
    source_names: list[str]
    tokenizer: Tokenizer
    identity: EncoderIdentity
    max_length: int
    fingerprints: tuple[str, ...]
    parts_of: np.ndarray
    continues: np.ndarray
    _network: BertOnIds | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    @property
    def has_encoder(self) -> bool:
        """Whether one of the folders holds the encoder."""
        return self._network is not None

    def encoder(self, device: torch.device | str, dtype: torch.dtype) -> BertOnIds:
        """Build the encoder.

        Args:
            device: where it computes.
            dtype: of its products, float32 or bfloat16; its weights were kept as bf16 in any case.

        Raises:
            DataError: no folder holds it.
        """
        from unembed.encoders.bert import BertOnIds

        if self._network is None:
            raise DataError(
                "None of the packs holds the encoder.", "Add a folder that was packed without --no-encoder."
            )
        return BertOnIds.build(self._network.config(), self._network.state()).to(device, dtype)

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fetch texts in the order of `rows`.

        Args:
            rows: (B,) integers from 0 to N - 1, in any order, repeats allowed.

        Returns:
            ids (B, longest) int64, filled up with the pad id; lengths (B,) int64.

        Raises:
            DataError: a row out of range.
        """
        import numpy as np

        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise DataError(f"A row is outside 0 to {len(self) - 1}.", "Use rows of this pack.")
        lengths = self.lengths[rows]
        columns = np.arange(int(lengths.max(initial=0)))
        real = columns < lengths[:, None]
        ids = np.full(real.shape, self.tokenizer.pad_id, dtype=np.int64)
        ids[real] = self.tokens[(self.starts[rows, None] + columns)[real]]
        return ids, lengths


def read_pack(folders: str | Path | Sequence[str | Path], exclude_sources: Collection[str] = ()) -> Pack:
    """Read folders as one corpus, and check all that is in them.

    Args:
        folders: one or several; the encoder comes from the first that holds one.
        exclude_sources: texts of these sources are left out.

    Raises:
        DataError: a folder without a finished pack, a damaged file, folders made with another encoder, tokenizer or
            limit, an encoder that does not make the vectors of its identity, or no text left.
    """
    several = [Path(f) for f in ([folders] if isinstance(folders, str | Path) else folders)]
    if not several:
        raise DataError("No pack is given.", "Name at least one folder that `unembed pack` made.")
    manifests = [PackManifest.load(folder) for folder in several]
    first = manifests[0]
    for folder, manifest in zip(several[1:], manifests[1:], strict=True):
        _check_alike(several[0], first, folder, manifest)
    for folder, manifest in zip(several, manifests, strict=True):
        text = read_checked(folder / TOKENIZER, manifest.tokenizer_sha256)
    tokenizer, identity = Tokenizer.from_json(text), EncoderIdentity.from_dict(first.identity)
    if tokenizer.size != first.vocabulary:
        raise DataError(f"The tokenizer of {several[0]} has {tokenizer.size} ids, the pack {first.vocabulary}.", _AGAIN)
    holder = next((k for k, manifest in enumerate(manifests) if manifest.encoder is not None), None)
    network = None
    if holder is not None:
        network = _read_encoder(several[holder], manifests[holder].encoder)
        check_encoder(network, identity, tokenizer)
    pack = _joined(several, manifests, tokenizer, identity, network)
    return _without(pack, exclude_sources) if exclude_sources else pack


def check_encoder(network: BertOnIds, identity: EncoderIdentity, tokenizer: Tokenizer) -> float:
    """Let a pack's encoder embed the probe texts of its identity.

    Args:
        network: on any device, in any precision.
        identity: of the pack.
        tokenizer: of the pack.

    Returns:
        The least cosine.

    Raises:
        DataError: it makes other vectors: a cosine below 0.999, or another length.
    """
    from unembed.encoders.bert import check_probes

    try:
        return check_probes(network, identity, tokenizer.encode)
    except EncoderMismatchError as error:
        raise DataError(
            f"The encoder in the pack is not the {identity.name!r} that it says it is: {error.what}",
            "Pack the texts again, or compute in fp32 where bf16 is too coarse for this encoder.",
        ) from error


def _check_alike(known: Path, first: PackManifest, folder: Path, other: PackManifest) -> None:
    """Refuse folders that do not go together."""
    one, two = (EncoderIdentity.from_dict(m.identity) for m in (first, other))
    named = [(i.name, i.revision, i.prompt, i.normalised) for i in (one, two)]
    if named[0] != named[1] or not one.same_vectors(two):  # another build of the same weights rounds anew
        raise DataError(f"The packs {known} and {folder} differ in the encoder.", "Pack both in the same way.")
    for what, a, b in (
        ("the tokenizer", first.tokenizer_sha256, other.tokenizer_sha256),
        ("the limit", first.limit, other.limit),
    ):
        if a != b:
            difference = f" ({a} and {b})" if what == "the limit" else ""
            raise DataError(
                f"The packs {known} and {folder} differ in {what}{difference}.", "Pack both in the same way."
            )


def _joined(
    folders: list[Path],
    manifests: list[PackManifest],
    tokenizer: Tokenizer,
    identity: EncoderIdentity,
    network: BertOnIds | None,
) -> Pack:
    """Unpack all parts, several at a time, each into its own place of the whole."""
    import numpy as np

    first = manifests[0]
    names: dict[str, int] = {}
    numbers = [np.array([names.setdefault(s, len(names)) for s in m.sources], dtype=np.int64) for m in manifests]
    if len(names) > 1 << 16:
        raise DataError(f"The packs have {len(names)} sources together.", "Read fewer of them at once.")
    jobs = [(k, i, part) for k, m in enumerate(manifests) for i, part in enumerate(m.parts)]
    text_ends = np.cumsum([part.n for _, _, part in jobs])
    token_ends = np.cumsum([part.tokens for _, _, part in jobs])
    n, t = (int(ends[-1]) if jobs else 0 for ends in (text_ends, token_ends))
    tokens, lengths = np.empty(t, dtype=np.dtype(first.token_type).newbyteorder("=")), np.empty(n, dtype=np.int64)
    sources, parts_of = np.empty(n, dtype=np.uint16), np.empty(n, dtype=np.int16)

    def fill(job: int) -> None:
        k, i, part = jobs[job]
        length, flat, source = _read_part(folders[k], manifests[k], i, part)
        rows = slice(text_ends[job] - part.n, text_ends[job])
        lengths[rows], sources[rows], parts_of[rows] = length, numbers[k][source], k
        tokens[token_ends[job] - part.tokens : token_ends[job]] = flat

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(fill, range(len(jobs))))
    if not n:
        raise DataError("The packs hold no text.", "Pack some texts.")
    return Pack(
        tokens=tokens,
        lengths=lengths,
        starts=lengths.cumsum() - lengths,
        sources=sources,
        source_names=list(names),
        tokenizer=tokenizer,
        identity=identity,
        max_length=first.limit,
        fingerprints=tuple(manifest.fingerprint for manifest in manifests),
        parts_of=parts_of,
        continues=_continues(tokenizer),
        _network=network,
    )


def _read_part(folder: Path, manifest: PackManifest, k: int, part: PackPart) -> tuple[np.ndarray, ...]:
    """Lengths (n,), tokens (t,) and sources (n,) of one part, checked."""
    import numpy as np

    path = part_path(folder, k)
    types = (manifest.length_type, manifest.token_type, "<u2")
    counts = (part.n, part.tokens, part.n)
    sizes = [count * np.dtype(kind).itemsize for count, kind in zip(counts, types, strict=True)]
    raw = _unpacked(path, part.sha256, sum(sizes))
    found, at = [], 0
    for count, kind, size in zip(counts, types, sizes, strict=True):
        found.append(np.frombuffer(raw, dtype=kind, count=count, offset=at))
        at += size
    lengths, tokens, sources = found
    # 0 and what is too large: a later index would read another text, or none
    bad = not part.n or int(lengths.min()) < 1 or int(lengths.max()) > manifest.limit
    if bad or int(lengths.sum(dtype=np.int64)) != part.tokens or int(sources.max()) >= len(manifest.sources):
        raise DataError(f"{path} has lengths or sources that do not fit the pack.", _AGAIN)
    if int(tokens.min()) < 0 or int(tokens.max()) >= manifest.vocabulary:
        raise DataError(f"{path} has ids outside the vocabulary.", _AGAIN)
    return lengths, tokens, sources


def _unpacked(path: Path, sha256: str, size: int) -> bytes:
    """The contents of an xz file, which must be `size` bytes; no more than that is ever unpacked."""
    data = read_checked(path, sha256)
    try:
        with lzma.LZMAFile(io.BytesIO(data)) as stream:
            raw = stream.read(size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked ({error}).", _AGAIN) from error
    if len(raw) != size:
        raise DataError(f"{path} does not hold what the pack says.", _AGAIN)
    return raw


def _read_encoder(folder: Path, file: EncoderFile | None) -> BertOnIds:
    """The encoder in a folder, on the CPU in float32."""
    import numpy as np
    import torch

    from unembed.encoders.bert import BertOnIds

    assert file is not None
    path = folder / ENCODER
    counts = {name: math.prod(shape) for name, shape in file.shapes.items()}
    planes = np.frombuffer(_unpacked(path, file.sha256, 2 * sum(counts.values())), dtype=np.uint8)
    raw = np.empty_like(planes)
    # a bf16 number is (lower byte, upper byte); the file has all upper ones first, because only those can be packed
    raw[1::2], raw[0::2] = planes[: len(planes) // 2], planes[len(planes) // 2 :]
    flat, tensors, at = torch.from_numpy(raw).view(torch.bfloat16), {}, 0
    for name, count in counts.items():
        tensors[name] = flat[at : at + count].view(file.shapes[name]).float()
        at += count
    try:
        return BertOnIds.build(file.config, tensors)
    except EncoderError as error:
        raise DataError(f"{path} holds no encoder that can be built: {error.what}", _AGAIN) from error


def _continues(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) bool: tokens that continue a word, by the mark of WordPiece, or by the missing space of the others."""
    import numpy as np

    if tokenizer.marks_spaces:
        found = [not token.startswith(("\u0120", "\u2581")) for token in tokenizer.tokens(range(tokenizer.size))]
    else:
        found = [not surface.startswith(" ") for surface in tokenizer.surfaces]
    continues = np.array(found, dtype=np.bool_)
    continues[tokenizer.banned] = False
    return continues


def _without(pack: Pack, names: Collection[str]) -> Pack:
    """The pack without the texts of some sources."""
    from dataclasses import replace

    import numpy as np

    unwanted = {names} if isinstance(names, str) else set(names)
    kept = ~np.array([name in unwanted for name in pack.source_names])[pack.sources]
    if not kept.any():
        raise DataError("No text is left in the packs.", "Leave out fewer sources.")
    lengths = pack.lengths[kept]
    return replace(
        pack,
        tokens=pack.tokens[np.repeat(kept, pack.lengths)],
        lengths=lengths,
        starts=lengths.cumsum() - lengths,
        sources=pack.sources[kept],
        parts_of=pack.parts_of[kept],
    )
