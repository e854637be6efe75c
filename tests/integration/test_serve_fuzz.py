"""A short fuzz of request bodies; benchmarks/fuzz_bodies.py does the same with 100,000."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_bodies_are_answered_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    fuzzing, fuzzer = importlib.import_module("fuzzing"), importlib.import_module("fuzz_bodies").BODIES
    fuzzer.rehearse(tmp_path, 3)
    found = [record for record in fuzzing.try_cases(fuzzer, 0, count, 3, tmp_path) if "outcome" in record]
    fuzzer.runner.close()
    fuzzer.app.state.engine.close()
    assert len(found) == count
    assert [record for record in found if record["outcome"] == "failed"] == []
    assert {record["outcome"] for record in found} == {"read", "refused"}
