"""A recipe fixes a training run: a TOML file read into frozen dataclasses.

Contents: `Recipe`; its tables and their keys are in `recipe_parts`.

An unknown key is an error that names the nearest key; `--set a.b=c` overrides a value and is parsed as TOML. The
resolved recipe is saved with the checkpoint.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unembed.checks import allow, nearest, shown
from unembed.encoders.endpoint import without_address
from unembed.errors import InputError, RecipeError
from unembed.training.recipes.recipe_parts import (
    CorrectorPart,
    DataPart,
    ModelPart,
    ObjectivePart,
    OptimizerPart,
    PairsPart,
    RunPart,
    StudentPart,
    ValidationPart,
)

TASKS = ("denoiser", "student", "corrector")
"""What can be learnt (`training/stepper.py`)."""

_MOST_BYTES = 1 << 20
_MOST_LETTERS = 4096
_hints = functools.cache(typing.get_type_hints)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


RENAMED = {("data", "limit"): "max_length"}
"""Keys of older recipes, and what they are called now."""
REMOVED = {("data", "noise"): 0.0, ("model", "prior_once"): True}
"""Keys of older recipes that are gone, and the value at which they changed nothing (docs/log.md)."""


@dataclass(frozen=True)
class Recipe:
    """A whole recipe; `task` is a key at the top of the TOML file, each other attribute a table.

    Attributes:
        task: what is learnt: "denoiser", "student" or "corrector".
        model: shape of the denoiser.
        data: where texts and vectors come from.
        objective: what is learnt from a batch.
        optimizer: how weights move.
        run: how long, on what, in which arithmetic.
        validation: what is measured on the way.
        student, corrector: their shapes, where one of them is learnt.
        pairs: what both learn from beside texts.
    """

    task: str = "denoiser"
    model: ModelPart = field(default_factory=ModelPart)
    data: DataPart = field(default_factory=DataPart)
    objective: ObjectivePart = field(default_factory=ObjectivePart)
    optimizer: OptimizerPart = field(default_factory=OptimizerPart)
    run: RunPart = field(default_factory=RunPart)
    validation: ValidationPart = field(default_factory=ValidationPart)
    student: StudentPart = field(default_factory=StudentPart)
    corrector: CorrectorPart = field(default_factory=CorrectorPart)
    pairs: PairsPart = field(default_factory=PairsPart)

    def __post_init__(self) -> None:
        """Check the task."""
        allow("task", self.task, TASKS, RecipeError)

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a TOML file and apply overrides such as `optimizer.lr=3e-4`.

        Relative paths under `data` and `validation` are taken from the current folder, as on a command line.

        Args:
            path: the TOML file.
            overrides: each "table.key=value"; the value is read as TOML, or as a string where it is not TOML.

        Returns:
            The recipe, every default filled in.

        Raises:
            RecipeError: no such file, not TOML, an unknown key, or a value of the wrong type or range.
        """
        try:
            values = tomllib.loads(_read(Path(path)))
        except OSError as error:
            raise RecipeError(f"The recipe {path} cannot be read: {error.strerror}.", "Check the path.") from error
        except RecursionError as error:
            raise RecipeError(f"The recipe {path} has lists within lists.", "Write tables of plain values.") from error
        except ValueError as error:  # no UTF-8, no TOML, or a number of thousands of digits
            raise RecipeError(f"The recipe {path} is not valid TOML: {_line(error)}.", "Fix that line.") from error
        return cls.from_dict(apply_overrides(values, overrides))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build from nested plain values.

        Args:
            values: tables of keys and values, as TOML or JSON holds them.

        Returns:
            The recipe, every default filled in.

        Raises:
            RecipeError: an unknown key, or a value of the wrong type or range.
        """
        return typing.cast(Recipe, _build(cls, values, ""))

    def to_dict(self) -> dict[str, Any]:
        """Turn into what `from_dict` takes.

        Returns:
            Nested plain values, every default filled in.
        """
        return dataclasses.asdict(self)

    def told(self) -> dict[str, Any]:
        """Turn into what a checkpoint keeps, which others may get.

        Returns:
            As `to_dict`, with the name of an endpoint's model in the place of its address.
        """
        values = self.to_dict()
        values["data"]["encoder"] = without_address(values["data"]["encoder"])
        return values


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with each `a.b=c` set; c is read as TOML, or as a string where it is not TOML."""
    out: dict[str, Any] = {k: _renamed(k, v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for item in overrides:
        key, equals, raw = item.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {shown(item)} has no '='.", "Write it like --set optimizer.lr=3e-4.")
        *tables, name = key.strip().split(".")
        if len(tables) > 1:
            raise RecipeError(f"--set {shown(item)} names a table within a table.", "Write it like optimizer.lr=3e-4.")
        node = out.setdefault(tables[0], {}) if tables else out
        if not isinstance(node, dict):
            raise RecipeError(f"--set {shown(item)}: {shown(tables[0])} is not a table.", "Check the key.")
        node[RENAMED.get((tables[0] if tables else "", name), name)] = _value(raw)
    return out


def _renamed(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A table with its keys as they are called now.

    Raises:
        RecipeError: a key stands there under both names.
    """
    out = {RENAMED.get((where, key), key): value for key, value in values.items()}
    if len(out) < len(values):
        twice = next(f"{where}.{new}" for (of, old), new in RENAMED.items() if of == where and old in values)
        raise RecipeError(f"The recipe has {twice} twice, under an old name too.", "Leave the old name out.")
    return out


def _value(raw: str) -> Any:
    """What follows "=" on a command line: one TOML value, else the text itself."""
    if "\n" in raw:  # it could begin a table of its own
        return raw
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        return raw


def _read(path: Path) -> str:
    """The text of a recipe.

    Raises:
        RecipeError: no regular file, or far too long for a recipe.
        OSError, UnicodeDecodeError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # reading a pipe may never end
        raise RecipeError(f"The recipe {path} is not a regular file.", "Give the path of a TOML file.")
    with open(path, "rb") as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise RecipeError(f"The recipe {path} is longer than {_MOST_BYTES >> 10} KiB.", "Give the path of a recipe.")
    return data.decode()


def _line(error: Exception) -> str:
    """The words of an error, on one line and cut short."""
    words = "".join(c if c.isprintable() else " " for c in str(error))
    return words.rstrip(".")[:200]


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where or 'The recipe'} is not a table.", f"Write it as [{where or 'model'}].")
    hints = _hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    arguments = {}
    for key, value in _renamed(where, values).items():
        name = f"{where}.{key}" if where else key
        if (where, key) in REMOVED:
            off = REMOVED[where, key]
            if value != off:
                raise RecipeError(f"The recipe has {name} = {shown(value)}, but {name} was removed.", "Leave it out.")
            continue
        if key not in known:
            hint = nearest(key, known, f"Known keys: {', '.join(known)}.")
            plain = name if isinstance(key, str) and name.isprintable() and len(name) < 60 else shown(key)
            raise RecipeError(f"The recipe has an unknown key {plain}.", hint)
        arguments[key] = _convert(hints[key], value, name)
    try:
        return kind(**arguments)
    except InputError as error:  # a part that others check too
        raise RecipeError(f"{where}: {error.what}", error.do) from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, str) and inner is str:
            value = [value] if value else []
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{name} is {shown(value)}.", "Use a list.")
        return tuple(_convert(inner, v, name) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else math.inf  # which no key takes
    plain = hint if isinstance(hint, type) else types.NoneType
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise RecipeError(f"{name} is {shown(value)}, which is not of type {plain.__name__}.", "Correct the value.")
    if isinstance(value, str) and (len(value) > _MOST_LETTERS or _CONTROL.search(value)):
        raise RecipeError(
            f"{name} is {shown(value)}, which is longer than {_MOST_LETTERS} characters or holds control characters.",
            "Correct the value.",
        )
    return value
