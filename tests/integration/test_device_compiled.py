"""The device path compiled, without values, and where it is refused by name."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_device_path import CPU, keeping, losses_of, packs, recipe, task_of  # noqa: F401

from tests.helpers.scripts import run_script
from unembed.errors import DataError, RecipeError
from unembed.training.device import kernels as head
from unembed.training.stepper import make_task
from unembed.training.tasks.device_task import refuse


def test_a_compiler_that_fails_is_done_without(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    want = losses_of(recipe(packs), tmp_path / "plain")
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with caplog.at_level("WARNING"):
        found = losses_of(recipe(packs, run={"compile": "yes"}), tmp_path / "run")
    assert "compiled code failed: continuing without it" in caplog.text
    assert np.allclose(found, want, rtol=1e-4)


def test_each_function_is_compiled_once_a_bucket_whatever_the_depth(
    packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    graphs: list[Any] = []

    def plain(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=plain))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = task_of(recipe(packs, model={"layers": 3}, run={"compile": "yes"}, data={"buckets": [4, 8, 12]}))
        task.warm_up()
        made = len(graphs)
        for _ in range(2 * task.feed.batches_per_epoch):
            (part,) = task.draw()
            task.score(part, torch.Generator()).backward()
    assert task.resident.kernels.compiled and made == len(graphs) <= 3 * 3
    assert counters["stats"]["unique_graphs"] == made


@pytest.mark.slow
def test_what_is_compiled_learns_the_same(packs: Path, tmp_path: Path) -> None:
    """With torch's own compiler: a minute of it."""
    torch._dynamo.reset()
    want = losses_of(recipe(packs, model={"dropout": 0.0}), tmp_path / "plain")
    found = losses_of(recipe(packs, model={"dropout": 0.0}, run={"compile": "yes"}), tmp_path / "run")
    assert np.allclose(found, want, rtol=2e-3)


@pytest.mark.parametrize("kept", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_whole_step_needs_no_value(packs: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """Tokens, encoder, vectors and loss on tensors without values, where a read is an error; all made on the device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    if kept:
        keeping(monkeypatch)
    task = task_of(recipe(packs))
    _ = task.loss.evidence
    for _ in range(6):
        (part,) = task.draw()
        with FakeTensorMode(allow_non_fake_inputs=True):
            task.score(part, torch.Generator()).backward()
        task.model.zero_grad()
        with torch.device("meta"):  # where a tensor would be made that names no device
            task.score(part, torch.Generator()).backward()


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("model", "backbone", "paper"),
        ("model", "canvas", "eos"),
        ("model", "token_prior", False),
        ("model", "time_conditioning", True),
        ("objective", "masking", "time"),
        ("objective", "loss_weight", "bound"),
        ("objective", "vector_drop", 0.1),
    ],
)
def test_what_has_no_fixed_shapes_is_refused_by_name(packs: Path, table: str, key: str, value: Any) -> None:
    more = {"prefix_tokens": 0} if value == "paper" else {}
    with pytest.raises(RecipeError) as caught:
        make_task(recipe(packs, **{table: {key: value} | more}), CPU)
    assert f"{table}.{key}" in caught.value.what and f"{table}.{key}" in caught.value.do


def test_other_devices_shards_and_small_corpora_are_refused(packs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="device mps"):
        refuse(recipe(packs), torch.device("mps"))
    with pytest.raises(DataError, match="too few texts for a batch"):
        task_of(recipe(packs, data={"batch_size": 4000}))
    task = task_of(recipe(packs, objective={"shortlist_frequent": 4, "shortlist_sampled": 4}))
    with pytest.raises(RecipeError, match=r"different tokens, the softmax of a step has 8 columns"):
        task.warm_up()


@pytest.mark.slow
def test_the_benchmark_measures_both_paths_and_counts(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(head._CELLS, "cpu", head._CELLS["cpu"])  # the benchmark changes it for its own process
    small = ["model.width=16", "model.layers=2", "model.heads=2", "model.embedding_dim=0", "data.batch_size=16"]
    small += ["objective.shortlist_frequent=40", "objective.shortlist_sampled=40", "run.precision=fp32"]
    words = [packs / "a", "--held-out", packs / "held", "--steps", 3, "--warmup", 1, "--fitted", 100]
    words += ["--matmul-seconds", 0.05, "--out", tmp_path / "device.json"]
    words += [word for item in small for word in ("--set", item)]
    run_script("benchmarks.speed.device", *words)
    found = json.loads((tmp_path / "device.json").read_text())
    assert json.loads(capsys.readouterr().out)["exact"] == found["exact"]
    assert all(found[path]["texts_per_second"] > 0 < found[path]["share"] for path in ("exact", "on_device"))
    counts = found["counted"]
    parts = counts["blocks"]["operations"] + counts["head"]["operations"] + counts["encoder"]["operations"]
    assert counts["operations"] == parts + counts["update"] + counts["between"] > 300
    assert counts["between"] < 450 and counts["blocks"]["calls"] == 4
