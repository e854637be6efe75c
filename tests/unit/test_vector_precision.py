"""The precision of vectors is read off their numbers, and rounding an answer as the store did makes it equal again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unembed.encoders.hashing import HashingEncoder
from unembed.errors import InputError
from unembed.refinement.vector_precision import KINDS, NOISE, precision_of, precision_tolerance
from unembed.stores.quantised import Quantisation


def unit(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [32, 384])
def test_the_tolerance_is_what_rounding_does(kind: str, dimension: int) -> None:
    """Other vectors than those that it was measured on lie within it, but for about one in a hundred."""
    vectors = unit(400, dimension, seed=5)
    lost = 1 - cosine(vectors, KINDS[kind](vectors))
    tolerance = precision_tolerance(kind, dimension)
    assert (lost <= tolerance + 1e-12).mean() > 0.95
    if kind in ("int8", "binary"):
        assert tolerance < 3 * lost.mean() + NOISE, "not far above what happens"


def test_tolerances_rise_with_the_loss() -> None:
    kinds = ("float32", "float16", "bfloat16", "int8", "binary")
    values = [precision_tolerance(kind, 384) for kind in kinds]
    assert values == sorted(values) and values[0] == NOISE
    assert values[-1] == pytest.approx(1 - np.sqrt(2 / np.pi), abs=0.05)  # E|x| of a normal number
    with pytest.raises(InputError, match="kind"):
        precision_tolerance("int4", 384)


def test_bfloat16_is_torch_s() -> None:
    vectors = unit(20, 64)
    assert (KINDS["bfloat16"](vectors) == torch.from_numpy(vectors).bfloat16().float().numpy()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_found_in_the_numbers(kind: str) -> None:
    stored = KINDS[kind](unit(6, 384))
    found = precision_of(stored)
    assert found.kind == kind and found.tolerance == NOISE
    if kind != "float32":
        answers = found.apply(unit(6, 384))
        assert cosine(answers, stored) == pytest.approx(1, abs=1e-9)


def test_what_arrays_say_themselves() -> None:
    vectors = unit(4, 384)
    assert precision_of(vectors.astype(np.float16)).kind == "float16"
    assert precision_of(vectors.astype(np.float64)).kind == "float32"
    assert precision_of(torch.from_numpy(vectors).bfloat16()).kind == "bfloat16"
    assert precision_of(torch.from_numpy(vectors).half()).kind == "float16"
    whole = np.round(vectors * 500).clip(-127, 127).astype(np.int8)
    for array in (whole, whole.astype(np.float32)):
        found = precision_of(array)
        assert found.kind == "int8" and found.apply is None and found.tolerance > NOISE
    assert precision_of(np.sign(vectors).astype(np.int8)).kind == "binary"


@pytest.mark.parametrize("shape", ["one", "each", "ranges"])
def test_a_known_scale_is_applied(shape: str) -> None:
    vectors, other = unit(6, 48), unit(200, 48, seed=3)
    scales = {"one": 0.004, "each": np.linspace(0.003, 0.006, 48), "ranges": np.stack([other.min(0), other.max(0)])}
    quantisation = Quantisation(scales[shape], np.full(48, 0.01) if shape == "each" else None)
    if shape == "ranges":
        low, high = scales[shape]
        numbers = np.clip(np.floor((vectors - low) / ((high - low) / 255)), 0, 255).astype(np.uint8)
    else:
        shift = 0.01 if shape == "each" else 0.0
        numbers = np.round((vectors - shift) / scales[shape]).astype(np.int8)
    stored = quantisation.decode(numbers)
    found = precision_of(stored, quantisation)
    assert found.kind == "scaled" and found.apply is not None
    assert found.apply(vectors) == pytest.approx(stored, abs=1e-6)
    assert cosine(vectors, stored).max() < 1 - 1e-6, "the rounding is not nothing"


def test_the_encoder_answers_in_the_store_s_precision() -> None:
    inside = HashingEncoder(32)
    stored = inside.encode(["the old house"]).astype(np.float16)
    answer = precision_of(stored).round(inside.encode(["the old house"]))
    assert (answer == stored.astype(np.float32)).all()
