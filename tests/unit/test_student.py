"""The student encoder: it learns, it is kept in a file of its own, and forecasts begin at the draft that was asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from unembed.checkpoint.student_file import STUDENT_FILE, StudentFile, read_student, write_student
from unembed.errors import CheckpointError
from unembed.files import sha256_file
from unembed.network.student import StudentConfig, StudentEncoder
from unembed.refinement.forecast import Forecaster

CONFIG = StudentConfig(vector_dim=24, limit=8, embedding_dim=16, width=128, layers=2, heads=2, mlp=256)


def rows(count: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, n, CONFIG.embedding_dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def student() -> StudentEncoder:
    torch.manual_seed(0)
    return StudentEncoder(CONFIG).eval()


def test_padding_changes_nothing(student: StudentEncoder) -> None:
    short, long = rows(2, 3), rows(2, 7, seed=1)
    padded = torch.cat((F.pad(short, (0, 0, 0, 4), value=9.0), long))
    together = student(padded, torch.tensor([3, 3, 7, 7]))
    torch.testing.assert_close(together[:2], student(short), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[2:], student(long), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))


def test_it_learns_the_order_of_words() -> None:
    torch.manual_seed(1)
    net = StudentEncoder(CONFIG)
    texts = rows(4, 5)
    texts = torch.cat((texts, texts.flip(1)))  # the same words backwards have another vector
    wanted = F.normalize(torch.randn(8, CONFIG.vector_dim), dim=1)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(150):
        loss = (1 - (net(texts) * wanted).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (net(texts) @ wanted.T).argmax(1).tolist() == list(range(8))
    assert loss.item() < 0.05


def test_a_student_comes_back_from_its_file(tmp_path: Path, student: StudentEncoder) -> None:
    weights = {"replace": [0.1, 0.2, 0.3, 0.4, 0.5]}
    write_student(tmp_path, StudentFile(student, weights, {"texts": 7}), "abc")
    read = read_student(tmp_path, "abc")
    assert read is not None and read.surrogate == weights and read.notes == {"texts": 7}
    cosine = F.cosine_similarity(read.student(rows(5, 6)), student(rows(5, 6)))
    assert cosine.min() > 0.99  # rows of 6 bits
    assert read_student(tmp_path, "another checkpoint") is None
    assert read_student(tmp_path / "nowhere", "abc") is None


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_student_of_version_1_is_read(tmp_path: Path, student: StudentEncoder, dtype: str) -> None:
    write_student(tmp_path, StudentFile(student), "abc", dtype)
    notes = json.loads((tmp_path / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps({**notes, "version": 1}))
    read = read_student(tmp_path, "abc")
    assert read is not None and F.cosine_similarity(read.student(rows(5, 6)), student(rows(5, 6))).min() > 0.999


def test_a_student_with_foreign_tensors_is_refused(tmp_path: Path, student: StudentEncoder) -> None:
    """Its checksum is right, and still it cannot be used."""
    write_student(tmp_path, StudentFile(student), "abc")
    path, notes = tmp_path / STUDENT_FILE, json.loads((tmp_path / "student.json").read_text())
    stored = load_file(path)
    for changes, words in (
        ({"blocks.0.up.weight:scale": torch.full((256,), torch.nan)}, "blocks.0.up.weight has a scale that is no"),
        ({"more": torch.zeros(2)}, "more has no place"),
    ):
        save_file(stored | changes, path)
        (tmp_path / "student.json").write_text(json.dumps({**notes, "sha256": sha256_file(path)}))
        with pytest.raises(CheckpointError, match=words) as caught:
            read_student(tmp_path, "abc")
        assert "student.json" in caught.value.do


def test_a_damaged_student_is_refused(tmp_path: Path, student: StudentEncoder) -> None:
    write_student(tmp_path, StudentFile(student), "abc")
    path = tmp_path / STUDENT_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged"):
        read_student(tmp_path, "abc")
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        read_student(tmp_path, "abc")
    notes = json.loads((tmp_path / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps({**notes, "version": 3}))
    with pytest.raises(CheckpointError, match="format"):
        read_student(tmp_path, "abc")


def test_forecasts_begin_at_the_draft_that_was_asked(student: StudentEncoder) -> None:
    table = rows(1, 12)[0]
    targets = F.normalize(torch.randn(2, CONFIG.vector_dim, generator=torch.Generator().manual_seed(3)), dim=1)
    forecaster = Forecaster(student, table, targets)
    drafts = [(1, 2, 3), (4, 5, 6, 7)]
    exact = forecaster.encode(drafts)
    proposals = [[(1, 2, 3), (1, 2, 4)], [(4, 5), (7, 6, 5, 4), (4, 5, 6, 7)]]
    # An encoder that answers as the student does is forecast without error.
    changes = forecaster.changes(drafts, [1, 0], exact, proposals)
    for text, own, part, found in zip([1, 0], exact, proposals, changes, strict=True):
        truth = (forecaster.encode(part) - own) @ targets[text]
        torch.testing.assert_close(torch.tensor(found), truth, atol=1e-5, rtol=1e-3)
    # Whatever the encoder answered, the draft itself changes nothing.
    answered = F.normalize(torch.randn(2, CONFIG.vector_dim, generator=torch.Generator().manual_seed(4)), dim=1)
    changes = forecaster.changes(drafts, [1, 0], answered, proposals)
    assert changes[0][0] == pytest.approx(0, abs=1e-5) and changes[1][2] == pytest.approx(0, abs=1e-5)
