"""Vectors written as text: every way of writing them gives the same numbers, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.stores.written import as_vector, is_missing, oddity, parse_vector

VECTOR = np.random.default_rng(0).normal(size=24).astype(np.float32)
LIST = VECTOR.tolist()
ROUGH = [round(value, 6) for value in LIST]
TEXTS = [repr(value) for value in LIST]

EXACT = {
    "JSON and pgvector": json.dumps(LIST),
    "without spaces": json.dumps(LIST, separators=(",", ":")),
    "Postgres array": "{" + ",".join(TEXTS) + "}",
    "tuple": repr(tuple(LIST)),
    "spaces": "[" + " ".join(TEXTS) + "]",
    "numpy 2 scalars": "[" + ", ".join(f"np.float64({text})" for text in TEXTS) + "]",
    "decimals": repr([Decimal(text) for text in TEXTS]),
    "strings": json.dumps(TEXTS),
    "one list in a list": json.dumps([LIST]),
    "quotes around": json.dumps(json.dumps(LIST)),
    "bare, commas": ",".join(TEXTS),
    "bare, spaces": " ".join(TEXTS),
    "bare, bars": "|".join(TEXTS),
    "semicolons": ";".join(TEXTS),
    "decimal commas": ";".join(text.replace(".", ",") for text in TEXTS),
    "decimal commas in brackets": "[" + "; ".join(text.replace(".", ",") for text in TEXTS) + "]",
    "base64": base64.b64encode(VECTOR.tobytes()).decode(),
    "base64 without padding": base64.urlsafe_b64encode(VECTOR.tobytes()[:-4]).decode().rstrip("="),
    "base64 of float64": base64.b64encode(VECTOR.astype(np.float64).tobytes()).decode(),
    "bytea": "\\x" + VECTOR.tobytes().hex(),
    "hexadecimal": "0x" + VECTOR.tobytes().hex().upper(),
    "a trailing comma": "[" + ",".join(TEXTS) + ",]",
    "lines": "[" + ",\n  ".join(TEXTS) + "]\n",
}


@pytest.mark.parametrize("name", EXACT)
def test_ways_to_write_a_vector(name: str) -> None:
    expected = LIST[:-1] if "padding" in name else LIST
    assert parse_vector(EXACT[name]) == expected


def test_what_libraries_print() -> None:
    torch = f"tensor([{', '.join(f'{value: .4f}' for value in LIST)}], device='cuda:0', grad_fn=<MulBackward0>)"
    tensorflow = f"<tf.Tensor: shape=(24,), dtype=float32, numpy=\n{VECTOR!r}>"
    for text in (repr(VECTOR), str(VECTOR), f"np.{VECTOR!r}", f"[{VECTOR!r}]", f"({VECTOR!r},)", torch, tensorflow):
        np.testing.assert_allclose(parse_vector(text), LIST, atol=1e-4)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (str(np.arange(3000.0)), "left out of it"),
        ("[0.1, 0.2, …, 0.3]", "left out of it"),
        (json.dumps(LIST)[:-9], "has no ] at the end"),
        (json.dumps([LIST, LIST]), "several lists"),
        ("[0.1, x, 0.3]", "'x' is found where"),
        ("[0.1,,0.3]", "nothing is found where"),
        ("[0.1, NULL]", "'NULL' is found where"),
        ("{1:0.5,7:0.25}/24", "has no } at the end"),
        ("", "empty"),
        ("NULL", "empty"),
        ("[[[[[[1.0, 2.0]]]]]]", "list"),
        (base64.b64encode(np.random.default_rng(0).bytes(96)).decode(), "neither float32 nor float64"),
    ],
)
def test_what_stands_in_the_way_is_said(cell: str, why: str) -> None:
    assert as_vector(cell) is None
    assert why in oddity(cell)


@pytest.mark.parametrize(
    "cell",
    [
        "555 123 4567",
        "2024-01-31",
        "12, 13",
        "a text of eight words and some more words",
        "(c) 2024",
        "9f" * 64,
        "<b>1</b>",
        "1",
    ],
)
def test_text_is_not_taken_for_a_vector(cell: str) -> None:
    assert as_vector(cell) is None


def test_missing() -> None:
    assert all(map(is_missing, (None, "", " ", "NULL", "NaN", "\\N", "[]")))
    assert not any(map(is_missing, ("[0.1]", 0, "no", "x" * 100)))
    assert "of type dict" in oddity({})


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="[](){}<>'\"0123456789.,;| eE+-naryitfsor=\n", max_size=40))
def test_any_text_is_read_or_refused(cell: str) -> None:
    values = as_vector(cell)
    assert values is None or all(isinstance(value, float) for value in values)
    assert isinstance(oddity(cell), str)
