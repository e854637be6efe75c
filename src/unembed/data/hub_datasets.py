"""Texts of Hugging Face datasets, streamed by name: C4, mC4, or a local folder that the `datasets` library reads.

Contents: `is_dataset`, `DatasetSpec`, `DatasetStream`.

A dataset is named like a file, as hf:NAME?key=value&key=value, for example

    hf:allenai/c4?config=de&take=200000

Nothing is downloaded beforehand and nothing is unpacked to the disk. In memory are `shuffle` texts: they are read as a
block and come out of it in random order, fixed by the seed and the number of the block, so that a stream can continue
at any text: from the state of the dataset at the start of the block, without reading what lies before it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from unembed.errors import DataError
from unembed.stores.reading import first_line

PREFIX = "hf:"
_SECONDS = 10.0
_RETRIES = 3


def is_dataset(path: object) -> bool:
    """Whether a path names a dataset instead of a file."""
    return isinstance(path, str) and path.startswith(PREFIX)


@dataclass(frozen=True)
class DatasetSpec:
    """What to read of a dataset.

    Attributes:
        name: repository on the hub, or a local folder of .jsonl, .csv, .parquet or .txt files.
        config: configuration ("en", "de"); empty for the only one.
        split: split.
        files: pattern of files inside the repository, instead of a configuration.
        column: where the text is.
        source: name of the source that its texts get; empty: the last part of the name, and the configuration.
        revision: commit or tag on the hub.
        take: only this many records from the beginning, 0 for all; empty ones count.
        shuffle: texts shuffled together; 0 keeps the order.
        seed: of the shuffling.
    """

    name: str
    config: str = ""
    split: str = "train"
    files: str = ""
    column: str = "text"
    source: str = ""
    revision: str = ""
    take: int = 0
    shuffle: int = 10_000
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> DatasetSpec:
        """Read hf:NAME?key=value&key=value.

        Raises:
            DataError: no name, an unknown key, or a number that is none.
        """
        name, _, query = text.removeprefix(PREFIX).partition("?")
        known = {f.name: f.type for f in fields(cls) if f.name != "name"}
        values: dict[str, Any] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in known:
                raise DataError(f"{text} has an unknown key {key!r}.", f"Known keys: {', '.join(known)}.")
            if known[key] == "int" and not value.isdigit():
                raise DataError(f"{text}: {key} is {value!r}.", "Use a whole number from 0.")
            values[key] = int(value) if known[key] == "int" else value
        if not name:
            raise DataError(f"{text} names no dataset.", "Write it like hf:allenai/c4?config=en.")
        return cls(name, **values)

    @property
    def label(self) -> str:
        """The source of its texts."""
        last = Path(self.name).name
        return self.source or (f"{last}-{self.config}" if self.config else last)

    def open(self) -> Any:
        """The dataset as the library streams it, from its first record.

        Raises:
            DataError: the library is absent, or there is no such dataset, configuration, split or column, or the hub
                cannot be reached; within seconds.
        """
        try:
            import datasets
        except ImportError as error:
            raise DataError(
                "Datasets by name need the library datasets, which is not installed.",
                'Install it with `pip install "unembed[data]"`.',
            ) from error
        datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = _RETRIES
        options: dict[str, Any] = {"data_files": self.files} if self.files else {"name": self.config or None}
        if not Path(self.name).is_dir():
            self._ask_hub()
            options["revision"] = self.revision or None
        try:
            with _quiet():
                found = datasets.load_dataset(self.name, split=self.split, streaming=True, **options)
        except ValueError as error:  # a configuration or split; the library lists those that there are
            raise DataError(
                f"The dataset {self.name} cannot be read this way ({first_line(error)}).",
                "Fix the config, the split or files.",
            ) from error
        except Exception as error:
            raise DataError(
                f"The dataset {self.name} cannot be opened ({first_line(error)}).",
                "Check its name, its files and the connection.",
            ) from error
        if found.column_names is not None and self.column not in found.column_names:
            raise DataError(
                f"The dataset {self.name} has no column {self.column!r}.",
                f"Set column to one of {', '.join(found.column_names)}.",
            )
        return found.select_columns([self.column])

    def _ask_hub(self) -> None:
        """Whether the hub has the dataset, asked once: the library itself would try for half a minute."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        local = "/" not in self.name or self.name.startswith((".", "/", "~")) or self.name.count("/") > 1
        if local and not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise DataError(f"There is no folder {self.name}.", "Check the path, or name a dataset of the hub.")
        try:
            HfApi().dataset_info(self.name, revision=self.revision or None, timeout=_SECONDS)
        except GatedRepoError as error:
            raise DataError(f"The dataset {self.name} is gated.", "Accept its terms and log in to the hub.") from error
        except RevisionNotFoundError as error:
            raise DataError(
                f"The dataset {self.name} has no revision {self.revision!r}.", "Check the revision."
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise DataError(
                f"There is no dataset {self.name!r}, neither a folder nor on the hub.", "Check the name."
            ) from error
        except Exception as error:  # the hub's client changed its network library between versions
            raise DataError(
                f"The dataset {self.name} is not on this machine and the hub cannot be reached.",
                "Check the connection, or download its files and name their folder.",
            ) from error


class DatasetStream:
    """Texts of one or more datasets, one after the other, that can stop at any text and continue there.

    Iterating yields (text, source) pairs from the stream's current place; empty texts are skipped.

    Args:
        specs: the datasets, as hf:NAME?... strings.
        exclude_sources: sources that are left out.
        limit: only this many texts, None for all.

    Raises:
        DataError: a dataset that cannot be opened (`DatasetSpec.open`); all are opened here, before any work is done.
    """

    def __init__(self, specs: Sequence[str], exclude_sources: Collection[str] = (), limit: int | None = None) -> None:
        self.names = list(specs)
        excluded = {exclude_sources} if isinstance(exclude_sources, str) else set(exclude_sources)
        self._specs = [s for s in map(DatasetSpec.parse, specs) if s.label not in excluded]
        self._open = [spec.open() for spec in self._specs]
        self._limit = limit
        self._state: dict[str, Any] = {"dataset": 0, "block": 0, "inside": 0, "texts": 0, "library": None}

    def state(self) -> dict[str, Any]:
        """Where the next text is, as JSON values."""
        return {"names": self.names, **self._state}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            DataError: it is the state of other datasets.
        """
        if state.get("names") != self.names:
            raise DataError(
                f"The texts were read from {', '.join(state.get('names', []))} before.", "Name the same datasets."
            )
        self._state = {key: state[key] for key in self._state}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        at = self._state
        while at["dataset"] < len(self._specs):
            spec = self._specs[at["dataset"]]
            for text in self._texts(spec, self._open[at["dataset"]]):
                if self._limit is not None and at["texts"] >= self._limit:
                    return
                at["inside"] += 1
                if text and not text.isspace():
                    at["texts"] += 1
                    yield text, spec.label
            at.update(dataset=at["dataset"] + 1, block=0, inside=0, library=None)

    def _texts(self, spec: DatasetSpec, dataset: Any) -> Iterator[str]:
        """What is left of a dataset, block after block; the state is kept at the start of each block."""
        import numpy as np

        at = self._state
        if at["library"] is not None:
            dataset.load_state_dict(at["library"])
        records = iter(dataset)
        size = spec.shuffle or 1024
        while True:
            at["library"] = dataset.state_dict()
            wanted = min(size, spec.take - at["block"] * size) if spec.take else size
            block = self._read(spec, records, wanted)
            if spec.shuffle:
                order = np.random.default_rng([spec.seed, at["block"]]).permutation(len(block))
                block = [block[k] for k in order]
            yield from block[at["inside"] :]
            if len(block) < size:
                return
            at.update(block=at["block"] + 1, inside=0)

    def _read(self, spec: DatasetSpec, records: Iterator[dict[str, Any]], count: int) -> list[str]:
        try:
            block = [record[spec.column] for record in itertools.islice(records, count)]
        except KeyError as error:
            raise DataError(f"A record of {spec.name} has no {spec.column!r}.", "Set column.") from error
        except Exception as error:
            raise DataError(
                f"Reading the dataset {spec.name} failed ({first_line(error)}).",
                "Run the same command again: shards continue after the last whole one.",
            ) from error
        if any(text is not None and not isinstance(text, str) for text in block):
            raise DataError(f"The column {spec.column!r} of {spec.name} holds no strings.", "Set another column.")
        return [text or "" for text in block]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's warnings and those of the hub's client off the terminal."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
