"""The texts of a shard that is not whole yet: a run that is stopped keeps what it has embedded of them.

Contents: `Piece`. The file is `unfinished.npz` beside the shards; it goes when its shard is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.data.rereading import add_texts
from unembed.data.tokenization import Tokenizer
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError
from unembed.files import PRIVATE, atomic_path

if TYPE_CHECKING:
    import numpy as np

UNFINISHED = "unfinished.npz"
_CHUNK = 1024  # texts between two places where a run can be stopped
_log = logging.getLogger(__name__)


class Piece:
    """Texts on their way into a shard.

    Args:
        number: of the shard.
        size: texts of a whole shard.
        dimension: of the vectors.
        dtype: of the vectors on disk.

    Attributes:
        ids: tokens of each text that was kept.
        sources: their names.
        vectors: (size, dimension), of which the first len(ids) rows are filled.
        read: texts read, dropped ones included.
        digest: of the texts read.
    """

    def __init__(self, number: int, size: int, dimension: int, dtype: str) -> None:
        import numpy as np

        self.number, self.size = number, size
        self.ids: list[list[int]] = []
        self.sources: list[str] = []
        self.vectors: np.ndarray = np.empty((size, dimension), dtype=dtype)
        self.read, self.digest = 0, hashlib.sha256()
        self._sure = (0, 0, "")  # texts kept, texts read and their digest, after the last whole chunk

    def fill(
        self,
        stream: Iterator[tuple[str, str]],
        encoder: Encoder,
        tokenizer: Tokenizer,
        max_length: int,
        progress: Callable[[int], None],
    ) -> None:
        """Read and embed texts until the shard is whole or none is left; `progress` gets the number kept."""
        import numpy as np

        while len(self.ids) < self.size:
            chunk = list(itertools.islice(stream, min(_CHUNK, self.size - len(self.ids))))
            if not chunk:
                return
            cut = tokenizer.truncate([text for text, _ in chunk], max_length)
            kept = [(c, source) for c, (_, source) in zip(cut, chunk, strict=True) if c is not None]
            begin = len(self.ids)
            if kept:
                with np.errstate(over="ignore"):
                    self.vectors[begin : begin + len(kept)] = encoder.encode([c.text for c, _ in kept])
                self.ids += [c.ids for c, _ in kept]
                self.sources += [source for _, source in kept]
            self.read += len(chunk)
            add_texts(self.digest, chunk)
            self._sure = (begin + len(kept), self.read, self.digest.hexdigest())
            progress(len(self.ids))

    def keep(self, folder: Path) -> None:
        """Write what is done, for `take`; a disk that is full keeps nothing."""
        import numpy as np

        count, read, digest = self._sure
        if not count:
            return
        told = {"shard": self.number, "read": read, "digest": digest, "sources": self.sources[:count]}
        arrays: dict[str, Any] = {
            "lengths": np.array([len(row) for row in self.ids[:count]], dtype=np.int32),
            "tokens": np.fromiter(itertools.chain.from_iterable(self.ids[:count]), dtype=np.int32),
            "vectors": self.vectors[:count],
        }
        with contextlib.suppress(DataError), atomic_path(folder / UNFINISHED, PRIVATE) as part:
            with open(part, "wb") as stream:
                np.savez(stream, told=np.array(json.dumps(told)), **arrays)

    def take(self, folder: Path, stream: Iterator[tuple[str, str]]) -> None:
        """Take what a stopped run kept of this shard, and read past its texts.

        Args:
            folder: of the shards.
            stream: positioned at the first text of the shard.

        Raises:
            DataError: the texts are others.
        """
        import numpy as np

        path = folder / UNFINISHED
        if not path.is_file():
            return
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                told = json.loads(str(stored["told"]))
                lengths, tokens, vectors = (stored[name] for name in ("lengths", "tokens", "vectors"))
            number, read, digest, sources = (told[name] for name in ("shard", "read", "digest", "sources"))
            count = len(lengths)
            fits = (vectors.shape, vectors.dtype) == ((count, self.vectors.shape[1]), self.vectors.dtype)
            if not fits or not count <= self.size or len(sources) != count or int(lengths.sum()) != len(tokens):
                raise ValueError("its parts do not fit together")
            if number != self.number:  # its shard is whole: the run was killed before it removed the file
                return
            ends = np.cumsum(lengths)
            ids = [row.tolist() for row in np.split(tokens, ends[:-1])]
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("%s is damaged (%s): its texts are embedded again", path, error)
            return
        while self.read < read and (chunk := list(itertools.islice(stream, min(_CHUNK, read - self.read)))):
            self.read += len(chunk)
            add_texts(self.digest, chunk)
        if self.read != read or self.digest.hexdigest() != digest:
            raise DataError(
                f"The texts are not those that {path} was made from.",
                "Give the same texts in the same order, or choose another folder.",
            )
        self.ids, self.sources = ids, list(sources)
        self.vectors[:count] = vectors
        self._sure = (count, read, digest)
