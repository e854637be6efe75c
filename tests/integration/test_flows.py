"""The four flows enter no more files than scripts/flows.py allows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import flows


@pytest.mark.slow
@pytest.mark.parametrize("name", flows.FLOWS)
def test_a_flow_enters_few_files(name: str) -> None:
    files = flows.measure(name, "default")
    assert 20 < len(files) <= flows.BOUNDS[name], files
