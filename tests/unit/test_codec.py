"""Tensors stored small come back within the step of their type, the same every time, or are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unembed.checkpoint.codec import DTYPES, coarse, decode, encode, load_into, plan_for
from unembed.errors import CheckpointError, InputError
from unembed.priors.token_prior import quantise_rows


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def codes(rows: int = 64, width: int = 96) -> Tensor:
    return quantise_rows(numbers(rows, width))[0]


STATE = {
    "matrix": numbers(64, 96) * torch.logspace(-6, 4, 64)[:, None],
    "odd": numbers(64, 97),
    "codes": codes(),
    "vector": numbers(5000),
    "short": numbers(40),
    "small": numbers(4, 8),
    "flags": torch.arange(5000) % 3 == 0,
    "one": torch.tensor(0.5),
}


@pytest.mark.parametrize("top", [31, 127])
def test_rows_are_wrong_by_half_a_scale_at_most(top: int) -> None:
    rows = numbers(50, 33) * torch.logspace(-8, 8, 50)[:, None]
    rows[7] = 0
    found, scale = quantise_rows(rows, top)
    assert found.dtype == torch.int8 and int(found.abs().max()) == top
    assert bool(((found.float() * scale[:, None] - rows).abs() <= 0.501 * scale[:, None]).all())
    assert torch.allclose(scale, rows.abs().amax(1) / top, rtol=1e-4, atol=2e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_comes_back_and_a_second_time_to_the_same_bytes(dtype: str) -> None:
    plan = plan_for(dtype, exact=("odd",))
    stored = encode(STATE, plan)
    found = decode(stored)
    assert found.keys() == STATE.keys()
    for name in ("odd", "short", "small", "flags", "one"):
        assert torch.equal(found[name], STATE[name]), name
    step = {"fp32": 0.0, "fp16": 2**-11, "int8": 0.501 / 127, "int6": 0.501 / 31}[dtype]
    wrong = (found["matrix"] - STATE["matrix"]).abs() / STATE["matrix"].abs().amax(1, keepdim=True)
    assert float(wrong[30:].max()) <= step and torch.equal(found["codes"], STATE["codes"]) == (dtype != "int6")
    again = encode(found, plan)
    assert again.keys() == stored.keys() and all(torch.equal(again[name], stored[name]) for name in stored)


def test_six_bits_take_three_quarters_and_four_take_half() -> None:
    stored = encode(STATE, plan_for("int6"))
    assert stored["matrix:int6"].shape == (64, 72) and stored["matrix:int6"].dtype == torch.uint8
    assert stored["codes:int4"].shape == (64, 48) and stored["codes:factor"].shape == (64, 1)
    assert stored["odd:int8"].shape == (64, 97), "a width that is no multiple of 4 takes int8"


def test_every_code_survives_its_packing() -> None:
    """All 63 and all 15 codes at every place of a row."""
    rows = torch.stack([torch.arange(64).roll(i) % 63 - 31 for i in range(64)]).repeat(1, 2)
    found = decode(encode({"m": rows.float() * 0.25}, lambda *_: "int6"))["m"]
    assert torch.equal(found, rows * 0.25)
    small = torch.stack([torch.arange(32).roll(i) % 15 - 7 for i in range(32)]).repeat(1, 3).to(torch.int8)
    factors = torch.arange(32).remainder(18).add(1).to(torch.int8)[:, None]
    found = decode(encode({"c": small * factors}, lambda *_: "int4"))["c"]
    assert torch.equal(found, small * factors)


def test_a_group_gets_the_factor_with_the_least_squared_error() -> None:
    rows = codes(8, 64)
    small, factor = coarse(rows, 32)
    found = (small.int().view(8, 2, 32) * factor.int()[..., None] - rows.int().view(8, 2, 32)).square().sum(2)
    for tried in range(1, 19):
        whole = (rows.float().view(8, 2, 32) / tried).round().clamp(-7, 7) * tried
        assert bool((found <= (whole - rows.float().view(8, 2, 32)).square().sum(2)).all())
    assert coarse(rows)[1].shape == (8, 1)
    stored = {"c:int4": encode({"c": rows}, lambda *_: "int4")["c:int4"], "c:factor": factor}
    assert decode(stored)["c"].shape == (8, 64), "factors of groups are read"


def test_files_of_version_1_are_read() -> None:
    """int8 rows with scales of any float32; float16, in which version 0.1.0 stored large counts as infinity."""
    stored = {"m:int8": codes(), "m:scale": torch.rand(64), "a": torch.tensor([torch.inf, 2.0]).half()}
    found = decode(stored)
    assert torch.equal(found["m"], stored["m:int8"] * stored["m:scale"][:, None])
    assert found["a"].tolist() == [65504.0, 2.0]


def test_a_dtype_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"'int5'.*fp32, fp16, int8, int6"):
        plan_for("int5")


GOOD = encode(STATE, plan_for("int6"))
DAMAGED: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "no scale": ({"matrix:scale": None}, "matrix has no scale"),
    "no codes": ({"matrix:int6": None}, "matrix has a scale and no codes"),
    "no factor": ({"codes:factor": None}, "codes has no factor"),
    "a factor alone": ({"codes:int4": None}, "codes has a factor and no codes"),
    "packed length": ({"matrix:int6": GOOD["matrix:int6"][:, :-1]}, r"codes of type uint8 and shape \(64, 71\)"),
    "packed type": ({"matrix:int6": GOOD["matrix:int6"].int()}, "codes of type int32"),
    "packed shape": ({"matrix:int6": GOOD["matrix:int6"].flatten()}, r"shape \(4608,\)"),
    "a row too few": ({"matrix:int6": GOOD["matrix:int6"][1:]}, r"63 rows and scales of shape \(64,\)"),
    "scale type": ({"matrix:scale": torch.ones(64, dtype=torch.int32)}, "scales of shape"),
    "scale shape": ({"odd:scale": torch.ones(64, 1)}, r"scales of shape \(64, 1\)"),
    "NaN scale": ({"matrix:scale": torch.full((64,), torch.nan)}, "a scale that is not a finite number"),
    "infinite scale": ({"odd:scale": torch.full((64,), torch.inf)}, "a scale that is not a finite number"),
    "int8 type": ({"odd:int8": GOOD["odd:int8"].float()}, "codes of type float32"),
    "factor rows": ({"codes:factor": GOOD["codes:factor"][1:]}, "factors of shape"),
    "factor groups": ({"codes:factor": torch.ones(64, 5, dtype=torch.uint8)}, r"factors of shape \(64, 5\)"),
    "no groups": ({"codes:factor": torch.ones(64, 0, dtype=torch.uint8)}, r"factors of shape \(64, 0\)"),
    "factor type": ({"codes:factor": GOOD["codes:factor"].float()}, "factors of shape"),
    "factor 0": ({"codes:factor": GOOD["codes:factor"] * 0}, "out of range"),
    "factor 19": ({"codes:factor": GOOD["codes:factor"] * 0 + 19}, "out of range"),
    "code -8": ({"codes:int4": GOOD["codes:int4"] * 0}, "out of range"),
    "another kind": ({"matrix:int3": GOOD["matrix:int6"]}, r"does not know \(int3\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_tensors_are_named(name: str) -> None:
    changes, words = DAMAGED[name]
    stored = {key: value for key, value in (GOOD | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=words) as caught:
        decode(stored, "x.safetensors", "Fetch it.")
    assert caught.value.what.startswith("x.safetensors is damaged: ") and caught.value.do == "Fetch it."
    assert caught.value.what.count(". ") == 0 and caught.value.what.endswith(".")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight": None}, "it lacks weight"),
        ({"more": torch.zeros(1)}, "more has no place in the network"),
        ({"bias": torch.zeros(1)}, r"bias has shape \(1,\) and the network \(2,\)"),
        ({"bias": torch.zeros(2, dtype=torch.int64)}, "bias holds torch.int64 where the network has torch.float32"),
    ],
)
def test_a_state_of_another_network_is_refused(changes: dict[str, Tensor | None], words: str) -> None:
    module = nn.Linear(3, 2)
    state = {key: value for key, value in (module.state_dict() | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=words):
        load_into(module, state, "x")
    load_into(module, {"weight": torch.ones(2, 3).half(), "bias": torch.zeros(2)}, "x")
    assert module.weight.dtype == torch.float32 and bool((module.weight == 1).all())


def test_float16_holds_no_infinity_on_either_side() -> None:
    stored = encode({"a": torch.tensor([-1e6, -2.0, 1e6])}, lambda *_: "fp16")
    assert decode(stored)["a"].tolist() == [-65504.0, -2.0, 65504.0]
