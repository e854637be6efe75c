"""Files next to a checkpoint that help refinement. Contents: `Aids`."""

from __future__ import annotations

from dataclasses import dataclass

from unembed.checkpoint.student_file import StudentFile
from unembed.network.corrector import Corrector


@dataclass(frozen=True)
class Aids:
    """Networks beside the denoiser; without any the search goes by the difference prior alone.

    Attributes:
        student: guesses the encoder's answers; running it is no query.
        corrector: makes better texts of a draft, its vector and the difference.
    """

    student: StudentFile | None = None
    corrector: Corrector | None = None
