"""Tensors stored small: the one codec of denoiser, student and corrector.

What is here:
    encode, decode    named tensors -> named tensors that a file holds, and back
    plan_for          which tensor is stored how, for a dtype: "fp32", "fp16", "int8" or "int6"
    load_into         decoded tensors into a module, refused where they do not fit
    Unfilled          builds such a module without drawing the weights that will be replaced
    coarse            int8 codes -> 4-bit codes and one whole factor per row, or a group of it

A tensor NAME is held in one of five ways, told by the names in the file:

    NAME                        as it is, or in float16
    NAME:int8, NAME:scale       (N, d) int8, (N,) float32
    NAME:int6, NAME:scale       (N, 3d/4) uint8, four codes in three bytes, (N,) float32
    NAME:int4, NAME:factor      (N, d/2) uint8, two codes in a byte, (N, 1) uint8; for tensors that hold int8 codes

The last one rounds codes, not numbers: each becomes factor * (-7..7), again an int8. So the scale of a row stays what
it is, and whoever computes with the codes does not know that they were stored in 4 bits. A factor for each group of 32
codes is read too, but brings nothing (docs/log.md).
Scales have 16 significant bits. Code times scale is then exact in float32, and what was decoded is encoded to the same
bytes again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unembed.errors import CheckpointError, InputError
from unembed.priors.token_prior import TOP, quantise_rows

DTYPES = ("fp32", "fp16", "int8", "int6")
SMALLEST = 4096
"""Tensors of fewer elements stay as they are."""

_TOP4, _TOP6, _TOP8 = 7, 31, TOP
_MOST_FACTOR = _TOP8 // _TOP4
_CHUNK = 1024
_REPAIR = "Fetch it again, or train a new one."

Plan = Callable[[str, Tensor], str]
"""(name, tensor) -> "exact", "fp16", "int8", "int6" or "int4"."""


def plan_for(dtype: str, exact: Collection[str] = ()) -> Plan:
    """The plan of a dtype.

    Matrices of at least 4,096 numbers are stored by rows, other tensors of that size as float16, the rest as it is.
    With "int6" matrices of int8 codes take 4 bits, and a matrix whose width is not a multiple of 4 takes int8.

    Args:
        dtype: one of `DTYPES`.
        exact: names that are stored as they are.

    Raises:
        InputError: another dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"Weights cannot be stored as {dtype!r}.", f"Use one of {', '.join(DTYPES)}.")

    def plan(name: str, tensor: Tensor) -> str:
        if dtype == "fp32" or name in exact or tensor.numel() < SMALLEST:
            return "exact"
        if tensor.dtype == torch.int8:
            return "int4" if dtype == "int6" and tensor.dim() == 2 and tensor.shape[1] % 2 == 0 else "exact"
        if not tensor.is_floating_point():
            return "exact"
        if dtype == "fp16" or tensor.dim() != 2:
            return "fp16"
        return "int8" if tensor.shape[1] % 4 else dtype

    return plan


# ---------------------------------------------------------------------- numbers to codes


