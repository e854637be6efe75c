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

from unembed.checkpoint.codec import Unfilled, decode, encode, load_into, plan_for
from unembed.checkpoint.sums import check_listed, list_files
from unembed.checkpoint.untrusted import read_tensors
from unembed.checks import SchemaError, anything, listing, mapping, number, one_of, table, text, whole
from unembed.errors import CheckpointError, DataError
from unembed.files import atomic_path, read_json, sha256_file, write_json
from unembed.network.student import StudentConfig, StudentEncoder

STUDENT_FILE = "student.safetensors"
_NOTES = "student.json"
_VERSION = 2  # 1 had int8 rows, and is read too
_REPAIR = "Fetch the checkpoint again, or delete student.json to go without the student."


_MOST_BYTES = 2**20
_SIZE = whole(1, 65_536)
_SCHEMA = table(
    {
        "format": one_of(["unembed-student"]),
        "version": whole(1, _VERSION),
        "checkpoint": text(64),
        "sha256": text(64),
        "config": table(
            {
                **dict.fromkeys(("vector_dim", "limit", "embedding_dim", "width", "heads", "mlp"), _SIZE),
                "layers": whole(1, 512),
            }
        ),
        "surrogate": mapping(listing(number(-1e6, 1e6), 1, 64), 64),
        "notes": mapping(anything, 1000),
    }
)


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
    if (folder / "config.json").is_file():  # a checkpoint, and not what a run makes for one
        list_files(folder, STUDENT_FILE, _NOTES)


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
    folder = Path(folder)
    if not (folder / _NOTES).exists():
        return None
    check_listed(folder, _NOTES, STUDENT_FILE)
    path = folder / STUDENT_FILE
    try:
        told = _SCHEMA(read_json(folder / _NOTES, _MOST_BYTES), _NOTES)
        if told["checkpoint"] != checkpoint:
            return None
        if not path.exists() or sha256_file(path) != told["sha256"]:
            raise CheckpointError(f"{path} is missing or damaged.", _REPAIR)
        stored = read_tensors(path, _REPAIR)
        with Unfilled(stored, path, _REPAIR):
            student = StudentEncoder(StudentConfig(**told["config"]))
        load_into(student, decode(stored, path, _REPAIR), path, _REPAIR)
    except SchemaError as error:
        raise CheckpointError(
            f"The student in {folder} has a format that this program does not read: {error}.", _REPAIR
        ) from error
    except (RuntimeError, KeyError, TypeError, ValueError, IndexError, AssertionError, DataError) as error:
        raise CheckpointError(f"The student in {folder} cannot be loaded.", _REPAIR) from error
    return StudentFile(student.to(device).eval(), told["surrogate"], told["notes"])
