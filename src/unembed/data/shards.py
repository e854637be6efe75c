"""Shards of tokens and vectors: reading them memory-mapped, any rows in any order, nothing unpickled.

Contents: `ShardDataset`, and from their own files `write_shards`, `ShardWriter`, `Manifest`.

Vectors and tokens stay on disk and come through the page cache; in memory are 1 byte (length) and 4 bytes (where its
tokens start) a text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unembed.data.manifest import PARTS, Manifest, part_path, verify_shards
from unembed.data.shard_writer import ShardWriter, write_shards
from unembed.encoders.identity import EncoderIdentity
from unembed.errors import DataError

if TYPE_CHECKING:
    import numpy as np


__all__ = ["Manifest", "ShardDataset", "ShardWriter", "write_shards"]


class ShardDataset:
    """The texts of a folder of shards, as token ids and vectors.

    Args:
        path: folder with `manifest.json`.

    Attributes:
        manifest: what the folder holds.
        identity: the encoder that made the vectors.
        max_length: greatest number of tokens of a text.
        lengths: (n,) uint8 or uint16, tokens of each text.

    Raises:
        DataError: no shards there, or a shard that is absent or has another shape than the manifest says.
    """

    def __init__(self, path: str | Path) -> None:
        """Map all shards; nothing but lengths is read."""
        import numpy as np

        self.path = Path(path)
        self.manifest = Manifest.load(self.path)
        if not self.manifest.shards:
            raise DataError(f"{self.path} holds no whole shard.", "Continue embedding with `unembed embed`.")
        self.identity = EncoderIdentity.from_dict(self.manifest.identity)
        self.max_length = self.manifest.limit
        self._parts: list[dict[str, np.ndarray]] = []
        self._starts: list[np.ndarray] = []
        for k, entry in enumerate(self.manifest.shards):
            parts = {part: self._map(k, part) for part in PARTS}
            shapes = {
                "tokens": (entry.tokens,),
                "lengths": (entry.n,),
                "vectors": (entry.n, self.dimension),
                "sources": (entry.n,),
            }
            starts = np.zeros(entry.n + 1, dtype=np.uint32 if entry.tokens < 1 << 32 else np.uint64)
            if all(parts[part].shape == shape for part, shape in shapes.items()):
                np.cumsum(parts["lengths"], out=starts[1:], dtype=starts.dtype)
            if int(starts[-1]) != entry.tokens:
                raise DataError(
                    f"Shard {k} of {self.path} has another shape than the manifest says.", "Embed the texts again."
                )
            self._parts.append(parts)
            self._starts.append(starts)
        self._first = np.cumsum([0] + [entry.n for entry in self.manifest.shards])
        self.lengths: np.ndarray = np.concatenate([parts["lengths"] for parts in self._parts])

    def __reduce__(self) -> tuple[type[ShardDataset], tuple[Path]]:
        """Send the path, not the data, to another process."""
        return (type(self), (self.path,))

    def __len__(self) -> int:
        """Number of texts."""
        return int(self._first[-1])

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.identity.dimension

    @property
    def source_names(self) -> list[str]:
        """Names that `sources` gives indices into."""
        return self.manifest.sources

    @cached_property
    def sources(self) -> np.ndarray:
        """(n,) uint16: source of each text, as an index into `source_names`."""
        import numpy as np

        return np.concatenate([parts["sources"] for parts in self._parts])

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fetch rows in the order of `index`.

        Args:
            index: (B,) integers from 0 to len - 1, in any order, repeats allowed.

        Returns:
            ids (B, longest) int64, filled up with the pad id; lengths (B,) int64; vectors (B, d) float32.

        Raises:
            DataError: an index out of range.
        """
        import numpy as np

        index = np.asarray(index, dtype=np.int64)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise DataError(f"A row index is outside 0 to {len(self) - 1}.", "Use indices of this dataset.")
        lengths = self.lengths[index].astype(np.int64)
        width = int(lengths.max(initial=0))
        ids = np.full((len(index), width), self.manifest.pad_id, dtype=np.int64)
        vectors = np.empty((len(index), self.dimension), dtype=np.float32)
        shards = np.searchsorted(self._first, index, side="right") - 1
        columns = np.arange(width)
        for shard in np.unique(shards):
            rows = np.flatnonzero(shards == shard)
            rows = rows[np.argsort(index[rows], kind="stable")]  # reads the disk in one direction
            inside = index[rows] - self._first[shard]
            parts = self._parts[shard]
            vectors[rows] = parts["vectors"][inside]
            at = self._starts[shard][inside].astype(np.int64)[:, None] + columns
            real = columns < lengths[rows, None]
            block = ids[rows]
            block[real] = parts["tokens"][at[real]]
            ids[rows] = block
        return ids, lengths, vectors

    def ids(self, row: int) -> list[int]:
        """Token ids of one text."""
        import numpy as np

        return [int(token) for token in self.gather(np.array([row]))[0][0]]

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Check the sha256 of every file.

        Args:
            progress: called with the number of shards checked.

        Raises:
            DataError: a file that changed; the message names shard and file.
        """
        verify_shards(self.path, self.manifest, progress)

    def _map(self, shard: int, part: str) -> np.ndarray:
        """Memory-map one part of one shard."""
        import numpy as np

        path = part_path(self.path, shard, part)
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"Shard {shard} of {self.path} is damaged: {path.name} cannot be read ({error}).",
                "Copy it again, or embed the texts again into an empty folder.",
            ) from error
