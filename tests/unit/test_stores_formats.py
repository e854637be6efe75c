"""Arrays of every shape and order, what is not read of them, compressed files, .fvecs and .bvecs, HDF5."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from safetensors.numpy import save_file

from unembed.errors import InputError
from unembed.stores.opening import open_store, read_vectors
from unembed.stores.reading import ReadOptions

ROWS, WIDTH = 5, 20
VECTORS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def vectors_of(path: Path | str, **options: Any) -> np.ndarray:
    return np.concatenate([batch.vectors for batch in read_vectors(path, batch=2, **options)])


def noted(path: Path, *wanted: str, **options: Any) -> tuple[Any, list[str]]:
    """Read as a command does that uses some columns; return the first batch and the notes."""
    notes: list[str] = []
    store = open_store(path, reading=ReadOptions(on_note=notes.append, wanted=frozenset(wanted)), **options)
    return next(iter(store.batches())), notes


# arrays


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize(
    "array",
    [
        VECTORS.astype(">f4"),
        VECTORS.astype(">f8"),
        np.asfortranarray(VECTORS),
        VECTORS[:, None],
        VECTORS[:, :, None],
        np.asfortranarray(VECTORS[:, None]),
        VECTORS.astype(np.longdouble),
    ],
    ids=["big-endian", "big-endian doubles", "by columns", "n,1,d", "n,d,1", "n,1,d by columns", "long doubles"],
)
def test_orders_and_shapes(tmp_path: Path, ending: str, array: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{ending}"
    np.save(path, array) if ending == "npy" else np.savez_compressed(path, v=array)
    np.testing.assert_array_equal(vectors_of(path), VECTORS)
    if ending == "npy":
        for data in (path.read_bytes(), gzip.compress(path.read_bytes())):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
            np.testing.assert_array_equal(vectors_of("-", kind="npy"), VECTORS)


def test_columns_that_are_too_large_to_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.stores.arrays.npy.READ_BYTES", 100)
    np.savez(tmp_path / "a.npz", v=np.asfortranarray(VECTORS))
    with pytest.raises(InputError, match=r"column by column.*ascontiguousarray"):
        vectors_of(tmp_path / "a.npz")


def test_token_vectors_and_vectors_apart_are_said_to_be_so(tmp_path: Path) -> None:
    tokens = np.ones((2, 3, 4), np.float32)
    np.save(tmp_path / "a.npy", tokens)
    np.savez(tmp_path / "a.npz", v=tokens)
    save_file({"v": tokens}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.npz", "a.safetensors"):
        with pytest.raises(InputError, match=r"2(, | x )3(, | x )4.*pooled"):
            vectors_of(tmp_path / name)
    apart = {f"doc{i}": row for i, row in enumerate(VECTORS)}
    np.savez(tmp_path / "b.npz", **apart)
    save_file(apart, tmp_path / "b.safetensors")
    for name in ("b.npz", "b.safetensors"):
        with pytest.raises(InputError, match=r"it holds doc0 \(float32, 20\).*Stack the vectors"):
            vectors_of(tmp_path / name)
        with pytest.raises(InputError, match="no vector column named 'w'"):
            vectors_of(tmp_path / name, column="w")


def test_what_is_not_read_of_an_archive_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    objects = np.array(["x0", "x1", "x2", "x3", "x4"], dtype=object)
    np.savez(path, v=VECTORS, ids=objects, text=objects, other=np.zeros(7), n=np.arange(ROWS))
    batch, notes = noted(path, "n")
    assert batch.ids == list(range(ROWS)) and batch.metadata == {"n": list(range(ROWS))}
    assert len(notes) == 1 and "'ids' of" in notes[0] and "never unpickled. Rows are numbered instead." in notes[0]
    with pytest.raises(InputError, match=r"no column named 'text' that can be read: .*never unpickled.*dtype=str"):
        noted(path, "text")
    with pytest.raises(InputError, match=r"no column named 'other' that can be read: .*shape \(7,\), not one value"):
        noted(path, "other")
    with pytest.raises(InputError, match=r"no column named 'ids' that can be read"):
        noted(path, id_column="ids")
    named = np.array([f"x{i}" for i in range(ROWS)])
    np.savez(path, v=VECTORS, ids=named.astype("S"), when=np.array(["2024-02-29"] * ROWS, "M8[D]"))
    batch, notes = noted(path, "when")
    assert batch.ids == named.tolist() and batch.metadata["when"][0] == "2024-02-29" and not notes


def test_bytes_are_noted(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", (VECTORS * 50 + 128).astype(np.uint8))
    batch, notes = noted(tmp_path / "a.npy")
    assert batch.vectors.shape == VECTORS.shape and len(notes) == 1 and "--scale" in notes[0]


# compressed


def text_of(kind: str) -> bytes:
    """The vectors as text."""
    if kind == "jsonl":
        return "\n".join(json.dumps({"id": f"r{i}", "v": row.tolist()}) for i, row in enumerate(VECTORS)).encode()
    mark = "\t" if kind == "tsv" else ","
    lines = [mark.join([f"r{i}", *map(repr, row.tolist())]) for i, row in enumerate(VECTORS)]
    return "\n".join([mark.join(["id", *(f"e{i}" for i in range(WIDTH))]), *lines]).encode()


PACKERS = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "GZ": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    "zstd": lambda data: (
        zstandard.ZstdCompressor().compress(data[:100])
        + zstandard.ZstdCompressor(write_content_size=False).compress(data[100:])
    ),
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_compressed_text(tmp_path: Path, kind: str, packer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{kind}.{packer}"
    packed = PACKERS[packer](text_of(kind))
    path.write_bytes(packed)
    store = open_store(path)
    np.testing.assert_allclose(vectors_of(path), VECTORS, rtol=1e-6)
    assert [i for batch in store.batches(2) for i in batch.ids] == [f"r{i}" for i in range(ROWS)]
    (tmp_path / f"b.{kind}").write_bytes(packed)  # by its bytes, whatever its name
    np.testing.assert_allclose(vectors_of(tmp_path / f"b.{kind}"), VECTORS, rtol=1e-6)
    if kind != "tsv":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed)))
        np.testing.assert_allclose(vectors_of("-", kind=kind), VECTORS, rtol=1e-6)
    for cut in range(5, len(packed) - 1, len(packed) // 7):
        path.write_bytes(packed[:cut])
        with pytest.raises(InputError, match="is cut or damaged"):
            vectors_of(path)
    path.write_bytes(packed[:20] + b"\xff\x00\xff" + packed[23:])
    with pytest.raises(InputError):
        vectors_of(path)


def test_formats_that_are_read_from_their_end_are_not_unpacked(tmp_path: Path) -> None:
    for ending in ("parquet", "npz", "safetensors", "h5"):
        path = tmp_path / f"a.{ending}.gz"
        path.write_bytes(gzip.compress(b"x"))
        with pytest.raises(InputError, match=r"is compressed, and .*[Uu]npack it|h5py is not installed"):
            vectors_of(path)
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(b"[1, 2]"))
    with pytest.raises(InputError, match=r"ends in \.bz2"):
        vectors_of(tmp_path / "a.jsonl.bz2")


@pytest.mark.parametrize("packer", ["gz", "zst"])
def test_compressed_bombs(tmp_path: Path, packer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines, one long line, zeros: read up to a hundredfold."""
    monkeypatch.setattr("unembed.stores.inputs.READ_BYTES", 1 << 16)
    monkeypatch.setattr("unembed.stores.inputs.MAX_LINE", 1 << 18)
    for data in (b"\n" * (1 << 20), b" " * (1 << 20), b"[" + b"0," * (1 << 19) + b"0]", b"[0, 0, 0]\n" * (1 << 15)):
        for kind in ("jsonl", "csv"):
            path = tmp_path / f"a.{kind}.{packer}"
            path.write_bytes(PACKERS[packer](data))
            with pytest.raises(InputError, match=r"as a decompression bomb does|longer than|has no rows"):
                vectors_of(path)


