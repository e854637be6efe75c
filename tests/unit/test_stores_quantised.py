"""Quantised vectors: scale and offset, packed bits, ranges as sentence-transformers writes them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.feather import write_feather
from safetensors.numpy import save_file
from test_stores_more import rows_of, says, write

from unembed.errors import InputError
from unembed.stores.opening import open_store
from unembed.stores.quantised import Quantisation, parse_numbers
from unembed.stores.reading import ReadOptions


def test_scale_and_offset(tmp_path: Path) -> None:
    stored = np.array([[-128, 0, 127], [1, 2, 3]], np.int8)
    np.save(tmp_path / "a.npy", stored)
    write(tmp_path / "a.jsonl", stored, ["a", "b"], ["", ""])
    for name in ("a.npy", "a.jsonl"):
        read = lambda path=tmp_path / name, **options: rows_of(path, **options)[0]  # noqa: E731
        np.testing.assert_allclose(read(scale=0.5), stored * 0.5)
        np.testing.assert_allclose(read(scale=[1, 2, 3], offset=[1, 0, -1]), stored * [1.0, 2, 3] + [1, 0, -1])
        np.testing.assert_allclose(read(offset=0.25), stored + 0.25)
        says(tmp_path / name, "2 numbers", "dimension 3", scale=[1, 2])
    with pytest.raises(InputError, match="neither scale nor offset"):
        Quantisation(scale=1, packed=True)
    for bad in ("x", [1, float("nan")], np.ones((3, 3)), []):
        with pytest.raises(InputError, match=r"scale.*Give"):
            Quantisation(scale=bad)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet", "a.arrow"])
def test_scales_beside_the_vectors(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    stored, scales = np.array([[1, -2], [3, 4], [5, 6]], np.int8), np.array([0.5, 2, 3], np.float32)
    path = tmp_path / name
    for plain in (False, True):
        arrays = {"v": stored} if plain else {"v": stored, "scales": scales}
        if path.suffix == ".npz":
            np.savez(path, **arrays)
        elif path.suffix == ".safetensors":
            save_file(arrays, path)
        else:
            table = pa.table({**arrays, "v": pa.array(stored.tolist(), pa.list_(pa.int8()))})
            pq.write_table(table, path) if path.suffix == ".parquet" else write_feather(table, path)
        with caplog.at_level(logging.INFO, "unembed"):
            caplog.clear()
            got = rows_of(path, batch=2)[0]
        np.testing.assert_allclose(got, stored if plain else stored * scales[:, None])
        assert ("used as they are" in caplog.text) == plain
    np.testing.assert_allclose(rows_of(path, scale=2)[0], stored * 2)


def test_scales_of_another_shape_are_not_overlooked(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=np.ones((3, 2), np.int8), scale=np.ones(2))
    says(tmp_path / "a.npz", "'scale' of shape (2,)", "--scale")
    assert rows_of(tmp_path / "a.npz", scale=[1, 2])[0].tolist() == [[1, 2]] * 3
    np.savez(tmp_path / "b.npz", v=np.ones((3, 2), np.float32), scale=np.full(3, 5.0))
    assert rows_of(tmp_path / "b.npz")[0].tolist() == [[1, 1]] * 3, "floats are not scaled by what lies beside"


def pack(vectors: np.ndarray, kind: str) -> np.ndarray:
    """What sentence-transformers 5 stores for "ubinary" and "binary"."""
    bits = np.packbits(vectors > 0, axis=-1)
    return bits if kind == "uint8" else (bits - 128).astype(np.int8)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "list.parquet", "file.arrow"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_packed_bits(tmp_path: Path, name: str, dtype: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 32))
    write(tmp_path / name, pack(vectors, dtype), [f"r{i}" for i in range(9)], [""] * 9)
    assert open_store(tmp_path / name, reading=ReadOptions(Quantisation(packed=True))).dimension == 32
    np.testing.assert_array_equal(rows_of(tmp_path / name, packed=True, batch=4)[0], np.sign(vectors))


def test_packed_bits_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[128, 1]\n[255, 0]\n")
    expected = [[1, *[-1] * 14, 1], [1] * 8 + [-1] * 8]
    assert rows_of(tmp_path / "a.jsonl", packed=True)[0].tolist() == expected
    (tmp_path / "a.jsonl").write_text("[128, 1]\n[-3, 0]\n")
    says(tmp_path / "a.jsonl", "Row 1", "not a byte", packed=True)
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    says(tmp_path / "a.npy", "float64", "--packed", packed=True)


def bins(vectors: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """The steps of 255 that sentence-transformers counts."""
    return np.clip(np.floor((vectors - ranges[0]) / ((ranges[1] - ranges[0]) / 255)), 0, 255)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_ranges_of_sentence_transformers(tmp_path: Path, dtype: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6))
    ranges = np.vstack([vectors.min(0), vectors.max(0)])
    stored = bins(vectors, ranges) - (128 if dtype == "int8" else 0)
    np.save(tmp_path / "a.npy", stored.astype(dtype))
    np.save(tmp_path / "ranges.npy", ranges)
    got = rows_of(tmp_path / "a.npy", scale=parse_numbers(str(tmp_path / "ranges.npy"), "scale"))[0]
    step = (ranges[1] - ranges[0]) / 255
    assert (np.abs(got - vectors) <= step * 0.51).all()


@pytest.mark.slow
def test_against_sentence_transformers_itself(tmp_path: Path) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    vectors = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    ranges = np.vstack([vectors.min(0), vectors.max(0)])
    for precision in ("uint8", "int8", "ubinary", "binary"):
        np.save(tmp_path / "a.npy", quantize_embeddings(vectors, precision, ranges=ranges))
        options = {"packed": True} if "binary" in precision else {"scale": ranges}
        got = rows_of(tmp_path / "a.npy", **options)[0]
        if "binary" in precision:
            np.testing.assert_array_equal(got, np.sign(vectors))
        else:
            assert (np.abs(got - vectors) <= (ranges[1] - ranges[0]) / 255 * 0.51).all()
