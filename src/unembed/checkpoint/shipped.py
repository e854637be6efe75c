"""Where the checkpoints lie that ship with the package, and what the names of checkpoints mean.

Contents: `WEIGHTS`, `DEFAULT`, `shipped_names`, `find_checkpoint`. Free of torch.
"""

from __future__ import annotations

from pathlib import Path

from unembed.errors import CheckpointError

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
DEFAULT = "minilm"
"""The shipped checkpoint that "default" means."""


def shipped_names() -> list[str]:
    """Names of the shipped checkpoints, sorted."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def find_checkpoint(path_or_name: str | Path) -> Path:
    """Return the folder of a checkpoint.

    Args:
        path_or_name: "default", the name of a shipped checkpoint, or a folder. A shipped name wins over a folder of the
            same name; write "./name" for the folder.

    Raises:
        CheckpointError: neither a shipped name nor a folder.
    """
    name = str(path_or_name)
    names = shipped_names()
    if name == "default" and DEFAULT in names:
        return WEIGHTS / DEFAULT
    if name in names:
        return WEIGHTS / name
    folder = Path(path_or_name).expanduser()
    if folder.is_dir():
        return folder
    raise CheckpointError(
        f"There is no checkpoint at {name}, and none of that name ships (shipped: {', '.join(names) or 'none'}).",
        "Give a folder that `unembed train` wrote, or a name from `unembed models list`.",
    )
