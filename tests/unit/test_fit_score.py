"""The fit of a vector: what it means on texts that fit, what it says of others, and damaged files of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from unembed.checkpoint.fit_file import read_fit_score, write_fit_score
from unembed.cli.recovered import Fitting
from unembed.decoding.recovery import Recovery
from unembed.errors import CheckpointError, DataError
from unembed.priors.fit_score import LIMIT, FitScore, Judged

DIM = 48


def usual(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def long(n: int, seed: int) -> np.ndarray:
    return usual(n, seed) + np.eye(DIM, dtype=np.float32)[0] * 4.5


@pytest.fixture(scope="module")
def score() -> FitScore:
    weights = np.zeros((1, DIM))
    weights[0, 0] = 5.0  # the best classifier of `long`
    return FitScore.of(usual(4000, 0), weights, np.array([-12.5]), ("long",))


def test_the_fit_is_uniform_on_texts_that_fit(score: FitScore) -> None:
    fit = score(usual(4000, 1)).fit
    for share in (0.01, 0.05, 0.2, 0.5, 0.8):
        assert abs((fit < share).mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000) + 0.005, share


def test_misfits_are_named_by_what_they_look_like(score: FitScore) -> None:
    for rows, reason in ((long(300, 2), "long"), (usual(300, 3) * 3, "vector")):
        judged = score(rows)
        named = [one for one in judged.misfit if one is not None]
        assert len(named) > 270 and np.mean([one == reason for one in named]) > 0.8, judged.misfit
        assert all((one is not None) == (fit < LIMIT) for one, fit in zip(judged.misfit, judged.fit, strict=True))
    assert np.mean([one is None for one in score(usual(1000, 4)).misfit]) > 0.98


def test_a_row_does_not_depend_on_the_rows_beside_it(score: FitScore) -> None:
    rows = np.concatenate((usual(5, 5), long(5, 6)))
    alone = [float(score(rows[i : i + 1]).fit[0]) for i in range(10)]
    np.testing.assert_allclose(score(rows).fit, alone, rtol=1e-6)


def test_trust_falls_as_far_as_it_was_measured_and_leaves_what_fits_alone(score: FitScore) -> None:
    z = np.concatenate((usual(2000, 7), usual(300, 8) * 3))
    kinds = [None] * 2000 + ["vector"] * 300
    true = np.array([0.6] * 2000 + [0.06] * 300)
    trusting = score.with_trust(z, kinds, np.full(2300, 0.6), true)
    assert trusting(usual(500, 9)).trust.mean() > 0.98
    assert np.median(trusting(usual(200, 10) * 3).trust) == pytest.approx(0.1, abs=0.02)
    assert (trusting(usual(50, 11) * np.linspace(0.5, 4, 50, dtype=np.float32)[:, None]).trust <= 1).all()
    line = trusting(np.outer(np.linspace(6, 40, 60), np.full(DIM, DIM**-0.5)).astype(np.float32)).trust
    assert (np.diff(line) <= 1e-9).all(), "further from what was learnt, and trusted more"


def test_few_texts_tell_nothing() -> None:
    with pytest.raises(DataError, match="19 texts"):
        FitScore.of(usual(19, 0))


def test_the_file_is_the_same_score(score: FitScore, tmp_path: Path) -> None:
    write_fit_score(tmp_path / "fit.safetensors", score)
    again, rows = read_fit_score(tmp_path / "fit.safetensors", DIM), np.concatenate((usual(50, 1), long(50, 2)))
    np.testing.assert_array_equal(again(rows).fit, score(rows).fit)
    assert again(rows).misfit == score(rows).misfit


def _damaged(score: FitScore, name: str, value: object) -> FitScore:
    import dataclasses

    return dataclasses.replace(score, **{name: value})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("knots", lambda v: v[:, ::-1]),
        ("knots", lambda v: v * np.nan),
        ("knots", lambda v: v[:1]),
        ("weights", lambda v: v[:, :-1]),
        ("weights", lambda v: np.full_like(v, np.inf)),
        ("offsets", lambda v: np.zeros(7, np.float32)),
        ("tails", lambda v: v * 0),
        ("tails", lambda v: v * 2),
        ("trust_y", lambda v: v + 1),
        ("trust_y", lambda v: v - 2),
        ("trust_x", lambda v: v[:, :0]),
        ("reasons", lambda v: ("vector", "<b>")),
        ("reasons", lambda v: ()),
        ("n", lambda v: 0),
    ],
)
def test_a_damaged_file_is_refused(score: FitScore, name: str, change: object, tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    write_fit_score(path, _damaged(score, name, change(getattr(score, name))))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"fit\.safetensors"):
        read_fit_score(path, DIM)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"{}", b"\x00" * 100):
        (tmp_path / "fit.safetensors").write_bytes(data)
        with pytest.raises(CheckpointError):
            read_fit_score(tmp_path / "fit.safetensors", DIM)


def recovered(judged: Judged) -> list[Recovery]:
    return [
        Recovery("a", 0.5, 0.1, (1,), ("a",), (0.5,), 1, 1, fit=float(fit), misfit=misfit)
        for fit, misfit in zip(judged.fit, judged.misfit, strict=True)
    ]


def test_a_file_is_warned_of_once_and_only_where_chance_does_not_explain_it(score: FitScore) -> None:
    def said(*parts: np.ndarray) -> str:
        fitting = Fitting()
        for part in parts:
            fitting.add(recovered(score(part)))
        return fitting.warning()

    warned = [bool(said(usual(200, seed))) for seed in range(40)]
    assert np.mean(warned) <= 0.1, "files that fit are warned of"
    assert "20 of 20 rows do not fit" in said(usual(20, 1) * 3) and "another encoder" in said(usual(20, 1) * 3)
    assert "longer" in said(usual(100, 2), long(30, 3))
    assert "1 of 1 rows" in said(usual(1, 4) * 3)
    mild = usual(300, 5) + np.eye(DIM, dtype=np.float32)[0] * 2  # few rows alone are below the limit
    assert "fit of the whole file" in said(mild)
    assert said() == ""


def test_the_shipped_list_of_files_guards_what_warns(tmp_path: Path) -> None:
    """An empty list, a file that is not listed, one that is gone: each is named, and the model is not used without."""
    from unembed.checkpoint.checkpoint import load_checkpoint, verify_checkpoint
    from unembed.checkpoint.shipped import find_checkpoint
    from unembed.checkpoint.sums import FIT_FILE

    model = tmp_path / "m"
    shutil.copytree(find_checkpoint("default"), model)
    sums, fit = (model / "SHA256SUMS").read_text(), (model / FIT_FILE).read_bytes()
    assert verify_checkpoint(model)[1] == []
    without = "".join(line for line in sums.splitlines(True) if FIT_FILE not in line)
    for listed, there in (("", fit), (without, fit), (sums, None), (sums, fit[:-1] + b"x")):
        (model / "SHA256SUMS").write_text(listed)
        (model / FIT_FILE).unlink(missing_ok=True)
        if there is not None:
            (model / FIT_FILE).write_bytes(there)
        with pytest.raises(CheckpointError, match=r"SHA256SUMS|fit-score"):
            verify_checkpoint(model)
        with pytest.raises(CheckpointError, match=r"SHA256SUMS|fit-score"):
            _ = load_checkpoint(model).fit_score
