"""What the tests of the readers share: a text file written as it is, and a store read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unembed.stores.opening import open_store
from unembed.stores.reading import ReadOptions


def read(
    path: Path, column: str | None = None, id_column: str | None = None, **options: Any
) -> tuple[Any, list[Any], Any]:
    """Read a file twice; return vectors, ids and metadata."""
    store = open_store(path, column, id_column, reading=ReadOptions(**options))
    assert len(list(store.batches(1))) == len(list(store.batches(1)))
    parts = list(store.batches(2))
    metadata = {name: [v for part in parts for v in part.metadata[name]] for name in parts[0].metadata}
    return np.concatenate([part.vectors for part in parts]), [i for part in parts for i in part.ids], metadata


def write(path: Path, text: str | bytes) -> Path:
    """Write text as it is."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