def coarse(codes: Tensor, group: int = 0) -> tuple[Tensor, Tensor]:
    """Round int8 codes to 4 bits.

    Args:
        codes: (N, d) int8.
        group: g, codes of a row that share a factor, a divisor of d; 0 for the whole row.

    Returns:
        Small codes (N, d) int8 within -7..7 and factors (N, d/g) uint8 within 1..18; a code becomes factor * small. Of
        all factors the one with the least squared error.
    """
    width = codes.shape[1]
    group = group or width
    smalls, factors = [], []
    for part in codes.split(_CHUNK):
        x = part.float().view(len(part), width // group, group)
        best = torch.full(x.shape[:2], torch.inf)
        factor = torch.ones(x.shape[:2])
        for tried in range(1, _MOST_FACTOR + 1):
            whole = (x / tried).round_().clamp_(-_TOP4, _TOP4)
            error = (whole * tried - x).square_().sum(2)
            factor = torch.where(error < best, float(tried), factor)
            best = torch.minimum(best, error)
        smalls.append((x / factor[..., None]).round_().clamp_(-_TOP4, _TOP4).to(torch.int8).view(-1, width))
        factors.append(factor.to(torch.uint8))
    return torch.cat(smalls), torch.cat(factors)


# ---------------------------------------------------------------------- codes to bytes


def _pack6(codes: Tensor) -> Tensor:
    """Codes (N, d) within -31..31 -> (N, 3d/4) uint8. The quarters of a row are side by side, not the columns:
    every step below then reads and writes runs of d/4 bytes."""
    a, b, c, d = (codes.to(torch.int16) + 32).to(torch.uint8).chunk(4, dim=1)
    return torch.cat((a | (b & 3) << 6, b >> 2 | (c & 15) << 4, c >> 4 | d << 2), dim=1)


def _unpack6(packed: Tensor) -> Tensor:
    """The way back: (N, 3d/4) uint8 -> codes (N, d) int8."""
    x, y, z = packed.chunk(3, dim=1)
    codes = torch.cat((x & 63, x >> 6 | (y & 15) << 2, y >> 4 | (z & 3) << 4, z >> 2), dim=1)
    return codes.view(torch.int8) - 32


def _pack4(codes: Tensor) -> Tensor:
    """Codes (N, d) within -7..7 -> (N, d/2) uint8, the halves of a row in the low and the high four bits."""
    low, high = (codes + 8).view(torch.uint8).chunk(2, dim=1)
    return low | high << 4


def _unpack4(packed: Tensor) -> Tensor:
    """The way back: (N, d/2) uint8 -> codes (N, d) int8."""
    return torch.cat((packed & 15, packed >> 4), dim=1).view(torch.int8) - 8


# ---------------------------------------------------------------------- whole states


def encode(state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Tensors of a state as a file holds them.

    Args:
        state: name -> tensor.
        plan: how each is stored; `plan_for` makes the usual ones.

    Returns:
        Name in the file -> contiguous tensor on the CPU.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        kind = plan(name, tensor)
        if kind == "int8":
            out[f"{name}:int8"], out[f"{name}:scale"] = quantise_rows(tensor)
        elif kind == "int6":
            codes, out[f"{name}:scale"] = quantise_rows(tensor, _TOP6)
            out[f"{name}:int6"] = _pack6(codes)
        elif kind == "int4":
            codes, out[f"{name}:factor"] = coarse(tensor)
            out[f"{name}:int4"] = _pack4(codes)
        else:
            out[name] = tensor.float().clamp(-65504.0, 65504.0).half() if kind == "fp16" else tensor
    return out


class _Damage(Exception):
    """What is wrong with a stored tensor, as the end of a sentence."""


def _beside(stored: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    """The tensor that belongs to codes: their scale or factors."""
    found = stored.get(f"{name}:{kind}")
    if found is None:
        raise _Damage(f"has no {kind}")
    return found


def _codes(value: Tensor, dtype: torch.dtype, multiple: int) -> Tensor:
    if value.dtype != dtype or value.dim() != 2 or value.shape[1] % multiple or not value.shape[1]:
        raise _Damage(f"has codes of type {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}")
    return value


def _scaled(codes: Tensor, scale: Tensor) -> Tensor:
    if scale.shape != codes.shape[:1] or not scale.is_floating_point():
        raise _Damage(f"has {len(codes)} rows and scales of shape {tuple(scale.shape)}")
    if not bool(torch.isfinite(scale).all()):
        raise _Damage("has a scale that is not a finite number")
    return codes.float() * scale.float().unsqueeze(1)


def _multiplied(codes: Tensor, factor: Tensor) -> Tensor:
    """Small codes (N, d) times the factors (N, groups) of their groups: int8 codes (N, d)."""
    count, width = codes.shape
    fits = factor.dtype == torch.uint8 and factor.dim() == 2 and len(factor) == count and factor.shape[1] > 0
    if not fits or width % factor.shape[1]:
        raise _Damage(f"has codes of shape {tuple(codes.shape)} and factors of shape {tuple(factor.shape)}")
    if count and (int(factor.min()) < 1 or int(factor.max()) > _MOST_FACTOR or int(codes.min()) < -_TOP4):
        raise _Damage("has a code or a factor that is out of range")
    return (codes.view(count, factor.shape[1], -1) * factor.view(torch.int8).unsqueeze(2)).view(count, width)


def _decoded(stored: Mapping[str, Tensor], name: str, kind: str, value: Tensor) -> Tensor:
    if kind == "int8":
        return _scaled(_codes(value, torch.int8, 1), _beside(stored, name, "scale"))
    if kind == "int6":
        return _scaled(_unpack6(_codes(value, torch.uint8, 3)), _beside(stored, name, "scale"))
    if kind == "int4":
        return _multiplied(_unpack4(_codes(value, torch.uint8, 1)), _beside(stored, name, "factor"))
    if kind:
        raise _Damage(f"is stored in a way that this program does not know ({kind})")
    # Version 0.1.0 stored counts above 65,504 as infinity.
    return value.float().clamp(max=65504.0) if value.dtype == torch.float16 else value


def decode(stored: Mapping[str, Tensor], where: str | Path = "The file", repair: str = _REPAIR) -> dict[str, Tensor]:
    """What `encode` was given: floats as float32, codes as int8.

    Args:
        stored: name in the file -> tensor, also those of earlier versions (int8 rows, float16).
        where: what holds them, for errors.
        repair: what to do about a damaged one, for errors.

    Raises:
        CheckpointError: a scale is missing or no number, or lengths, shapes or types do not fit each other.
    """
    out: dict[str, Tensor] = {}
    for key, value in stored.items():
        name, _, kind = key.partition(":")
        try:
            if kind not in ("scale", "factor"):
                out[name] = _decoded(stored, name, kind, value)
            elif not any(f"{name}:{codes}" in stored for codes in ("int8", "int6", "int4")):
                raise _Damage(f"has a {kind} and no codes")
        except _Damage as damage:
            raise CheckpointError(f"{where} is damaged: {name} {damage}.", repair) from None
    return out


_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.eye)
_SPARE = 2**20
_DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class Unfilled(TorchFunctionMode):
    """A context in which no random numbers are drawn into new weights: half of the time that it takes to load a model.

    Only for a module that `load_into` fills, which leaves no tensor as it was. So it has about as many numbers as the
    files hold, and one that asks for more is refused before it gets them.

    Args:
        stored: the tensors of the files, encoded or not.
        where: what holds them, for errors.
        repair: what to do where they do not fit, for errors.
    """

    def __init__(self, stored: Mapping[str, Tensor], where: str | Path, repair: str = _REPAIR) -> None:
        super().__init__()
        self._left = 4 * sum(value.numel() for value in stored.values()) + _SPARE
        self._error = CheckpointError(f"{where} does not fit: its shape asks for more than its files hold.", repair)

    def _spend(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        size = args[0] if args else kwargs.get("size", ())
        if func is torch.eye:
            sizes = list(args[:2]) if len(args) > 1 else [args[0], args[0]]
        else:
            sizes = list(size) if isinstance(size, tuple | list) else [one for one in args if isinstance(one, int)]
        self._left -= math.prod(sizes) + 1
        if self._left < 0:
            raise self._error

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave out what fills a tensor at random; `nn.init` comes here with functions of its own, not Tensor's."""
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            func = torch.empty
        if func in _FACTORIES:
            self._spend(func, args, kwargs)
        return func(*args, **kwargs)


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: str | Path, repair: str = _REPAIR) -> None:
    """Load a decoded state into a module.

    Args:
        module: gets exactly these tensors.
        state: name -> tensor.
        where: what holds them, for errors.
        repair: what to do where they do not fit, for errors.

    Raises:
        CheckpointError: a tensor too few or too many, or one of another shape or another kind of numbers, or NaN.
    """
    wanted = module.state_dict()
    for name in [*wanted, *(name for name in state if name not in wanted)]:
        problem = ""
        if name not in state:
            problem = f"it lacks {name}"
        elif name not in wanted:
            problem = f"{name} has no place in the network"
        elif state[name].shape != wanted[name].shape:
            problem = f"{name} has shape {tuple(state[name].shape)} and the network {tuple(wanted[name].shape)}"
        elif state[name].is_floating_point() and not bool(torch.isfinite(state[name]).all()):
            problem = f"{name} holds a number that is not finite"
        elif state[name].dtype != wanted[name].dtype and not (
            state[name].is_floating_point() and wanted[name].is_floating_point()
        ):
            problem = f"{name} holds {state[name].dtype} where the network has {wanted[name].dtype}"
        if problem:
            raise CheckpointError(f"{where} does not fit: {problem}.", repair)
    module.load_state_dict(dict(state))
