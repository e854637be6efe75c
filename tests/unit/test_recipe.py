"""Recipes: what is written is what is trained, and mistakes are named."""

from __future__ import annotations

import math
import os
import re
import tomllib
from pathlib import Path

import pytest

from unembed.errors import RecipeError
from unembed.training.recipes.recipe import Recipe, apply_overrides
from unembed.training.recipes.recipe_parts import parse_duration

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_loads_and_comes_back(path: Path) -> None:
    """Every shipped recipe is valid, and its resolved form is itself a recipe."""
    recipe = Recipe.load(path)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_there_are_recipes() -> None:
    """The parametrisation above is not empty."""
    assert {"default.toml", "tiny.toml"} <= {p.name for p in RECIPES}


def commented_keys(path: Path) -> dict[str, tuple[str, str]]:
    """Each key of a recipe with the text of its line behind the value, and of the comment lines right above it."""
    found: dict[str, tuple[str, str]] = {}
    table, above = "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line):
            table, above = head[1], ""
        elif line.startswith("#"):
            above += line
        elif key := re.match(r"(\w+) = ", line):
            value = re.match(r'\w+ = ("[^"]*"|\[[^]]*\]|[^#]*)', line)
            assert value is not None
            found[f"{table}.{key[1]}" if table else key[1]] = (line[value.end() :].strip(), above)
            above = ""
        else:
            above = ""
    return found


OTHER_TASKS = ("student.", "corrector.", "pairs.", "data.base")
"""Keys that only a student or a corrector has; they stand in the recipes of those."""


def flat(values: dict) -> dict:
    """Tables of keys and values as one: "table.key", and "task" as it is."""
    out = {}
    for name, value in values.items():
        out |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return out


def test_every_key_of_the_other_tasks_stands_in_a_recipe_of_theirs_with_a_comment() -> None:
    """As the default recipe does for a denoiser."""
    wanted = {name for name in flat(Recipe().to_dict()) if name.startswith(OTHER_TASKS)}
    found = {}
    for path in RECIPES:
        if Recipe.load(path).task != "denoiser":
            found |= commented_keys(path)
    assert wanted <= set(found)
    silent = [name for name in wanted if not re.findall(r"\w{2,}", "".join(found[name]))]
    assert not silent


def test_the_default_recipe_holds_every_key_with_a_comment() -> None:
    """Exactly the keys of all parts; each has words behind it or right above; the departures name the default."""
    path = next(p for p in RECIPES if p.name == "default.toml")
    comments = commented_keys(path)
    written = flat(tomllib.loads(path.read_text(encoding="utf-8")))
    known = {name: v for name, v in flat(Recipe().to_dict()).items() if not name.startswith(OTHER_TASKS)}
    assert set(written) == set(known) == set(comments)
    for name, (behind, above) in comments.items():
        assert len(re.findall(r"\w{2,}", behind.replace("(*)", "") + above)) >= 3, f"{name} has no comment"
        default = list(known[name]) if isinstance(known[name], tuple) else known[name]
        marked = re.match(r"# \(\*\) (\"[^\"]*\"|[^:]+)", behind)
        if written[name] == default:
            assert marked is None and "(*)" not in behind + above, f"{name} is marked, but it is the default"
        else:
            assert marked is not None, f"{name} differs from {default!r}, and no (*) says so"
            assert tomllib.loads(f"value = {marked[1]}")["value"] == default, name


def test_overrides_are_read_as_toml_or_text() -> None:
    """--set takes numbers, booleans, lists and bare words."""
    path = RECIPES[0]
    recipe = Recipe.load(
        path,
        [
            "optimizer.lr=3e-4",
            "model.whiten=false",
            "model.width=192",
            "data.encoder=hashing",
            "optimizer.betas=[0.8, 0.9]",
        ],
    )
    assert recipe.optimizer.lr == 3e-4
    assert recipe.model.whiten is False
    assert recipe.data.encoder == "hashing"
    assert recipe.optimizer.betas == (0.8, 0.9)


@pytest.mark.parametrize("empty", ["", []])
def test_no_folder_of_shards_may_be_written_as_text_or_list(empty: object) -> None:
    """As text it once was a folder without a name, the current one."""
    assert Recipe.from_dict({"data": {"shards": empty}}).data.shards == ()


@pytest.mark.parametrize(
    ("override", "what", "do"),
    [
        ("model.widht=3", "model.widht", "width"),
        ("modle.width=3", "modle", "model"),
        ("model.width='wide'", "model.width", "Correct"),
        ("model.width=true", "model.width", "Correct"),
        ("model.width=0", "width is 0", "from 1"),
        ("model.canvas='round'", "canvas", "length"),
        ("objective.causal_share=1.5", "causal_share", "from 0 to 1"),
        ("run.max_time='soon'", "soon", "9m"),
        ("optimizer.lr", "no '='", "--set"),
        ("optimizer.lr=nan", "lr is nan", "to 10."),
        ("optimizer.lr=inf", "lr is inf", "to 10."),
        ("optimizer.betas=[0.9]", "optimizer.betas", "two"),
        ("optimizer.betas=0.9", "optimizer.betas", "list"),
        ("optimizer.ema=1.5", "optimizer.ema", "below 1"),
        ("optimizer.decay='cosine'", "optimizer.decay", "linear"),
        ("model.prior_once=false", "model.prior_once was removed", "Leave it out"),
        ("data.noise=0.1", "data.noise was removed", "Leave it out"),
        ("data.buckets=[8, 16]", "data.buckets is [8, 16]", "end with 32"),
        ("optimizer.hold=1", "optimizer.hold is 1.0", "below 1"),
        ("run.reserve='soon'", "soon", "9m"),
        ("run.horizon='never'", "run.horizon", "none"),
        ("task='denoser'", "task", "denoiser"),
        ("data.texts=[3]", "data.texts is 3", "Correct"),
        ("run.steps=2.5", "run.steps", "Correct"),
        ("run.save_every=nan", "save_every is nan", "to 1e+09."),
        ("validation.texts=0", "texts is 0", "from 1"),
        ("model=3", "model is not a table", "[model]"),
    ],
)
def test_mistakes_are_named(override: str, what: str, do: str) -> None:
    """The key and the nearest known key, or what the value may be, stand in the two sentences."""
    with pytest.raises(RecipeError) as caught:
        Recipe.load(RECIPES[0], [override])
    assert what in caught.value.what
    assert do in caught.value.do


