"""Writing shards: texts are tokenised, truncated, decoded back and embedded once, then kept on disk.

Contents: `write_shards`, `ShardWriter`. The format is in `manifest.py`.

A shard is written under temporary names and enters the manifest when it is whole, with the sha256 of each file.
An interrupted run continues after the last whole shard, and takes what `unfinished.py` kept of the next. At most one
shard is in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unembed.data.hub_datasets import DatasetStream
from unembed.data.manifest import MANIFEST, PARTS, Manifest, ShardEntry, part_path, verify_shards
from unembed.data.rereading import skip_texts
from unembed.data.tokenization import Tokenizer
from unembed.data.unfinished import UNFINISHED, Piece
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError
from unembed.files import (
    LOCK,
    PRIVATE,
    Lock,
    atomic_path,
    make_folder,
    read_json,
    remove_parts,
    sha256_file,
    write_json,
)

if TYPE_CHECKING:
    import numpy as np

_MAX_SOURCES = 65536
_PLACE = "stream.json"


class ShardWriter:
    """Writes whole shards into a folder and keeps its manifest; it embeds nothing.

    Args:
        out: the folder; made where absent.
        identity: the encoder of the vectors.
        tokenizer: the tokenizer of the tokens.
        max_length: greatest number of tokens of a text.
        shard_size: texts of a whole shard.
        dtype: "float16" or "float32".

    Raises:
        DataError: an option that makes no sense, or a folder that holds shards made in another way.
    """

    def __init__(
        self,
        out: str | Path,
        identity: EncoderIdentity,
        tokenizer: Tokenizer,
        max_length: int = 32,
        shard_size: int = 65536,
        dtype: str = "float16",
    ) -> None:
        """Open the folder, or continue with the shards that it holds."""
        if dtype not in ("float16", "float32"):
            raise DataError(f"Vectors cannot be kept as {dtype!r}.", "Choose float16 or float32.")
        if not 1 <= max_length <= 65535 or shard_size < 1:
            raise DataError(
                f"Limit {max_length} or shard size {shard_size} is out of range.", "Choose positive numbers."
            )
        self.folder = Path(out)
        fresh = Manifest(
            identity=identity.to_dict(),
            tokenizer_sha256=tokenizer.sha256,
            limit=max_length,
            vocabulary=tokenizer.size,
            pad_id=tokenizer.pad_id,
            dtype=dtype,
            shard_size=shard_size,
        )
        self.manifest = fresh
        if (self.folder / MANIFEST).exists():
            self.manifest = Manifest.load(self.folder)
            for key in ("tokenizer_sha256", "limit", "vocabulary", "pad_id", "dtype", "shard_size"):
                found, wanted = getattr(self.manifest, key), getattr(fresh, key)
                if found != wanted:
                    raise DataError(
                        f"{self.folder} holds shards with {key} {found}, not {wanted}.", "Choose another folder."
                    )
            known = EncoderIdentity.from_dict(self.manifest.identity)
            if (known.name, known.revision, known.prompt) != (identity.name, identity.revision, identity.prompt):
                raise DataError(
                    f"{self.folder} holds vectors of encoder {known.name!r} with another revision or prompt, "
                    f"or not of {identity.name!r}.",
                    "Choose another folder.",
                )
            if not known.same_vectors(identity):
                raise DataError(
                    f"{self.folder} holds vectors that another encoder of the name {known.name!r} made.",
                    "Restore that encoder, or choose another folder.",
                )
        pieces = [part_path(self.folder, len(self.manifest.shards), part).name for part in PARTS]
        remove_parts(self.folder, MANIFEST, _PLACE, UNFINISHED, *pieces)

    def add(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        vectors: np.ndarray,
        sources: Sequence[str],
        read: int | None = None,
        digest: str = "",
    ) -> None:
        """Write one whole shard.

        Args:
            tokens: (t,) ids of all texts, one after the other.
            lengths: (n,) tokens of each text, 1 to limit.
            vectors: (n, d) finite floats.
            sources: n names.
            read: texts read for it, dropped ones included; default n.
            digest: of the texts read, so that resuming notices other texts.

        Raises:
            DataError: parts that do not fit together, ids outside the vocabulary, NaN, or a full disk.
        """
        import numpy as np

        manifest, shard = self.manifest, len(self.manifest.shards)
        lengths, n = np.asarray(lengths), len(lengths)
        with np.errstate(over="ignore"):  # an overflow is found below
            small = np.asarray(vectors).astype(manifest.dtype, copy=False)
        if n == 0 or vectors.shape != (n, manifest.identity["dimension"]) or len(sources) != n:
            raise DataError(
                f"Shard {shard} has {n} lengths, vectors {vectors.shape}.", "Give one of each for every text."
            )
        if lengths.min() < 1 or lengths.max() > manifest.limit or int(lengths.sum(dtype=np.int64)) != len(tokens):
            raise DataError(f"Shard {shard} has lengths that do not fit its tokens or the limit.", "Tokenise again.")
        if int(tokens.min()) < 0 or int(tokens.max()) >= manifest.vocabulary:
            raise DataError(f"Shard {shard} has ids outside the vocabulary.", "Use the encoder's own tokenizer.")
        if not np.isfinite(small).all():
            raise DataError(
                f"Shard {shard} has vectors that are not finite as {manifest.dtype}.", "Use float32, or drop the texts."
            )
        index = {name: k for k, name in enumerate(manifest.sources)}
        for name in sources:
            index.setdefault(name, len(index))
        if len(index) > _MAX_SOURCES:
            raise DataError(f"There are more than {_MAX_SOURCES} sources.", "Choose a coarser source column.")
        numbers = np.array([index[name] for name in sources], dtype=np.uint16)
        arrays = {
            "tokens": np.asarray(tokens, dtype=np.uint16 if manifest.vocabulary <= 65536 else np.int32),
            "lengths": lengths.astype(np.uint8 if manifest.limit <= 255 else np.uint16),
            "vectors": small,
            "sources": numbers,
        }
        hashes = {}
        for part, array in arrays.items():
            path = part_path(self.folder, shard, part)
            with atomic_path(path, PRIVATE) as temporary, open(temporary, "wb") as stream:
                np.save(stream, array, allow_pickle=False)
            hashes[part] = sha256_file(path)
        counts = np.bincount(numbers, minlength=len(index))
        manifest.counts = [int(c) for c in counts + np.pad(manifest.counts, (0, len(index) - len(manifest.counts)))]
        manifest.sources = list(index)
        read = n if read is None else read
        manifest.dropped += read - n
        manifest.shards.append(ShardEntry(n=n, tokens=len(tokens), read=read, digest=digest, sha256=hashes))
        manifest.save(self.folder)

    def finish(self, dropped: int = 0) -> Manifest:
        """Note that all texts were read; `dropped` texts after the last shard were not kept."""
        self.manifest.complete = True
        self.manifest.dropped += dropped
        self.manifest.save(self.folder)
        return self.manifest


def write_shards(
    out: str | Path,
    texts: Iterable[tuple[str, str]],
    encoder: Encoder,
    tokenizer: Tokenizer,
    max_length: int = 32,
    shard_size: int = 65536,
    dtype: str = "float16",
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Tokenise, truncate, decode back and embed texts into shards; continues where an earlier call stopped.

    Args:
        out: folder of the shards.
        texts: (text, source) pairs, the same in the same order when a call continues with an earlier one; a
            `DatasetStream` continues there at once, anything else is read again from its beginning and compared.
        encoder: embeds the truncated texts.
        tokenizer: the encoder's own.
        max_length: greatest number of tokens of a text.
        shard_size: texts a shard; also bounds the memory (float16, 384 dimensions: 53 MB for 65,536).
        dtype: of the vectors on disk.
        progress: called with the number of texts kept so far, after each chunk.

    Returns:
        The finished manifest.

    Raises:
        DataError: the folder holds other or damaged shards, the texts differ from those of the earlier call, or no
            text is left.
        InputError: another call is writing into the folder.
    """
    with Lock(make_folder(out, private=True) / LOCK, out):
        writer = ShardWriter(out, encoder.identity, tokenizer, max_length, shard_size, dtype)
        return _fill(writer, texts, encoder, tokenizer, progress)


