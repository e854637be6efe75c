"""A student from its recipe to a model that uses it: it comes near to its encoder on texts that it never saw."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_corrector_training import golden

from tests.helpers.cli import run
from tests.helpers.scripts import run_script
from tests.helpers.tasks import Home, make_home
from unembed.checkpoint.student_file import STUDENT_FILE, StudentFile, read_student, write_student
from unembed.errors import CheckpointError
from unembed.files import read_json
from unembed.inverter import Inverter
from unembed.refinement.refine import Refine
from unembed.training.loop import train

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_32_texts_are_learnt(tmp_path: Path) -> None:
    """The golden overfit of a student."""
    assert train(golden(tmp_path, "student", steps=300, lr=5e-3), tmp_path / "run").metrics["cosine"] > 0.95


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("student"))


def test_it_comes_near_to_its_encoder_on_other_texts_and_is_used(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out texts; put beside the base by the script or by hand; another base's model leaves it alone."""
    model = tmp_path / "model"
    shutil.copytree(home.base, model)
    shape = {"width": 64, "mlp": 128}
    recipe = home.recipe("student", data={"base": str(model)}, student=shape, run={"steps": 150})
    before = train(replace(recipe, run=replace(recipe.run, steps=1)), tmp_path / "first").metrics["cosine"]
    result = train(recipe, tmp_path / "run")
    assert before < 0.4 < 0.75 < result.metrics["cosine"]
    shutil.copy(result.checkpoint, model)
    shutil.copy(Path(result.checkpoint).parent / "student.json", model)
    shown = run(capsys, "models", "show", Path(result.checkpoint).parent)
    assert shown.code == 0 and "kind = student" in shown.out and "texts_seen = " in shown.out
    inverter = Inverter.from_pretrained(model, device="cpu")
    assert inverter.student is not None and inverter.student.notes["pairs"] > 50
    (found,) = inverter.invert_strings(["red house under the tree"], refine=Refine(queries=4))
    assert found.queries <= 4 and found.text
    for name in (STUDENT_FILE, "student.json"):
        (model / name).unlink()
    shipping = ("scripts.ship", "--student", Path(result.checkpoint).parent, "--out")
    assert run_script(*shipping, model) == 0
    assert Inverter.from_pretrained(model, device="cpu").student is not None
    other = tmp_path / "other"
    train(home.recipe("denoiser", run={"steps": 2}, validation={"decoded": 0}), tmp_path / "another")
    shutil.copytree(tmp_path / "another" / "checkpoint", other)
    assert "no student that was trained beside the weights" in run_script(*shipping, other)


def test_one_of_an_older_base_is_a_better_start_than_none(home: Home, tmp_path: Path) -> None:
    """With what was fitted to it; its file or folder; another shape is refused."""
    old = train(home.recipe("student", run={"steps": 80}), tmp_path / "old")
    folder = Path(old.checkpoint).parent
    told = read_json(folder / "student.json")
    found = read_student(folder, told["checkpoint"])
    assert found is not None
    weights = {"replace": [0.1, 0.2, 0.3, 0.4, 0.5]}
    write_student(folder, StudentFile(found.student, weights, found.notes), told["checkpoint"], "fp32")
    base = train(
        home.recipe("denoiser", run={"steps": 3}, validation={"decoded": 0}), tmp_path / "new", init_from=home.base
    )
    one = home.recipe("student", run={"steps": 2}, data={"base": base.checkpoint})
    cold = train(one, tmp_path / "cold")
    warm = train(one, tmp_path / "warm", init_from=old.checkpoint)
    assert warm.metrics["cosine"] > cold.metrics["cosine"] + 0.1
    assert train(one, tmp_path / "same", init_from=folder).metrics == warm.metrics
    written = read_json(tmp_path / "warm" / "checkpoint" / "student.json")
    assert written["surrogate"] == weights and written["notes"]["begun"]["steps"] == 80
    with pytest.raises(CheckpointError, match="another shape"):
        train(replace(one, student=replace(one.student, layers=2)), tmp_path / "x", init_from=old.checkpoint)
    with pytest.raises(CheckpointError, match="holds no student"):
        train(one, tmp_path / "x", init_from=home.base)


def test_texts_alone_need_no_pairs(home: Home, tmp_path: Path) -> None:
    recipe = home.recipe("student", student={"paired": 0.0}, pairs={"folder": ""}, run={"steps": 3})
    assert train(recipe, tmp_path / "run").steps == 3
