"""A checkpoint with what is next to it, ready to decode; no encoder is needed here. Contents: `LoadedModel`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from unembed.checkpoint.checkpoint import Checkpoint
from unembed.checkpoint.student_file import StudentFile, read_student
from unembed.decoding.canvas import check_guidance
from unembed.decoding.choosing import Judge
from unembed.decoding.confidence import calibration_for
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.lexicon import Lexicon
from unembed.decoding.foreign import fit_student, read_beside
from unembed.decoding.inputs import vector_rows
from unembed.decoding.prior import PriorReader
from unembed.decoding.recovery import Recovery, recoveries
from unembed.decoding.request import Request, resolve_options, split_options
from unembed.decoding.trace import Draft
from unembed.errors import InputError
from unembed.network.corrector import Corrector
from unembed.priors.fit_score import Judged


class LoadedModel:
    """What decoding needs of a checkpoint; what is not always needed is read at first use.

    Args:
        checkpoint: as `load_checkpoint` returns it.

    Attributes:
        checkpoint, denoiser, tokenizer, identity: of it, checked.
        calibrations: of confidence, as stored, or None.
        defaults: options of a decode where none are given.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        beside = read_beside(checkpoint)
        self.checkpoint, self.denoiser = checkpoint, checkpoint.denoiser
        self.tokenizer, self.identity = beside.tokenizer, beside.identity
        self.calibrations = checkpoint.calibration
        self.defaults: dict[str, Any] = beside.defaults

    @property
    def corrector(self) -> Corrector | None:
        """The corrector, or None."""
        return self.checkpoint.corrector

    @cached_property
    def student(self) -> StudentFile | None:
        """The student encoder, or None."""
        device = self.denoiser.banned.device
        return fit_student(read_student(self.checkpoint.path, self.checkpoint.sha256, device), self.checkpoint)

    @cached_property
    def judge(self) -> Judge | None:
        """The student as a judge of finished drafts, or None."""
        return None if self.student is None else Judge(self.student.student, self.denoiser.embedding.weight)

    @cached_property
    def priors(self) -> PriorReader:
        """What the strategy prior reads.

        Raises:
            InputError: the checkpoint has no token prior.
        """
        return PriorReader.of(self.denoiser)

    @cached_property
    def lexicon(self) -> Lexicon:
        """How words are spelt in tokens, for constraints."""
        return Lexicon(self.tokenizer.surfaces)

    def resolve(self, options: Mapping[str, Any]) -> DecodeConfig:
        """Work out what options mean for this checkpoint; see `Inverter.resolve`."""
        config = resolve_options(options, self.defaults, lambda: self.student is not None)
        check_guidance(self.denoiser, config)
        return config

    def request(self, vectors: Any, options: Mapping[str, Any]) -> Request:
        """Check what is to be decoded.

        Args:
            vectors: array, tensor, nested list or column of arrays, (n, d) or (d,).
            options: of the decode, and constraints.

        Raises:
            InputError: vectors, options or constraints that cannot be used.
        """
        if "queries" in options:
            raise InputError("queries is not an option of its own.", "Pass refine=Refine(queries=16).")
        constraints, rest = split_options(options)
        config, c = self.resolve(rest), self.denoiser.config
        rows = vector_rows(vectors, c.vector_dim, self.identity.name, self.identity.normalised)
        return Request(
            self.denoiser,
            rows,
            config,
            constraints.compile(self.tokenizer, len(rows), c.max_length, self.lexicon) if constraints else None,
            self.priors if config.strategy == "prior" else None,
            self.judge if config.choose == "student" else None,
        )

    def judged(self, rows: np.ndarray) -> Judged | None:
        """How rows (n, d) look beside vectors of held-out texts; None where the checkpoint has no statistics of them.

        Raises:
            CheckpointError: the statistics are damaged.
        """
        score = self.checkpoint.fit_score
        if score is None:
            return None
        with torch.inference_mode():
            z = self.denoiser.whitening(torch.from_numpy(rows).to(self.denoiser.banned.device))
        return score(z.cpu().numpy())

    def recoveries(self, drafts: list[Draft], request: Request) -> list[Recovery]:
        """Texts with their confidence, one for each draft of a request."""
        calibration = calibration_for(self.calibrations, request.config.strategy)
        return recoveries(drafts, self.tokenizer, calibration, self.judged(request.rows))