NUMBERS = ["nan", "inf", "-inf", "1e308", "-1", "-0.5", "5", "2.5", "2e9", str(2**70), str(-(10**400)), hex(16**5000)]


def test_every_key_refuses_what_it_cannot_be_and_no_value_is_a_trace() -> None:
    """Each key with each senseless value: the recipe is whole and within bounds, or a RecipeError of two sentences."""
    values = [*NUMBERS, "'x'", "''", "true", "[]", "[nan]", "[0.5, inf]", "{}", '"\\u0000"', "1979-05-27"]
    values += ["'" + "y" * 5000 + "'", "[" * 500, "9" * 5000, "1\n[run]\nseed=3"]
    for key, default in flat(Recipe().to_dict()).items():
        for value in values:
            try:
                found = flat(Recipe.from_dict(apply_overrides({}, [f"{key}={value}"])).to_dict())[key]
            except RecipeError as error:
                assert error.what.endswith(".") and error.do.endswith((".", "?")) and len(str(error)) < 1000
                assert str(error).isprintable()
                continue
            assert isinstance(found, str) == isinstance(default, str), (key, value)
            for number in found if isinstance(found, tuple) else (found,):
                if isinstance(number, int | float):
                    assert math.isfinite(number) and abs(number) < 2**63, (key, value)


@pytest.mark.parametrize(
    "override",
    [
        "objective.length_weight=nan",
        "model.dropout=5",
        "model.dropout=1",
        "model.mlp=-1",
        "model.layers=20000",
        "model.embedding_dim=-4",
        "model.prefix_tokens=-1",
        "optimizer.lr=1e4",
        "optimizer.betas=[nan, 0.9]",
        "optimizer.clip=1e300",
        "objective.shortlist_sampled=-5",
        f"run.seed={2**70}",
        f"validation.seed={2**64}",
        "run.max_time='1e300h'",
        "run.milestones=['inf']",
        'data.base="a\\u0000b"',
        "data.limit=1000000000",
        "data.texts='a\nb'",
        "student.whitened=inf",
        "pairs.held=nan",
        "a.b.c=1",
        "=3",
    ],
)
def test_bounds(override: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.load(RECIPES[0], [override])


def test_a_recipe_is_a_small_regular_file(tmp_path: Path) -> None:
    """A pipe never ends, a large file is none, and lists within lists are no stack trace."""
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "long.toml").write_text("#" * (1 << 20) + "\n")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    (tmp_path / "digits.toml").write_text("[run]\nseed = " + "9" * 5000)
    (tmp_path / "bytes.toml").write_bytes(b"task = '\xff'")
    for name, what in (
        ("pipe", "regular"),
        ("long", "longer"),
        ("deep", "within lists"),
        ("digits", "TOML"),
        ("bytes", "TOML"),
    ):
        with pytest.raises(RecipeError, match=what):
            Recipe.load(tmp_path / f"{name}.toml")
    with pytest.raises(RecipeError, match="regular"):
        Recipe.load(tmp_path)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    """So is one that is absent."""
    (tmp_path / "r.toml").write_text("[model\nwidth = 3")
    with pytest.raises(RecipeError, match="TOML"):
        Recipe.load(tmp_path / "r.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path / "absent.toml")


@pytest.mark.parametrize(("text", "seconds"), [("", 0), ("90", 90), ("90s", 90), ("9m", 540), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    """Seconds, minutes, hours."""
    assert parse_duration(text) == seconds


def test_keys_that_are_gone_are_read_where_they_changed_nothing() -> None:
    """A recipe that an older version stored beside a checkpoint names every key."""
    assert Recipe.from_dict({"data": {"noise": 0.0}, "model": {"prior_once": True}}) == Recipe()


def test_an_old_name_of_a_key_is_the_key(tmp_path: Path) -> None:
    """In a file or in --set; the later --set holds, whatever it calls the key."""
    old = tmp_path / "old.toml"
    old.write_text("[data]\nlimit = 12\n")
    for sets, length in (([], 12), (["data.max_length=9"], 9), (["data.max_length=9", "data.limit=8"], 8)):
        assert Recipe.load(old, sets).data.max_length == length
    old.write_text("[data]\nlimit = 12\nmax_length = 9\n")
    with pytest.raises(RecipeError, match=r"data\.max_length twice"):
        Recipe.load(old)