def _fill(
    writer: ShardWriter,
    texts: Iterable[tuple[str, str]],
    encoder: Encoder,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None,
) -> Manifest:
    """Write the shards that are not there yet."""
    import numpy as np

    manifest = writer.manifest
    max_length, shard_size, dtype = manifest.limit, manifest.shard_size, manifest.dtype
    verify_shards(writer.folder, manifest)
    at_once = isinstance(texts, DatasetStream) and _restore(texts, writer)
    stream = iter(texts)
    for k, shard in enumerate([] if at_once else manifest.shards):
        skip_texts(stream, shard.read, shard.digest, f"shard {k} of {writer.folder}")
    tell = progress or (lambda count: None)
    tell(manifest.n)
    if manifest.complete:
        return manifest
    while True:
        piece = Piece(len(manifest.shards), shard_size, encoder.dimension, dtype)
        piece.take(writer.folder, stream)
        try:
            piece.fill(stream, encoder, tokenizer, max_length, lambda count: tell(manifest.n + count))
        except BaseException:
            piece.keep(writer.folder)
            raise
        ids = piece.ids
        if not ids:
            if not manifest.shards:
                raise DataError("No text is left to embed.", "Check the files, the column and the excluded sources.")
            return writer.finish(dropped=piece.read)
        flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64)
        lengths, digest = np.array([len(row) for row in ids]), piece.digest.hexdigest()
        writer.add(flat, lengths, piece.vectors[: len(ids)], piece.sources, piece.read, digest)
        (writer.folder / UNFINISHED).unlink(missing_ok=True)
        if isinstance(texts, DatasetStream):
            write_json(writer.folder / _PLACE, {"shards": len(manifest.shards), "state": texts.state()}, PRIVATE)


def _restore(texts: DatasetStream, writer: ShardWriter) -> bool:
    """Let a stream continue after the last whole shard, where that place was kept."""
    path = writer.folder / _PLACE
    if not writer.manifest.shards or not path.is_file():
        return False
    try:
        kept = read_json(path)
        if kept["shards"] != len(writer.manifest.shards):  # ended between the shard and its place
            return False
        texts.restore(kept["state"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged.", "Remove it: the texts are then read from their beginning.") from error
    return True
