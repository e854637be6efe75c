"""Packing texts: they are tokenised and cut once, and written in whole parts; the encoder goes beside them.

Contents: `write_pack`. The format is in `pack_manifest.py`.

A part enters `pack.partial.json` when it is whole; at the end that file becomes `pack.json`. An interrupted call goes
on after the last whole part, and compares the texts before it with those that it was made from.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from unembed.data.pack_manifest import (
    ENCODER,
    PACK,
    PARTIAL,
    TOKENIZER,
    EncoderFile,
    PackManifest,
    PackPart,
    part_path,
    read_checked,
)
from unembed.data.rereading import add_texts, skip_texts
from unembed.data.tokenization import Tokenizer
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError
from unembed.files import LOCK, PRIVATE, Lock, atomic_write_bytes, make_folder, remove_parts, unless_refused

if TYPE_CHECKING:
    import numpy as np

    from unembed.encoders.bert import BertOnIds

PART_SIZE = 1 << 18
"""Texts of a whole part: about 5.5 MB. Half of it packs 3% worse, because there is less to repeat."""

_CHUNK = 4096
_MAX_SOURCES = 1 << 16


def write_pack(
    out: str | Path,
    texts: Iterable[tuple[str, str]],
    encoder: Encoder,
    tokenizer: Tokenizer,
    max_length: int = 32,
    with_encoder: bool = True,
    part_size: int = PART_SIZE,
    progress: Callable[[int], None] | None = None,
) -> PackManifest:
    """Tokenise and cut texts into a pack; continues where an earlier call stopped, and does nothing that is done.

    Args:
        out: folder of the pack; absent, empty, or of an earlier call.
        texts: (text, source) pairs, the same in the same order when a call continues with an earlier one.
        encoder: whose vectors the texts will get.
        tokenizer: the encoder's own.
        max_length: greatest number of tokens of a text.
        with_encoder: write the encoder too; it must be a BERT (`BertOnIds.from_encoder`).
        part_size: texts a part; also bounds the memory.
        progress: called with the number of texts read so far, after each chunk.

    Returns:
        The finished manifest.

    Raises:
        DataError: the folder holds something else or another pack, the texts differ from those of the earlier call, or
            no text is left.
        EncoderError: the encoder is not a BERT, and `with_encoder`.
        InputError: another call is writing into the folder.
    """
    if not 1 <= max_length <= 65535 or part_size < 1:
        raise DataError(f"Limit {max_length} or part size {part_size} is out of range.", "Choose positive numbers.")
    folder = Path(out)
    fresh = PackManifest(encoder.identity.to_dict(), tokenizer.sha256, max_length, tokenizer.size)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} holds something other than a pack.", "Choose a folder that is empty or absent.")
    with unless_refused(folder), Lock(make_folder(folder, private=True) / LOCK, folder):
        return _fill(folder, texts, encoder, tokenizer, fresh, with_encoder, part_size, progress)


def _fill(
    folder: Path,
    texts: Iterable[tuple[str, str]],
    encoder: Encoder,
    tokenizer: Tokenizer,
    fresh: PackManifest,
    with_encoder: bool,
    part_size: int,
    progress: Callable[[int], None] | None,
) -> PackManifest:
    """Write the parts that are not there yet."""
    from unembed.encoders.bert import BertOnIds

    manifest, finished = _open(folder, fresh, with_encoder)
    max_length = fresh.limit
    stream, read = iter(texts), 0
    for k, part in enumerate(manifest.parts):
        skip_texts(stream, part.read, part.digest, f"part {k} of {folder}")
        read += part.read
        if progress:
            progress(read)
    if finished:
        skip_texts(stream, *manifest.rest, f"{folder}")
        if next(stream, None) is not None:
            raise DataError(
                f"{folder} is a finished pack of the first {read + manifest.rest[0]} of these texts.",
                "Pack the others into another folder; several folders can be read together.",
            )
        return manifest
    if not manifest.parts:
        network = BertOnIds.from_encoder(encoder) if with_encoder else None  # refused before anything is written
        if network is not None and max_length > network.longest:
            raise DataError(
                f"The limit is {max_length} tokens, the encoder {encoder.name!r} reads {network.longest}.",
                "Choose a lower limit.",
            )
        head = list(itertools.islice(stream, 1))  # a missing file of texts is found here
        stream = itertools.chain(head, stream)
        manifest.save(folder, PARTIAL)  # from here on the folder is ours
        atomic_write_bytes(folder / TOKENIZER, tokenizer.to_json().encode(), PRIVATE)
        if network is not None:
            manifest.encoder = _write_encoder(folder / ENCODER, network, encoder.identity, tokenizer)
    while True:
        part = _write_part(stream, manifest, folder, tokenizer, part_size, progress, read)
        read += part.read
        if not part.n:
            manifest.rest = (part.read, part.digest)
            break
        manifest.parts.append(part)
        manifest.save(folder, PARTIAL)
    if not manifest.parts:
        raise DataError("No text is left to pack.", "Check the files, the column and the excluded sources.")
    manifest.save(folder)
    (folder / PARTIAL).unlink()
    return manifest


def _open(folder: Path, fresh: PackManifest, with_encoder: bool) -> tuple[PackManifest, bool]:
    """The manifest to continue with, and whether the pack is finished; all files that it names are checked."""
    remove_parts(folder, PARTIAL)
    finished = (folder / PACK).is_file()
    if finished:
        (folder / PARTIAL).unlink(missing_ok=True)  # killed between the last two steps
    if not finished and not (folder / PARTIAL).is_file():
        if any(path.name != LOCK for path in folder.iterdir()):
            raise DataError(f"{folder} holds something other than a pack.", "Choose a folder that is empty or absent.")
        return fresh, False
    manifest = PackManifest.load(folder, PACK if finished else PARTIAL)
    for what, known, wanted in (
        *(
            (f"the encoder's {key}", manifest.identity[key], fresh.identity[key])
            for key in ("name", "revision", "prompt")
        ),
        ("the limit", manifest.limit, fresh.limit),
        ("the tokenizer", manifest.tokenizer_sha256, fresh.tokenizer_sha256),
    ):
        if known != wanted:
            raise DataError(f"{folder} holds a pack with {what} {known!r}, not {wanted!r}.", "Choose another folder.")
    one, two = (EncoderIdentity.from_dict(part.identity) for part in (manifest, fresh))
    if not one.same_vectors(two):
        raise DataError(
            f"{folder} holds a pack for vectors that another encoder of the name {one.name!r} made.",
            "Restore that encoder, or choose another folder.",
        )
    remove_parts(folder, PACK, PARTIAL, TOKENIZER, ENCODER, part_path(folder, len(manifest.parts)).name)
    if not manifest.parts and not finished:
        return fresh, False
    if (manifest.encoder is not None) != with_encoder:
        raise DataError(
            f"{folder} holds a pack {'without' if with_encoder else 'with'} the encoder.", "Choose another folder."
        )
    read_checked(folder / TOKENIZER, manifest.tokenizer_sha256)
    if manifest.encoder is not None:
        read_checked(folder / ENCODER, manifest.encoder.sha256)
    for k, part in enumerate(manifest.parts):
        read_checked(part_path(folder, k), part.sha256)
    return manifest, finished


def _write_part(
    stream: Iterator[tuple[str, str]],
    manifest: PackManifest,
    folder: Path,
    tokenizer: Tokenizer,
    size: int,
    progress: Callable[[int], None] | None,
    before: int,
) -> PackPart:
    """Read texts until `size` of them are kept or none is left, and write these; sources are counted."""
    import numpy as np

    lengths: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    sources: list[np.ndarray] = []
    n, read, digest = 0, 0, hashlib.sha256()
    index = {name: k for k, name in enumerate(manifest.sources)}
    while n < size:
        chunk = list(itertools.islice(stream, min(_CHUNK, size - n)))
        if not chunk:
            break
        read += len(chunk)
        add_texts(digest, chunk)
        cut = tokenizer.truncate([text for text, _ in chunk], manifest.limit)
        kept = [(c.ids, _valid(source)) for c, (_, source) in zip(cut, chunk, strict=True) if c is not None]
        n += len(kept)
        lengths.append(np.array([len(ids) for ids, _ in kept], dtype=manifest.length_type))
        flat = itertools.chain.from_iterable(ids for ids, _ in kept)
        tokens.append(np.fromiter(flat, dtype=manifest.token_type))
        for _, name in kept:
            index.setdefault(name, len(index))
        if len(index) > _MAX_SOURCES:
            raise DataError(f"There are more than {_MAX_SOURCES} sources.", "Choose a coarser source column.")
        sources.append(np.array([index[name] for _, name in kept], dtype="<u2"))
        if progress:
            progress(before + read)
    part = PackPart(n=n, tokens=sum(map(len, tokens)), read=read, digest=digest.hexdigest(), sha256="")
    if not n:
        return part
    arrays = [np.concatenate(pieces) for pieces in (lengths, tokens, sources)]
    data = b"".join(map(_packed, arrays))
    atomic_write_bytes(part_path(folder, len(manifest.parts)), data, PRIVATE)
    part.sha256 = hashlib.sha256(data).hexdigest()
    counts = np.bincount(arrays[2], minlength=len(index)).tolist()
    manifest.sources = {name: manifest.sources.get(name, 0) + counts[k] for name, k in index.items()}
    return part


def _valid(source: str) -> str:
    """The name of a source as UTF-8 can hold it: JSON lets half a character through."""
    return source if source.isascii() else source.encode("utf-8", "replace").decode()


def _packed(array: np.ndarray) -> bytes:
    """One xz stream; the model of its literals looks at the place of a byte within a number.

    Measured on 5.0 million tokens (a shard of 250,000 lines), seconds of one core and MiB: preset 1 4.9 s, 6.03;
    preset 6 11.3 s, 5.31; with the place of a byte 13 s, 5.26; with preset 9, or with ids renumbered by their
    frequency, no more than 1% less; as two byte planes 6.75.
    """
    places = array.dtype.itemsize.bit_length() - 1  # 2 bytes: 1 bit, 4 bytes: 2 bits
    options = {"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3 if places < 2 else 2, "lp": places, "pb": places}
    return lzma.compress(array.tobytes(), format=lzma.FORMAT_XZ, filters=[options])


def _write_encoder(path: Path, network: BertOnIds, identity: EncoderIdentity, tokenizer: Tokenizer) -> EncoderFile:
    """Write the encoder's weights as bf16, and check that they still make its vectors."""
    import torch

    from unembed.encoders.bert import BertOnIds, check_probes

    state = {name: tensor.to(torch.bfloat16) for name, tensor in network.state().items()}
    check_probes(BertOnIds.build(network.config(), state), identity, tokenizer.encode)
    raw = torch.cat([tensor.reshape(-1) for tensor in state.values()]).view(torch.uint8).numpy()
    # sign and exponent first: few of these bytes are common (22 MiB of MiniLM's become 8.9 in 2 s, with preset 1 8.7 in
    # 4 s, with preset 6 7.8 in a minute); the mantissas after them do not shrink, and a short search finds that sooner
    quick = {"id": lzma.FILTER_LZMA2, "preset": 0, "mf": lzma.MF_HC4, "nice_len": 4, "depth": 1, "dict_size": 4096}
    data = b"".join(lzma.compress(raw[start::2].tobytes(), filters=[quick]) for start in (1, 0))
    atomic_write_bytes(path, data, PRIVATE)
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    return EncoderFile(network.config(), shapes, hashlib.sha256(data).hexdigest())
