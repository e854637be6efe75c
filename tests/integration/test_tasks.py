"""What the loop promises, for a denoiser, a student and a corrector alike."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.cli import fails
from tests.helpers.tasks import TASKS, Home, boxed, facts, make_home
from unembed.cli import main
from unembed.errors import CheckpointError, RecipeError
from unembed.training.estimate import estimate
from unembed.training.loop import TrainingResult, train
from unembed.training.pairs.pair_files import Pairs
from unembed.training.recipes.recipe import Recipe
from unembed.training.report import read_log


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("tasks"))


def equal(one: Path, other: Path) -> None:
    """Both runs ended with the same state, bit for bit, and the same place in the data."""
    a, b = load_file(one / "state.safetensors"), load_file(other / "state.safetensors")
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
    known, found = facts(one), facts(other)
    assert all(known[key] == found[key] for key in ("step", "texts", "horizon", "data", "place"))


def stop_at(number: int) -> Callable[[int, float], None]:
    def stop(step: int, loss: float) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


@pytest.mark.parametrize("task", TASKS)
def test_resume_equals_an_unbroken_run_bit_for_bit(home: Home, tmp_path: Path, task: str) -> None:
    """In three sessions, over several epochs: weights, average, optimizer, generators, place, figures."""
    recipe = home.recipe(task, optimizer={"matrices": "muon"})
    whole = train(recipe, tmp_path / "whole")
    assert whole.finished and whole.steps == 30
    assert train(recipe, tmp_path / "parts", on_step=stop_at(7)).steps == 7
    assert train(recipe, tmp_path / "parts", resume=True, on_step=stop_at(19)).steps == 19
    third = train(recipe, tmp_path / "parts", resume=True)
    assert third.finished and third.texts == whole.texts and third.metrics == whole.metrics
    equal(tmp_path / "whole", tmp_path / "parts")
    kinds = [line["kind"] for line in read_log(tmp_path / "whole" / "log.jsonl")]
    assert set(kinds) == {"train", "validation"} and (tmp_path / "whole" / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "task", ["corrector", *(pytest.param(task, marks=pytest.mark.slow) for task in ("denoiser", "student"))]
)
def test_a_killed_run_goes_on_from_its_last_save(home: Home, tmp_path: Path, task: str) -> None:
    """SIGKILL in a process of its own, saved after each step: what came after is lost and comes again, the same."""
    recipe = home.recipe(task, run={"steps": 9, "save_every": 1e-9})
    whole = train(recipe, tmp_path / "whole")
    code = (
        "import json, sys\n"
        "from unembed.training.loop import train\n"
        "from unembed.training.recipes.recipe import Recipe\n"
        "r = Recipe.from_dict(json.loads(sys.argv[1]))\n"
        "train(r, sys.argv[2], on_step=lambda s, l: print(s, flush=True) or (s < 6 or sys.stdin.read()))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(recipe.to_dict()), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 6:  # it waits there: the state is that of step 5
            break
    process.kill()
    process.communicate()
    assert facts(tmp_path / "killed")["step"] == 5
    again = train(recipe, tmp_path / "killed", resume=True)
    assert again.steps == 9 and again.metrics == whole.metrics
    equal(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("horizon", ["steps", "time"])
@pytest.mark.parametrize("task", TASKS)
def test_the_time_box_holds(home: Home, tmp_path: Path, task: str, horizon: str) -> None:
    """Preparation, validation and saving are inside it, but for a margin of this busy machine."""
    recipe = home.recipe(task, run={"steps": 0, "horizon": horizon})

    def timed(seconds: float) -> TrainingResult:
        began = time.monotonic()
        result = train(recipe, tmp_path / "run", max_time=seconds)
        assert time.monotonic() - began < seconds + 8
        return result

    result = boxed(timed)
    assert result.steps > 5 and Path(result.checkpoint).exists()
    if horizon == "time":
        assert result.finished
    else:
        assert facts(tmp_path / "run")["horizon"] >= result.steps


@pytest.mark.parametrize("task", TASKS)
def test_a_run_without_an_end_is_cooled_down_beside_its_state(home: Home, tmp_path: Path, task: str) -> None:
    recipe = home.recipe(task, run={"steps": 0, "horizon": "none"})
    train(recipe, tmp_path / "run", on_step=stop_at(12))
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    cooled = boxed(lambda seconds: train(recipe, tmp_path / "run", cooldown=seconds))
    assert cooled.finished and cooled.steps > 12 and "cooldown" in Path(cooled.checkpoint).parts
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before
    rates = [line["learning_rate"] for line in read_log(tmp_path / "run" / "cooldown" / "log.jsonl") if "loss" in line]
    assert rates[-1] < 0.3 * recipe.optimizer.lr
    assert train(recipe, tmp_path / "run", resume=True, on_step=stop_at(14)).steps == 14


@pytest.mark.parametrize("task", TASKS)
def test_a_dry_run_measures_and_writes_nothing(home: Home, tmp_path: Path, task: str) -> None:
    """Also where no pair is there yet: a few are made and thrown away."""
    recipe = home.recipe(task, pairs={"folder": str(tmp_path / "none"), "own": 400, "held": 0.0})
    found = estimate(recipe, "cpu", seconds=0.2, warmup=1)
    assert found.texts_per_second > 0 and found.operations_per_text > 0 and found.parameters["total"] > 0
    assert not list(tmp_path.iterdir())
    whole = 368 if task == "denoiser" else 480  # texts, or the pairs that there would be, two texts each
    assert 0.5 * whole < found.texts < 3 * 480 / 0.55


@pytest.mark.parametrize("task", TASKS)
def test_steps_that_are_not_finite_are_left_out(home: Home, tmp_path: Path, task: str) -> None:
    """Vectors that are no numbers spoil their own batch only."""
    if task == "denoiser":
        shards = tmp_path / "shards"
        shutil.copytree(home.shards, shards)
        _spoil_shards(shards)
        recipe = home.recipe(task, data={"shards": str(shards)})
    else:
        train(home.recipe(task, run={"steps": 1}), tmp_path / "first")  # there are pairs now
        shutil.copytree(home.pairs, tmp_path / "pairs")
        path = tmp_path / "pairs" / "filled-0000.npz"
        pairs, origin = Pairs.load(path)
        pairs.draft_vectors[3] = math.nan
        pairs.save(path, origin)
        recipe = home.recipe(
            task, run={"steps": 16}, student={"paired": 1.0}, pairs={"folder": str(tmp_path / "pairs"), "held": 0.0}
        )
    # A fit of the closed-form parts would refuse such a vector, so the denoiser takes those of the base.
    train(recipe, tmp_path / "run", init_from=home.base if task == "denoiser" else None)
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "train"]
    assert 0 < lines[-1]["left_out"] < 8
    state = load_file(tmp_path / "run" / "state.safetensors")
    assert all(bool(torch.isfinite(v.float()).all()) for name, v in state.items() if name.startswith(("model", "ema")))


def _spoil_shards(shards: Path) -> None:
    """One text of the second shard gets a vector that is no number; the manifest is told its new checksum."""
    import numpy as np

    from unembed.files import sha256_file

    path = shards / "shard-00001.vectors.npy"
    vectors = np.load(path)
    vectors[5] = math.nan
    np.save(path, vectors)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][1]["sha256"]["vectors"] = sha256_file(path)
    (shards / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("task", TASKS)
def test_another_recipe_or_base_is_no_way_to_go_on(home: Home, tmp_path: Path, task: str) -> None:
    train(home.recipe(task, run={"steps": 2}), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"another recipe: optimizer\.lr was 0\.003 and is 0\.1"):
        train(home.recipe(task, run={"steps": 2}, optimizer={"lr": 0.1}), tmp_path / "run", resume=True)
    if task == "denoiser":
        return
    base = tmp_path / "base"
    shutil.copytree(home.base, base)
    recipe = home.recipe(task, run={"steps": 2}, data={"base": str(base)})
    train(recipe, tmp_path / "other")
    shutil.rmtree(base)
    train(home.recipe("denoiser", run={"steps": 3}, validation={"decoded": 0}), tmp_path / "new")
    shutil.copytree(tmp_path / "new" / "checkpoint", base)
    with pytest.raises(CheckpointError, match="other texts or vectors"):
        train(recipe, tmp_path / "other", resume=True)


BAD = {
    "denoiser": [("model.widht=3", "model.widht", "width"), ("task=dreamer", "task is 'dreamer'", "corrector")],
    "student": [
        ("student.pared=0.5", "student.pared", "paired"),
        ("student.paired=2", "student.paired is 2", "from 0 to 1"),
        ("student.heads=5", "student.width is 16", "or .heads"),
        ("pairs.folder=''", "pairs.folder", "Name one"),
        ("data.shards=[]", "names no data.shards", "base's encoder"),
        ("data.base=nowhere", "no checkpoint at nowhere", "models list"),
    ],
    "corrector": [
        ("corrector.ranks=3", "corrector.ranks", "rank"),
        ("corrector.rank=0", "rank is 0", "from 1"),
        ("corrector.heads=5", "not a multiple of 5 heads", "heads"),
        ("pairs.held=1", "pairs.held is 1", "below 1"),
        ("pairs.own=-1", "own is -1", "from 0"),
        ("pairs.corrected=50", "pairs.corrected is 50", "pairs.own"),
        ("pairs.corrected=20", "starts from no corrector", "--init-from"),
    ],
}


@pytest.mark.parametrize(
    ("task", "override", "what", "do"), [(task, *row) for task, rows in BAD.items() for row in rows]
)
def test_mistakes_are_two_sentences(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, override: str, what: str, do: str
) -> None:
    recipe = _toml(home.recipe(task, run={"steps": 1}), tmp_path / "recipe.toml")
    fails(capsys, ["train", recipe, "--out", tmp_path / "run", "--set", override], what, do)


def _toml(recipe: Recipe, path: Path) -> Path:
    """Write a recipe as a file."""
    tables = recipe.to_dict()
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in tables.items() if not isinstance(value, dict))
    for table, keys in tables.items():
        if isinstance(keys, dict):
            text += f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    path.write_text(text)
    return path


@pytest.mark.parametrize("task", TASKS)
def test_the_command_trains_each(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    """One command, from a recipe alone; a second run starts from what the first has made."""
    recipe = _toml(home.recipe(task, run={"steps": 2}), tmp_path / "recipe.toml")
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["checkpoint"]
    assert Path(made).exists() and Path(made).is_relative_to(tmp_path / "run" / "checkpoint")
    arguments = ["train", str(recipe), "--out", str(tmp_path / "more"), "--init-from", made, "--quiet"]
    assert main(arguments) == 0


@pytest.mark.parametrize(("steps", "what"), [(3, "validation's"), (40, "loss is not finite any more")])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_diverges_keeps_the_last_good_state_and_writes_no_checkpoint(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, steps: int, what: str
) -> None:
    """Within the bounds of a recipe; also where it ends before the report that judges the losses."""
    wild = {"lr": 10.0, "weight_decay": 100.0, "warmup": 0, "clip": 1e9, "decay": "none"}
    losses: list[float] = []
    recipe = home.recipe(task, optimizer=wild, run={"steps": steps, "save_every": 1e-9, "milestones": ["1000h"]})
    with pytest.raises(RecipeError, match="state that was saved before is kept") as caught:
        train(recipe, tmp_path, on_step=lambda step, loss: losses.append(loss))
    assert what in caught.value.what and "optimizer.lr" in caught.value.do
    assert math.isfinite(losses[0]) and not math.isfinite(losses[-1])
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "recipe.json", "state.safetensors"}
    assert facts(tmp_path)["step"] == sum(map(math.isfinite, losses)) < len(losses)
    assert all(bool(torch.isfinite(v.double()).all()) for v in load_file(tmp_path / "state.safetensors").values())
