"""What stays on the device for a whole run: tokens, encoder, vectors, and which texts the closed-form parts know.

Contents: `Resident`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unembed.data.pack import Pack
from unembed.encoders.bert import BertOnIds
from unembed.priors.fit import Batch as Embedded
from unembed.training.device.corpus import Corpus, DeviceBatch, check_size, sizes_of
from unembed.training.device.kernels import Kernels
from unembed.training.memory import out_of_memory

_log = logging.getLogger(__name__)
_SHARE = 0.4
"""Of the free memory, which the vectors of all texts may take."""


class Resident:
    """Texts and their vectors.

    Where memory allows, a GPU embeds all texts once, before the first step (float16, 0.8 GB a million of MiniLM's): the
    encoder then runs in the loop for crops alone, and a crop's text can be taken out of the means. Elsewhere the
    encoder runs in the loop for every text, and a crop counts as another text than the means know.

    Args:
        pack: texts as tokens.
        rows: (N,) the texts that may be used, rising.
        encoder: on the device, in the precision of the run.
        device: of all tensors.
        buckets: lengths in tokens that texts are padded to.
        texts: `data.batch_size`.
        compiled: whether the functions of a step are.
        keep: whether vectors are kept; None decides by device and memory.

    Raises:
        DataError: there are fewer texts than a batch has.

    Attributes:
        corpus: the tokens.
        kernels: the compiled functions, of the encoder and of the step.
        known: (N,) bool, texts that the closed-form parts were fitted on.
        vectors: (N, d) float16, or None where none are kept.
    """

    def __init__(
        self,
        pack: Pack,
        rows: np.ndarray,
        encoder: BertOnIds,
        device: torch.device,
        buckets: Sequence[int],
        texts: int,
        compiled: bool,
        keep: bool | None = None,
    ) -> None:
        self.buckets, self.texts = sorted(set(buckets)), texts
        check_size(len(rows), sizes_of(texts, self.buckets))
        self.corpus = Corpus(pack, rows, device)
        self.kernels = Kernels(compiled)
        # One of its own, with the same tensors: validation embeds texts in many other shapes, which are not compiled.
        self.encoder = copy.copy(encoder)
        self.known = torch.zeros(len(rows), dtype=torch.bool, device=device)
        self.vectors: Tensor | None = None
        if _has_room(len(rows) * encoder.dimension * 2, device) if keep is None else keep:
            self.vectors = torch.zeros(len(rows), encoder.dimension, dtype=torch.float16, device=device)
        self._made = np.zeros(len(rows), dtype=bool)

    def embed(self, ids: Tensor, length: Tensor) -> Tensor:
        """Vectors (B, d) float32 of tokens (B, n) and lengths (B,); the sequence of shapes is that of the buckets."""
        self.encoder.layer = self.kernels.layer
        return self.encoder(ids, length)

    def of(self, batch: DeviceBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a batch is scored with, without a read of the device.

        Returns:
            Tokens (B, width); vectors (B, d) of them; vectors (B, d) of the whole texts; (B,) bool, texts whose vector
            is to be taken out of the means.
        """
        ids, known = self.corpus.ids(batch.start, batch.width), self.known[batch.rows]
        if self.vectors is None:
            vectors = self.embed(ids, batch.length)
            return ids, vectors, vectors, known & batch.whole
        full = self.vectors[batch.rows].float()
        return ids, self.embed(ids, batch.length) if batch.cut else full, full, known

    def sample(self, rows: np.ndarray) -> Iterator[Embedded]:
        """Embed whole texts, keeping the vectors where they are kept.

        Args:
            rows: (M,) texts of the corpus.

        Yields:
            Tokens (B, n), lengths (B,), vectors (B, d), on the device: what `fit_closed_form` takes.
        """
        corpus, lengths = self.corpus, self.corpus.lengths[rows]
        edges = [0, *self.buckets]
        for k, size in enumerate(sizes_of(self.texts, self.buckets)):
            mine = rows[(edges[k] < lengths) & (lengths <= edges[k + 1])]
            for at in range(0, len(mine), size):
                part = mine[at : at + size]
                # Compiled, the last batch is filled up: its shapes are then those of the loop.
                filled = np.resize(part, size) if self.kernels.compiled else part
                index = torch.from_numpy(filled).to(corpus.device)
                ids, length = corpus.ids(corpus.start[index], self.buckets[k]), corpus.length[index]
                vectors = self._survive(ids, length)[: len(part)]
                if self.vectors is not None:
                    self.vectors[index[: len(part)]] = vectors.half()
                    self._made[part] = True
                yield ids[: len(part)], length[: len(part)], vectors

    def know(self, mask: np.ndarray | None) -> None:
        """Say which texts (N,) the closed-form parts know, None for none; embed those that have no vector yet."""
        if mask is not None:
            self.known = torch.from_numpy(mask).to(self.corpus.device)
        if self.vectors is not None:
            for _ in self.sample(np.flatnonzero(~self._made)):
                pass

    def _survive(self, ids: Tensor, length: Tensor) -> Tensor:
        try:
            return self.embed(ids, length)
        except Exception as error:
            if not self.kernels.compiled or out_of_memory(error):
                raise
            self.kernels.uncompile()
            _log.warning("compiled code failed: continuing without it (%s: %.200s)", type(error).__name__, error)
            return self.embed(ids, length)


def _has_room(size: int, device: torch.device) -> bool:
    """Whether this many bytes should be spent there; on a CPU it is the time to make them that is lacking."""
    return device.type == "cuda" and size < _SHARE * torch.cuda.mem_get_info(device)[0]
