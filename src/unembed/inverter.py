"""The facade: vectors in, texts with their confidence out.

    inverter = Inverter.from_pretrained("default")
    for recovery in inverter.invert(vectors):
        print(recovery.confidence, recovery.text)

Contents: `Inverter`; what it owns is in `decoding/model.py`, what it returns in `decoding/recovery.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from unembed.checkpoint.checkpoint import Checkpoint, load_checkpoint
from unembed.checkpoint.shipped import find_checkpoint
from unembed.checkpoint.student_file import StudentFile
from unembed.data.tokenization import cut_texts
from unembed.decoding.config import DecodeConfig
from unembed.decoding.model import LoadedModel
from unembed.decoding.recovery import Recovery
from unembed.decoding.trace import Draft, Step
from unembed.errors import InputError
from unembed.machine import choose_device
from unembed.network.base import Network
from unembed.network.corrector import Corrector
from unembed.network.denoiser import lower_precision
from unembed.refinement.refine import Refine
from unembed.refinement.session import Session, check_refine
from unembed.refinement.vector_precision import precision_of

__all__ = ["Inverter", "Recovery", "Refine"]

if TYPE_CHECKING:
    import torch

    from unembed.encoders.protocol import Encoder


class Inverter:
    """Recovers texts from vectors with one checkpoint and, where queries are allowed, its encoder.

    Args:
        checkpoint: as `load_checkpoint` returns it.
        name: what it was called; shown in results.
        precision: "fp32", "bf16", or "auto" (bf16 where it is fast); of the products of the network.

    Attributes:
        model: the checkpoint with what is next to it.
        denoiser: the network.
        tokenizer: between ids and texts.
        identity: the encoder that the checkpoint belongs to.
        name, sha256: of the checkpoint.
        precision: "fp32" or "bf16".
    """

    def __init__(self, checkpoint: Checkpoint, name: str = "", precision: str = "fp32") -> None:
        self.denoiser: Network = checkpoint.denoiser
        self.precision = lower_precision(self.denoiser, precision)
        self.model = LoadedModel(checkpoint)
        self.tokenizer, self.identity = self.model.tokenizer, self.model.identity
        self.name, self.sha256 = name or Path(checkpoint.path).name, checkpoint.sha256
        self._encoder: Encoder | None = None

    def __repr__(self) -> str:
        """Name, encoder, longest text, and where and how it computes."""
        return (
            f"<Inverter {self.name!r}: vectors of {self.identity.name} ({self.dimension} dimensions) to texts of up to "
            f"{self.max_length} tokens; {self.device}, {self.precision}>"
        )

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | Path = "default", device: str | None = None, precision: str = "fp32"
    ) -> Self:
        """Load a checkpoint.

        Args:
            path_or_name: "default", the name of a checkpoint that ships, or a folder.
            device: "cpu", "cuda", ...; None takes a GPU where there is one.
            precision: "fp32", "bf16", or "auto": bf16 where it is fast.

        Returns:
            One that is ready to use.

        Raises:
            CheckpointError: missing, foreign, truncated or damaged.
            InputError: no such device or precision.
        """
        folder = find_checkpoint(path_or_name)
        return cls(load_checkpoint(folder, choose_device(device)), name=folder.name, precision=precision)

    @property
    def notes(self) -> dict[str, Any]:
        """Free facts of the checkpoint: steps, texts seen, licence."""
        return self.model.checkpoint.notes

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe of the checkpoint's run."""
        return self.model.checkpoint.recipe

    @property
    def max_length(self) -> int:
        """Longest text in tokens."""
        return self.denoiser.config.max_length

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.denoiser.config.vector_dim

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.denoiser.banned.device

    @property
    def corrector(self) -> Corrector | None:
        """The corrector that is next to the checkpoint's weights, read at first use; None where there is none."""
        return self.model.corrector

    @property
    def student(self) -> StudentFile | None:
        """The student encoder that is next to the checkpoint, read at first use; None where there is none."""
        return self.model.student

    @property
    def encoder(self) -> Encoder:
        """The encoder of the checkpoint, loaded at first use and checked with its probe vectors.

        Raises:
            EncoderError: it cannot be loaded.
            EncoderMismatchError: it does not make the vectors that the checkpoint was trained on.
        """
        if self._encoder is None:
            self._encoder = self._checked()
        return self._encoder

    def use_encoder(self, encoder: str | Encoder) -> None:
        """Send queries to another address of the checkpoint's encoder, such as an endpoint that serves it.

        Args:
            encoder: a name as for `load_encoder`, or an encoder.

        Raises:
            EncoderError: it cannot be loaded.
            EncoderMismatchError: it does not make the vectors that the checkpoint was trained on.
        """
        self._encoder = self._checked(encoder)

    def _checked(self, encoder: str | Encoder | None = None) -> Encoder:
        from unembed.encoders.registry import load_matching

        return load_matching(self.identity, encoder)

    def load_all(self) -> None:
        """Load what is otherwise read at first use: student and corrector.

        Raises:
            CheckpointError: one of them is damaged, or belongs to another checkpoint.
        """
        _ = self.student, self.corrector

    def resolve(self, options: Mapping[str, Any]) -> DecodeConfig:
        """Work out what `options` mean for this checkpoint.

        A checkpoint may name the strategy that was best on its validation texts, with options; they hold where
        `options` name no other strategy.

        Args:
            options: fields of `DecodeConfig`, as `invert` takes them.

        Returns:
            The config with every field set.

        Raises:
            InputError: an unknown option, or one that makes no sense.
        """
        return self.model.resolve(options)

    def invert(
        self,
        vectors: Any,
        *,
        refine: Refine | None = None,
        encoder: str | Encoder | None = None,
        batch_size: int | None = None,
        trace: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> list[Recovery]:
        """Recover the texts behind vectors; without `refine` the encoder is not asked.

        Args:
            vectors: array, tensor, nested list or column of arrays (such as a pandas Series), (n, d) or (d,).
            refine: how many queries may be sent for each vector, and how drafts are refined with them.
            encoder: answers them instead of `Inverter.encoder`; checked at each call as `use_encoder` does.
            batch_size: vectors decoded together, 64 where None (prior: 4096); memory does not grow with n beyond the
                results.
            trace: keep the steps in each `Recovery.trace`.
            progress: show a bar on stderr.
            options: any field of `DecodeConfig` (strategy, passes, lengths, samples, temperature, beam, seed, ...) and
                any field of `decoding.constraints.known.Constraints`, for all rows or a list, one entry each: prefix,
                known, required, banned, length, and given, (n, up to max_length) token ids, -1 where unknown.

        Returns:
            One recovery for each row, in order.

        Raises:
            InputError: vectors, options or constraints that cannot be used, with the row and what is expected.
            EncoderError: the encoder cannot be loaded, or fails at a query.
        """
        if not isinstance(refine, Refine | None):
            raise InputError(f"refine is a {type(refine).__name__}.", "Pass unembed.Refine(queries=16).")
        if refine is None or not refine.queries:
            request = self.model.request(vectors, options)
            return self.model.recoveries(request.drafts(batch_size, trace, progress), request)
        if trace:
            raise InputError(
                "A trace shows how a draft is decoded, and refinement starts from finished drafts.",
                "Leave out the trace or the queries.",
            )
        more: dict[str, Any] = {"encoder": encoder, "batch_size": batch_size, "progress": progress}
        session = self.session(vectors, refine, **more, **options)
        for _ in session:
            pass
        return session.recoveries()

    def session(
        self,
        vectors: Any,
        refine: Refine,
        *,
        encoder: str | Encoder | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        **options: Any,
    ) -> Session:
        """Begin a refinement that the caller takes forward step by step, and may leave at any step.

        Args:
            vectors, refine, encoder, batch_size, progress, options: as `invert`; checked at once.

        Returns:
            To be iterated; its `recoveries()` are what `invert` returns, or the best so far.

        Raises:
            InputError: as `invert`.
            EncoderError: as `invert`.
        """
        if self.denoiser.config.causal and not {"strategy", "temperature"} & set(options):
            options = {"strategy": "left-to-right", "beam": 8, **options}  # many drafts for few passes
        request = self.model.request(vectors, options)
        check_refine(refine, request, self.corrector)  # before the encoder is loaded
        return Session(
            request,
            self.tokenizer,
            self.encoder if encoder is None else self._checked(encoder),
            dataclasses.replace(refine, vector_precision=refine.vector_precision or precision_of(vectors)),
            batch_size=batch_size,
            student=self.student,
            corrector=self.corrector,
            judged=self.model.judged(request.rows),
            progress=progress,
        )

    def invert_strings(self, texts: Sequence[str], **options: Any) -> list[Recovery]:
        """Embed texts with the checkpoint's own encoder and invert the vectors.

        Args:
            texts: strings; each is cut to the limit in tokens first, and `Recovery.original` is what was embedded.
            options: of `invert`.

        Returns:
            One recovery for each text, in order.

        Raises:
            InputError: a text that is empty or holds characters that the tokenizer does not know.
            EncoderMismatchError: see `encoder`.
        """
        if isinstance(texts, str):
            texts = [texts]
        originals = cut_texts(self.tokenizer, texts, self.max_length, self.identity.name)
        if not originals:
            return []
        found = self.invert(self.encoder.encode(originals), **options)
        return [dataclasses.replace(r, original=text) for r, text in zip(found, originals, strict=True)]

    def drafts(
        self, vectors: Any, *, batch_size: int | None = None, progress: bool = False, **options: Any
    ) -> list[Draft]:
        """Decode like `invert`, but return the drafts with all their alternatives; for calibration.

        Args:
            vectors, batch_size, progress, options: as `invert`.

        Returns:
            One draft for each row, in order.

        Raises:
            InputError: as `invert`.
        """
        return self.model.request(vectors, options).drafts(batch_size, progress=progress)

    def stream(self, vector: Any, **options: Any) -> Iterator[Step]:
        """Decode one vector and yield each step as it happens; see `unembed.decoding.loop.stream`.

        Args:
            vector: array, tensor or list of numbers, (d,) or (1, d).
            options: as `invert`; constraints of one row.

        Returns:
            An iterator over the steps.

        Raises:
            InputError: as `invert`, or more than one vector.
        """
        return self.model.request(vector, options).stream()
