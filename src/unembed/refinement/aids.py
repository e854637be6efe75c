"""What lies beside a checkpoint and helps refinement. Contents: `Aids`, `aids_of`."""

from __future__ import annotations

from dataclasses import dataclass

from unembed.model.corrector import Corrector
from unembed.model.student import StudentEncoder
from unembed.model.student_file import StudentFile
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


def aids_of(student: StudentFile | None, corrector: Corrector | None) -> Aids:
    """Join what was read beside a checkpoint."""
    if student is None:
        return Aids(corrector=corrector)
    fitted = {
        move: (row[0], row[1], row[2], row[3], row[4]) for move, row in student.surrogate.items() if len(row) == 5
    }
    surrogate = Surrogate({**FORECAST.weights, **fitted}) if fitted else None
    return Aids(student.student, surrogate, corrector)
