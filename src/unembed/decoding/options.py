"""What a caller's keyword arguments mean: options of the decode, constraints, and a checkpoint's own defaults.

Contents: `split_options`, `resolve_options`, `DECODE_OPTIONS`, `CONSTRAINT_NAMES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from unembed.checks import nearest
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.known import Constraints
from unembed.errors import InputError

DECODE_OPTIONS = tuple(field.name for field in dataclasses.fields(DecodeConfig))
CONSTRAINT_NAMES = tuple(field.name for field in dataclasses.fields(Constraints))


def split_options(options: Mapping[str, Any]) -> tuple[Constraints, dict[str, Any]]:
    """Tell constraints from options of the decode.

    Raises:
        InputError: constraints that make no sense.
    """
    named = {name: value for name, value in options.items() if name in CONSTRAINT_NAMES}
    return Constraints(**named), {k: v for k, v in options.items() if k not in named}


def resolve_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> DecodeConfig:
    """Join options with a checkpoint's defaults, which hold where `options` name no other strategy.

    Args:
        options: fields of `DecodeConfig`.
        defaults: of the checkpoint: its best strategy, with options.

    Raises:
        InputError: an unknown option, or one that makes no sense.
    """
    if options.get("strategy", defaults.get("strategy")) != defaults.get("strategy"):
        defaults = {}
    elif options.get("temperature") or options.get("samples", 1) > 1:
        defaults = {k: v for k, v in defaults.items() if k != "beam"}  # what is sampled has no beam
    for name in options:
        if name not in DECODE_OPTIONS:
            known = (*DECODE_OPTIONS, *CONSTRAINT_NAMES)
            hint = nearest(name, known, f"Options: {', '.join(known)}.")
            raise InputError(f"There is no decoding option {name!r}.", hint)
    return DecodeConfig(**{**defaults, **options})
