"""The facade: vectors in, texts with their confidence out.

    inverter = Inverter.from_pretrained("default")
    for recovery in inverter.invert(vectors):
        print(recovery.confidence, recovery.text)

Contents: `Inverter`; what it returns is a `recovery.Recovery`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.data.tokenization import Tokenizer, cut_texts
from unembed.decoding.batches import batch_starts
from unembed.decoding.confidence import Calibration, calibration_for
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints import Constraints
from unembed.decoding.inputs import vector_rows
from unembed.decoding.lexicon import Lexicon
from unembed.decoding.loop import decode, passes, stream
from unembed.decoding.options import resolve_options, split_options
from unembed.decoding.prior import PriorReader
from unembed.decoding.rules import Rules
from unembed.decoding.trace import Draft, Step
from unembed.encoders.identity import EncoderIdentity
from unembed.errors import InputError
from unembed.machine import choose_device
from unembed.model.checkpoint import Checkpoint, load_checkpoint
from unembed.model.corrector import Corrector
from unembed.model.denoiser import Denoiser
from unembed.model.precision import lower_precision
from unembed.model.shipped import find_checkpoint
from unembed.model.student_file import StudentFile, read_student
from unembed.recovery import Recovery, asked, recoveries
from unembed.refinement.aids import Aids
from unembed.refinement.batches import refine_batches, resolve_budget
from unembed.refinement.budget import Budget
from unembed.refinement.methods import DEFAULT, check_method
from unembed.refinement.refiner import Refinement, Refiner
from unembed.refinement.rounding import Rounding, rounding_of

__all__ = ["Inverter", "Recovery"]

if TYPE_CHECKING:
    import torch

    from unembed.encoders.protocol import Encoder


class Inverter:
    """Recovers texts from vectors with one checkpoint.

    Args:
        checkpoint: as `load_checkpoint` returns it.
        name: what it was called; shown in results.
        precision: "fp32", "bf16", or "auto" (bf16 where it is fast); of the products of the network.

    Attributes:
        denoiser: the network.
        tokenizer: between ids and texts.
        identity: the encoder that the checkpoint belongs to.
        name, sha256: of the checkpoint.
        calibrations: confidence calibrations as stored in the checkpoint, or None.
        precision: "fp32" or "bf16".
        position_prior: what the strategy prior places tokens by, beside the network's own parts; or None.
    """

    def __init__(self, checkpoint: Checkpoint, name: str = "", precision: str = "fp32") -> None:
        self.denoiser: Denoiser = checkpoint.denoiser
        self.precision = lower_precision(self.denoiser, precision)
        self.tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json)
        self.identity = EncoderIdentity.from_dict(checkpoint.identity)
        self.calibrations = checkpoint.calibration
        self.position_prior = checkpoint.position_prior
        self._checkpoint = checkpoint
        self.name = name or Path(checkpoint.path).name
        self.sha256 = checkpoint.sha256
        only = {} if self.denoiser.config.fills_masks else {"strategy": "left-to-right"}
        self.defaults: dict[str, Any] = dict(checkpoint.notes.get("decode") or only)

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | Path = "default", device: str | None = None, precision: str = "fp32"
    ) -> Inverter:
        """Load a checkpoint.

        Args:
            path_or_name: "default", the name of a checkpoint that ships, or a folder.
            device: "cpu", "cuda", ...; None takes a GPU where there is one.
            precision: "fp32", "bf16", or "auto": bf16 where it is fast.

        Returns:
            An inverter that is ready to use.

        Raises:
            CheckpointError: missing, foreign, truncated or damaged.
            InputError: no such device or precision.
        """
        folder = find_checkpoint(path_or_name)
        return cls(load_checkpoint(folder, choose_device(device)), name=folder.name, precision=precision)

    @property
    def limit(self) -> int:
        """Longest text in tokens."""
        return self.denoiser.config.limit

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.denoiser.config.vector_dim

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.denoiser.banned.device

    @cached_property
    def student(self) -> StudentFile | None:
        """The student encoder that lies beside the checkpoint, read at first use; None where there is none."""
        return read_student(self._checkpoint.path, self.sha256, self.device)

    @property
    def corrector(self) -> Corrector | None:
        """The corrector that lies beside the checkpoint's weights, read at first use; None where there is none."""
        return self._checkpoint.corrector

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the checkpoint, loaded at first use and checked with its probe vectors.

        Raises:
            EncoderError: it cannot be loaded.
            EncoderMismatchError: it does not make the vectors that the checkpoint was trained on.
        """
        from unembed.encoders.registry import load_matching

        return load_matching(self.identity)

    def use_encoder(self, encoder: str | Encoder) -> None:
        """Send queries to another address of the checkpoint's encoder, such as an endpoint that serves it.

        Args:
            encoder: a name as for `load_encoder`, or an encoder.

        Raises:
            EncoderError: it cannot be loaded.
            EncoderMismatchError: it does not make the vectors that the checkpoint was trained on.
        """
        from unembed.encoders.registry import load_matching

        self.__dict__["encoder"] = load_matching(self.identity, encoder)

    @cached_property
    def priors(self) -> PriorReader:
        """What the strategy prior reads, laid out at first use.

        Raises:
            InputError: the checkpoint has no token prior.
        """
        return PriorReader.of(self.denoiser, self.position_prior)

    @cached_property
    def aids(self) -> Aids:
        """Student and corrector, as far as there are any."""
        return Aids(self.student, self.corrector)

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
        return resolve_options(options, self.defaults)

    def calibration(self, strategy: str) -> Calibration | None:
        """Find the calibration of a strategy's confidence.

        Args:
            strategy: its name.

        Returns:
            The calibration, None where the checkpoint has none.
        """
        return calibration_for(self.calibrations, strategy)

    def invert(
        self,
        vectors: Any,
        *,
        batch_size: int | None = None,
        trace: bool = False,
        progress: bool = False,
        queries: int = 0,
        refinement: str = DEFAULT,
        budget: Budget | None = None,
        tolerance: float | None = None,
        rounding: Rounding | None = None,
        report: Callable[[int, float, float], None] | None = None,
        salvage: Callable[[list[Recovery]], None] | None = None,
        **options: Any,
    ) -> list[Recovery]:
        """Recover the texts behind vectors; without queries the encoder is not asked.

        Args:
            vectors: array, tensor or nested list of numbers, (n, d) or (d,).
            batch_size: vectors decoded together, 64 where None (prior: 4096); memory does not grow with n beyond the
                results.
            trace: keep the steps in each `Recovery.trace`.
            progress: show a bar on stderr.
            queries: texts that may be sent to the encoder for each vector; drafts are then refined.
            refinement: how, a key of `refinement.methods.REFINEMENTS`.
            budget: limits of queries, passes and seconds, instead of `queries`.
            tolerance: 1 - cosine within which a vector counts as met; the vectors' own precision where None.
            rounding: precision of the vectors (`refinement.rounding`); found in their numbers where None.
            report: called after each round of queries: the most queries of a text, the mean cosine, vectors met.
            salvage: called with the best drafts so far where an exception ends a refinement.
            options: any field of `DecodeConfig` (strategy, passes, lengths, samples, temperature, beam, seed, ...) and
                any field of `decoding.constraints.Constraints`, for all rows or a list with one entry a row: prefix,
                known, required, banned, length, and given, (n, up to limit) token ids, -1 where unknown.

        Returns:
            One recovery for each row, in order.

        Raises:
            InputError: vectors, options or constraints that cannot be used, with the row and what is expected.
            EncoderError: the encoder cannot be loaded, or fails at a query.
        """
        spend = resolve_budget(queries, budget, trace)
        if spend is not None and self.denoiser.config.causal and not {"strategy", "temperature"} & set(options):
            options = {"strategy": "left-to-right", "beam": 8, **options}  # many drafts for few passes
        constraints, config = self._split(options)
        check_method(refinement)
        if spend is None:
            found = self._drafts(vectors, config, constraints, batch_size, trace, progress)
            return self._recoveries([draft for batch in found for draft in batch], config)
        rows = self._rows(vectors)
        rounding = rounding or rounding_of(vectors)
        if tolerance is not None:
            rounding = dataclasses.replace(rounding, tolerance=tolerance)
        refiner = Refiner(self.denoiser, self.tokenizer, self.encoder, refinement, None, rounding, self.aids)
        refined = refine_batches(
            refiner,
            rows,
            spend,
            config,
            batch_size,
            rules=self._rules(constraints, len(rows)),
            priors=self._priors(config),
            progress=progress,
            report=report,
            salvage=None if salvage is None else lambda part: salvage(self._refined(part)),
        )
        return self._refined(list(refined))

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
        originals = cut_texts(self.tokenizer, texts, self.limit, self.identity.name)
        if not originals:
            return []
        found = self.invert(self.encoder.encode(originals), **options)
        return [dataclasses.replace(r, original=text) for r, text in zip(found, originals, strict=True)]

    def drafts(
        self,
        vectors: Any,
        *,
        batch_size: int | None = None,
        progress: bool = False,
        **options: Any,
    ) -> list[Draft]:
        """Decode like `invert`, but return the drafts with all their alternatives; for calibration and refinement.

        Args:
            vectors, batch_size, progress, options: as `invert`.

        Returns:
            One draft for each row, in order.

        Raises:
            InputError: as `invert`.
        """
        constraints, config = self._split(options)
        found = self._drafts(vectors, config, constraints, batch_size, False, progress)
        return [draft for batch in found for draft in batch]

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
        import torch

        constraints, config = self._split(options)
        rows = self._rows(vector)
        if len(rows) != 1:
            raise InputError(f"{len(rows)} vectors cannot be streamed.", "Pass one vector.")
        rules = self._rules(constraints, 1)
        return stream(self.denoiser, torch.from_numpy(rows[0]), config, rules=rules, priors=self._priors(config))

    def passes(
        self, vectors: Any, *, trace: bool = False, top: int = 0, live: bool = False, **options: Any
    ) -> Generator[list[Step], None, list[Recovery]]:
        """Decode like `invert`, all vectors in one batch, and hand control back after each pass.

        Several decodes can so take turns, and one that nobody waits for can be closed.

        Args:
            vectors, options: as `invert`; checked at once.
            trace: yield steps, and keep them in each `Recovery.trace`.
            top: with `trace`, how many of the likeliest tokens of each position `Step.alternatives` holds.
            live: with `trace`, yield `Step.preview` of the first text while a beam grows.

        Returns:
            A generator over the steps of each pass, nothing unless `trace`; its value is one recovery for each row.

        Raises:
            InputError: as `invert`.
        """
        import torch

        constraints, config = self._split(options)
        rows = self._rows(vectors)
        rules, priors = self._rules(constraints, len(rows)), self._priors(config)
        batch = torch.from_numpy(rows)
        steps = passes(self.denoiser, batch, config, rules=rules, priors=priors, trace=trace, top=top, live=live)

        def drive() -> Generator[list[Step], None, list[Recovery]]:
            drafts = yield from steps
            return self._recoveries(drafts, config)

        return drive()

    def _priors(self, config: DecodeConfig) -> PriorReader | None:
        return self.priors if config.strategy == "prior" else None

    def _rows(self, vectors: Any) -> np.ndarray:
        return vector_rows(vectors, self.dimension, self.identity.name, self.identity.normalised)

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(self.tokenizer.surfaces)

    def _split(self, options: dict[str, Any]) -> tuple[Constraints, DecodeConfig]:
        constraints, rest = split_options(options)
        return constraints, self.resolve(rest)

    def _rules(self, constraints: Constraints, rows: int) -> Rules | None:
        if not constraints:
            return None
        return constraints.compile(self.tokenizer, rows, self.limit, self._lexicon)

    def _drafts(
        self,
        vectors: Any,
        config: DecodeConfig,
        constraints: Constraints,
        batch_size: int | None,
        trace: bool,
        progress: bool,
    ) -> Iterator[list[Draft]]:
        import torch

        rows = self._rows(vectors)
        rules = self._rules(constraints, len(rows))
        for part in batch_starts(len(rows), config.batch_size if batch_size is None else batch_size, progress):
            yield decode(
                self.denoiser,
                torch.from_numpy(rows[part]),
                config,
                rules=None if rules is None else rules.part(part),
                trace=trace,
                priors=self._priors(config),
            )

    def _refined(self, found: Sequence[Refinement]) -> list[Recovery]:
        drafts = [dataclasses.replace(r.drafts[0], spent=r.passes, alternatives=r.drafts[1:]) for r in found]
        plain = recoveries(drafts, self.tokenizer, None)
        return [asked(one, r.cosine, r.queries, r.met) for one, r in zip(plain, found, strict=True)]

    def _recoveries(self, drafts: list[Draft], config: DecodeConfig) -> list[Recovery]:
        return recoveries(drafts, self.tokenizer, self.calibration(config.strategy))
