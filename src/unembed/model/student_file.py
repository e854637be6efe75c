"""The student beside a checkpoint: `student.safetensors` (`codec.py`) and `student.json`, which names its digest.

Contents: `STUDENT_FILE`, `StudentFile`, `read_student`, `write_student`.

The checkpoint's own files and digest stay as they are: a student can be added, replaced or deleted. It belongs to one
checkpoint, because it reads that one's token table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from unembed.errors import CheckpointError, DataError
from unembed.files import atomic_path, read_json, sha256_file, write_json
from unembed.model.codec import Unfilled, decode, encode, load_into, plan_for
from unembed.model.student import StudentConfig, StudentEncoder

STUDENT_FILE = "student.safetensors"
_NOTES = "student.json"
_VERSION = 2  # 1 had int8 rows, and is read too
_REPAIR = "Fetch the checkpoint again, or delete student.json to go without the student."


@dataclass
class StudentFile:
    """What the two files hold.

    Attributes:
        student: in evaluation mode, float32.
        surrogate: move -> weights, fitted with this student (`refinement/surrogate.py`); empty where not fitted.
        notes: how it was trained, and on what.
    """

    student: StudentEncoder
    surrogate: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def write_student(folder: str | Path, file: StudentFile, checkpoint: str, dtype: str = "int6") -> None:
    """Write the student into a checkpoint's folder; student.json comes last.

    Args:
        folder: the checkpoint.
        file: student, surrogate and notes.
        checkpoint: digest of the checkpoint that it belongs to.
        dtype: of the stored weights, as for `save_checkpoint`.

    Raises:
        InputError: another dtype.
        DataError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    stored = encode(file.student.state_dict(), plan_for(dtype))
    with atomic_path(folder / STUDENT_FILE) as part:
        save_file(stored, str(part), metadata={"format": "pt"})
    write_json(
        folder / _NOTES,
        {
            "format": "unembed-student",
            "version": _VERSION,
            "checkpoint": checkpoint,
            "sha256": sha256_file(folder / STUDENT_FILE),
            "config": asdict(file.student.config),
            "surrogate": file.surrogate,
            "notes": file.notes,
        },
    )


def read_student(folder: str | Path, checkpoint: str, device: str | torch.device = "cpu") -> StudentFile | None:
    """Read the student of a checkpoint's folder.

    Args:
        folder: the checkpoint.
        checkpoint: its digest.
        device: where the student goes.

    Returns:
        The student, or None where the folder has none or one that belongs to another checkpoint.

    Raises:
        CheckpointError: damaged, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / _NOTES).is_file():
        return None
    try:
        told = read_json(folder / _NOTES)
        if told["format"] != "unembed-student" or told["version"] not in range(1, _VERSION + 1):
            raise CheckpointError(f"{folder / _NOTES} has a format that this program does not read.", _REPAIR)
        if told["checkpoint"] != checkpoint:
            return None
        if not (folder / STUDENT_FILE).is_file() or sha256_file(folder / STUDENT_FILE) != told["sha256"]:
            raise CheckpointError(f"{folder / STUDENT_FILE} is missing or damaged.", _REPAIR)
        with Unfilled():
            student = StudentEncoder(StudentConfig(**told["config"]))
        path = folder / STUDENT_FILE
        load_into(student, decode(load_file(str(path)), path, _REPAIR), path, _REPAIR)
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, DataError) as error:
        raise CheckpointError(f"The student in {folder} cannot be loaded.", _REPAIR) from error
    return StudentFile(student.to(device).eval(), told["surrogate"], told["notes"])
