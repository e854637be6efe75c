"""What a CPU has no memory for is refused when it is asked for, in a way that the loop survives."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from unembed.training.memory import limited_memory, out_of_memory

PROGRAM = """
import torch
from unembed.training.memory import limited_memory, out_of_memory
with limited_memory() as limit:
    kept = []
    try:
        for _ in range(20):  # never written to, so that a system that grants too much would not notice
            kept.append(torch.empty(limit // 10, dtype=torch.uint8))
    except RuntimeError as error:
        print(len(kept), out_of_memory(error))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_more_than_there_is_is_refused_and_recognised() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    count, recognised = done.stdout.split()
    assert recognised == "True" and 3 <= int(count) <= 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_the_limit_is_gone_afterwards_and_a_lower_one_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory() as max_length:
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == max_length > 2**28
        with limited_memory() as inner:
            assert inner <= max_length
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert not out_of_memory(RuntimeError("shapes differ")) and out_of_memory(torch.OutOfMemoryError("x"))
