"""A short fuzz of request bodies; benchmarks/robustness/fuzz_bodies.py does the same with 100,000."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.robustness import fuzz_bodies, fuzzing


@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_bodies_are_answered_or_refused(tmp_path: Path, count: int) -> None:
    fuzzer = fuzz_bodies.BODIES
    fuzzer.rehearse(tmp_path, 3)
    found = [record for record in fuzzing.try_cases(fuzzer, 0, count, 3, tmp_path) if "outcome" in record]
    fuzzer.runner.close()
    fuzzer.app.state.engine.close()
    assert len(found) == count
    assert [record for record in found if record["outcome"] == "failed"] == []
    assert {record["outcome"] for record in found} == {"read", "refused"}
