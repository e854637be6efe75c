"""Strategies, re-masking rules and schedules of others: used like those that are built in, and watched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed import Recipe, UnembedError, plugins, register
from unembed.cli import main
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.decoding.strategies.selection import surest
from unembed.decoding.strategies.table import Strategy
from unembed.diffusion.schedule import Linear, get_schedule
from unembed.errors import InputError
from unembed.network.config import ModelConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
MINE = """
from unembed.decoding.strategies.selection import surest
from unembed.decoding.strategies.table import Strategy
from unembed.diffusion.schedule import Linear
WAY, SCHEDULE = Strategy(surest), Linear
rare = lambda view: view.uniform < 0.1
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone behind it."""
    monkeypatch.setattr(plugins, "_registered", {})


class OnATinyNetwork:
    """What the page calls `inverter`."""

    denoiser = tiny_denoiser()

    def invert(self, vectors: torch.Tensor, **options: object) -> list[tuple[int, ...]]:
        drafts = decode(self.denoiser, vectors, DecodeConfig(**options), trace=True)
        self.steps = [step for draft in drafts if draft.trace for step in draft.trace.steps]
        return [draft.ids for draft in drafts]


def test_the_page_of_strategies_shows_what_runs() -> None:
    section = PAGE.split("## A strategy of your own")[1].split("\n## ")[0]
    first, second = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    inverter = OnATinyNetwork()
    names = {"inverter": inverter, "vectors": some_vectors(3)}
    exec(first, names)
    steps = [step for step in inverter.steps if step.draft == inverter.steps[0].draft]
    assert steps[0].chosen and min(steps[0].chosen) > max(place for step in steps[1:] for place in step.chosen)
    exec(second, names)
    assert {"rightmost", "rare", "square"} <= {name for _, name in plugins._registered}
    assert float(get_schedule("square").weight(0.5)) == 4.0
    assert Recipe.from_dict({"objective": {"schedule": "square"}}).objective.schedule == "square"
    assert ModelConfig.from_dict({**tiny_denoiser().config.to_dict(), "schedule": "square"}).schedule == "square"


def test_a_package_adds_them_by_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_ways.py").write_text(MINE)
    info = tmp_path / "my_ways-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-ways\nVersion: 1.0\n")
    groups = {"strategies": "my = my_ways:WAY\ngone = not_there:WAY", "remasking": "my = my_ways:rare"}
    groups["schedules"] = "my = my_ways:SCHEDULE"
    (info / "entry_points.txt").write_text("\n".join(f"[unembed.{k}]\n{v}" for k, v in groups.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    inverter, vectors = OnATinyNetwork(), some_vectors(3)
    assert inverter.invert(vectors, strategy="my") == inverter.invert(vectors, strategy="confidence")
    assert inverter.invert(vectors, strategy="euler-remask", remask_rule="my", schedule="my")
    assert main(["invert", "absent.npy", "--strategy", "my"]) == 2 and "absent.npy" in capsys.readouterr().err
    assert main(["invert", "absent.npy", "--strategy", "other"]) == 2 and "'other'" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"strategy 'gone' \(not_there:WAY\) cannot be imported"):
        inverter.invert(vectors, strategy="gone")


BAD = {
    "is a function": lambda view: view.masked,
    "does not start from masks": Strategy(surest, causal_draft=True),
    r"returns torch.float32 of shape \(\d, \d+\) where torch.bool": Strategy(lambda view: view.confidence),
    r"returns torch.bool of shape \(\d,\) where": Strategy(surest, lambda view: view.masked.any(1)),
    r"returns NoneType where torch.bool of shape \(\d,\)": Strategy(surest, stop=lambda view: None),
    r"fails \(ZeroDivisionError: division by zero\)": Strategy(lambda view: view.masked & bool(1 / 0)),
}


class Rising(Linear):
    def alpha(self, t: object) -> torch.Tensor:
        return torch.as_tensor(t)


class Steep(Linear):
    def alpha_prime(self, t: object) -> torch.Tensor:
        return -2 * torch.ones_like(torch.as_tensor(t))


@pytest.mark.parametrize("said", BAD)
def test_a_strategy_that_is_wrong_is_named(said: str) -> None:
    register("strategy", "mine", BAD[said])
    with pytest.raises(InputError, match=f"The strategy 'mine' {said}"):
        OnATinyNetwork().invert(some_vectors(2), strategy="mine")


def test_rules_schedules_and_kinds_that_are_wrong_are_named() -> None:
    register("remasking", "mine", 3)
    with pytest.raises(InputError, match="re-masking rule 'mine' is a int"):
        OnATinyNetwork().invert(some_vectors(2), strategy="euler-remask", remask_rule="mine")
    for value, said in ((Linear(), "is not a subclass"), (Rising, "breaks its law"), (Steep, "breaks its law")):
        register("schedule", "mine", value)
        with pytest.raises(InputError, match=f"The schedule 'mine' {said}"):
            get_schedule("mine")
    for kind, name in (("model", "mine"), ("strategy", "")):
        with pytest.raises(InputError):
            register(kind, name, None)
    for wrong in ({"strategy": "yours"}, {"remask_rule": "yours"}):
        with pytest.raises(InputError, match="yours"):
            DecodeConfig(**wrong)
    with pytest.raises(UnembedError, match=r"schedule is 'yours'"):
        Recipe.from_dict({"objective": {"schedule": "yours"}})


@pytest.mark.parametrize(
    ("kind", "name"),
    [("strategy", "adaptive"), ("remasking", "probability"), ("schedule", "linear"), ("encoder", "minilm")],
)
def test_what_is_built_in_keeps_its_name(kind: str, name: str) -> None:
    """Nobody measures a built-in strategy, rule or schedule and believes it to be their own."""
    with pytest.raises(InputError, match=f"The {kind} '{name}' is built in"):
        register(kind, name, Strategy(surest))
    assert name not in plugins.plugin_names(kind)


def test_no_draft_leaves_with_a_mask_in_it() -> None:
    """Whatever a stop rule says."""
    register("strategy", "hasty", Strategy(surest, stop=lambda view: torch.ones_like(view.masked[:, 0])))
    denoiser = tiny_denoiser()
    for draft in decode(denoiser, some_vectors(3), DecodeConfig("hasty", passes=4)):
        assert draft.ids and denoiser.config.mask_id not in draft.ids