def test_compressed_files_leave_nothing_behind(tmp_path: Path) -> None:
    """Found by the fuzz script: what unpacked a file was never let go."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(text_of("jsonl")))

    def held() -> int:
        gc.collect()
        return sum(type(part).__name__ in ("Unpacked", "_Counted") for part in gc.get_objects())

    before = held()
    for _ in range(3):
        vectors_of(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(InputError):
            vectors_of(path)
        path.write_bytes(gzip.compress(text_of("jsonl")))
    assert held() == before


# .fvecs and .bvecs


def vecs(rows: np.ndarray) -> bytes:
    return b"".join(struct.pack("<i", rows.shape[1]) + row.tobytes() for row in rows)


def test_fvecs_and_bvecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.fvecs"
    path.write_bytes(vecs(VECTORS))
    assert open_store(path).count == ROWS and open_store(path).dimension == WIDTH
    np.testing.assert_array_equal(vectors_of(path), VECTORS)
    packed = tmp_path / "b.fvecs.gz"
    packed.write_bytes(gzip.compress(vecs(VECTORS)))
    np.testing.assert_array_equal(vectors_of(packed), VECTORS)
    stored = np.arange(ROWS * WIDTH, dtype=np.uint8).reshape(ROWS, WIDTH)
    path = tmp_path / "a.bvecs"
    path.write_bytes(vecs(stored))
    batch, notes = noted(path)
    np.testing.assert_array_equal(batch.vectors, stored)
    assert len(notes) == 1 and "uint8" in notes[0]
    np.testing.assert_allclose(vectors_of(path, scale=0.5), stored * 0.5)
    with pytest.raises(InputError, match="no named columns"):
        vectors_of(path, column="v")
    with pytest.raises(InputError, match="no column named 'text'"):
        noted(path, "text")
    (tmp_path / "a.ivecs").write_bytes(vecs(np.ones((2, 3), np.int32)))
    with pytest.raises(InputError, match=r"nearest neighbours, not vectors.*\.fvecs"):
        vectors_of(tmp_path / "a.ivecs")


def test_damaged_fvecs(tmp_path: Path) -> None:
    good = vecs(VECTORS)
    row = 4 + 4 * WIDTH
    for data, message in (
        (good[:-3], "is cut"),
        (good[:2], "cannot be read"),
        (b"\xff\xff\xff\xff" + good[4:], "announces vectors of -1"),
        (b"\xff\xff\xff\x7f" + good[4:], "announces vectors of 2147483647"),
        (good[:row] + b"\x15" + good[row + 1 :], "Row 1 of .* announces 21 numbers; the first has 20"),
    ):
        (tmp_path / "a.fvecs").write_bytes(data)
        with pytest.raises(InputError, match=message):
            vectors_of(tmp_path / "a.fvecs")
        (tmp_path / "a.fvecs.zst").write_bytes(PACKERS["zst"](data))
        with pytest.raises(InputError, match=message):
            vectors_of(tmp_path / "a.fvecs.zst")


# HDF5


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["train/v"] = VECTORS
        file["train/ids"] = np.array([2**64 - 1, 1, 2, 3, 4], np.uint64)
        file["text"] = [f"text {i} é" for i in range(ROWS)]
        file.create_dataset("packed", data=-VECTORS[:, None], chunks=(2, 1, WIDTH), compression="gzip")
        file["train/whole"] = file["/"]
        file["elsewhere"] = h5py.ExternalLink("b.h5", "v")
        file["nowhere"] = h5py.SoftLink("/absent")
        file.create_dataset("outside", (ROWS, WIDTH), np.float32, external=[("/etc/hostname", 0, 400)])
    np.testing.assert_array_equal(vectors_of(path, column="train/v"), VECTORS)
    np.testing.assert_array_equal(vectors_of(path, column="packed"), -VECTORS)
    with pytest.raises(InputError, match=r"several columns.*packed.*train/v"):
        vectors_of(path)
    for outside in ("outside", "elsewhere", "nowhere"):
        with pytest.raises(InputError, match="no vector column named"):
            vectors_of(path, column=outside)
    batch, _ = noted(path, "text", column="packed", id_column="train/ids")
    assert batch.ids[0] == 2**64 - 1 and batch.metadata == {"text": [f"text {i} é" for i in range(ROWS)]}
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        vectors_of(path)


def test_hdf5_in_large_chunks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr("unembed.stores.arrays.hdf5.READ_BYTES", 1 << 10)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("v", (1000, 100), np.float32, chunks=(1000, 100), compression="gzip")
    with pytest.raises(InputError, match=r"chunks of 400000 bytes.*smaller chunks"):
        vectors_of(tmp_path / "a.hdf5")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(InputError, match=r'h5py is not installed.*pip install "unembed\[hdf5\]"'):
        vectors_of(tmp_path / "a.h5")
