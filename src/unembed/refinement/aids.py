"""What lies beside a checkpoint and helps refinement. Contents: `Aids`, `load_aids`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from unembed.model.corrector import Corrector
from unembed.model.student import StudentEncoder
from unembed.model.student_file import read_student
from unembed.refinement.surrogate import FORECAST, Surrogate


@dataclass(frozen=True)
class Aids:
    """Networks beside the denoiser; without any the search goes by the difference prior alone.

    Attributes:
        student: guesses the encoder's answers; running it is no query.
        surrogate: ranks proposals as it was fitted with that student; None for the search's own.
        corrector: makes better texts of a draft, its vector and the difference.
    """

    student: StudentEncoder | None = None
    surrogate: Surrogate | None = None
    corrector: Corrector | None = None


def load_aids(folder: str | Path, checkpoint: str, device: torch.device, corrector: Corrector | None = None) -> Aids:
    """Read what a checkpoint's folder holds.

    Args:
        folder: the checkpoint.
        checkpoint: its digest.
        device: where the networks go.
        corrector: read with the checkpoint, or None.

    Raises:
        CheckpointError: a file is damaged.
    """
    found = read_student(folder, checkpoint, device)
    if found is None:
        return Aids(corrector=corrector)
    weights = {}
    for move, row in found.surrogate.items():
        if len(row) == 5:
            weights[move] = (row[0], row[1], row[2], row[3], row[4])
    return Aids(found.student, Surrogate({**FORECAST.weights, **weights}) if weights else None, corrector)
