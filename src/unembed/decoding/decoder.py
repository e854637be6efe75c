"""A checkpoint at work: vectors in, drafts and recoveries out, step by step or at once. No encoder is needed here.

Contents: `Decoder`, which `inverter.Inverter` builds on.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from unembed.checkpoint.checkpoint import Checkpoint, load_checkpoint
from unembed.checkpoint.shipped import find_checkpoint
from unembed.checkpoint.student_file import StudentFile, read_student
from unembed.data.tokenization import Tokenizer
from unembed.decoding.batches import batch_starts
from unembed.decoding.checks import check_guidance
from unembed.decoding.confidence import Calibration, calibration_for
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.known import Constraints
from unembed.decoding.constraints.lexicon import Lexicon
from unembed.decoding.constraints.rules import Rules
from unembed.decoding.foreign import fit_student, read_beside
from unembed.decoding.inputs import vector_rows
from unembed.decoding.judge import Judge
from unembed.decoding.loop import decode, passes, stream
from unembed.decoding.options import resolve_options, split_options
from unembed.decoding.prior import PriorReader
from unembed.decoding.recovery import Recovery, recoveries
from unembed.decoding.trace import Draft, Step
from unembed.encoders.identity import EncoderIdentity
from unembed.errors import InputError
from unembed.machine import choose_device
from unembed.network.base import Network
from unembed.network.precision import lower_precision
from unembed.priors.fit_score import Judged

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


class Decoder:
    """Decodes vectors with one checkpoint: `Inverter` without queries; arguments and attributes are described there."""

    def __init__(self, checkpoint: Checkpoint, name: str = "", precision: str = "fp32") -> None:
        self.denoiser: Network = checkpoint.denoiser
        self.precision = lower_precision(self.denoiser, precision)
        beside = read_beside(checkpoint)
        self.tokenizer: Tokenizer = beside.tokenizer
        self.identity: EncoderIdentity = beside.identity
        self.calibrations = checkpoint.calibration
        self._checkpoint = checkpoint
        self.name = name or Path(checkpoint.path).name
        self.sha256 = checkpoint.sha256
        self.defaults: dict[str, Any] = beside.defaults

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
        return self._checkpoint.notes

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe of the checkpoint's run."""
        return self._checkpoint.recipe

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

    @cached_property
    def priors(self) -> PriorReader:
        """What the strategy prior reads, laid out at first use.

        Raises:
            InputError: the checkpoint has no token prior.
        """
        return PriorReader.of(self.denoiser)

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
        config = resolve_options(options, self.defaults)
        check_guidance(self.denoiser, config)
        if config.choose == "student" and self.student is None:
            if "choose" in options:
                raise InputError(
                    'This checkpoint has no student encoder, which choose = "student" asks.',
                    'Set choose = "likelihood", or train a student (docs/training.md).',
                )
            _log.warning("%s has no student encoder here: drafts are chosen by their likelihood alone", self.name)
            config = replace(config, choose="likelihood")
        return config

    def calibration(self, strategy: str) -> Calibration | None:
        """Find the calibration of a strategy's confidence.

        Args:
            strategy: its name.

        Returns:
            The calibration, None where the checkpoint has none.
        """
        return calibration_for(self.calibrations, strategy)

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
        return stream(
            self.denoiser,
            torch.from_numpy(rows[0]),
            config,
            rules=rules,
            priors=self._priors(config),
            judge=self._judge(config),
        )

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
        asked: dict[str, Any] = {"rules": rules, "priors": priors, "judge": self._judge(config)}
        steps = passes(self.denoiser, batch, config, **asked, trace=trace, top=top, live=live)

        def drive() -> Generator[list[Step], None, list[Recovery]]:
            drafts = yield from steps
            return self._recoveries(drafts, config, rows)

        return drive()

    @cached_property
    def student(self) -> StudentFile | None:
        """The student encoder that is next to the checkpoint, read at first use; None where there is none."""
        return fit_student(read_student(self._checkpoint.path, self.sha256, self.device), self._checkpoint)

    @cached_property
    def _student_judge(self) -> Judge | None:
        return None if self.student is None else Judge(self.student.student, self.denoiser.embedding.weight)

    def _judge(self, config: DecodeConfig) -> Judge | None:
        return self._student_judge if config.choose == "student" else None

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
        return constraints.compile(self.tokenizer, rows, self.max_length, self._lexicon)

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
                judge=self._judge(config),
            )

    def judge_vectors(self, vectors: Any) -> Judged | None:
        """Say how vectors look beside those of held-out texts.

        Args:
            vectors: as `invert`.

        Returns:
            Their fit and what misfits look like; None where the checkpoint has no statistics of such texts.

        Raises:
            InputError: as `invert`.
            CheckpointError: the statistics are damaged.
        """
        return self._judged(self._rows(vectors))

    def _judged(self, rows: np.ndarray) -> Judged | None:
        import torch

        score = self._checkpoint.fit_score
        if score is None:
            return None
        with torch.inference_mode():
            z = self.denoiser.whitening(torch.from_numpy(rows).to(self.device))
        return score(z.cpu().numpy())

    def _recoveries(self, drafts: list[Draft], config: DecodeConfig, rows: np.ndarray) -> list[Recovery]:
        judged = self._judged(rows)
        return recoveries(drafts, self.tokenizer, self.calibration(config.strategy), judged)
