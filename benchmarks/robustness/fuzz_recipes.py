"""Damaged and hostile recipes: each is a recipe within its bounds or refused with a RecipeError; one JSON line.

    python -m benchmarks.robustness.fuzz_recipes --count 100000 --seed 0 --out docs/results/fuzz-recipes.json

The recipes of this repository are mutated byte by byte, have a value replaced by a senseless one, or are given one with
`--set`. `fuzzing.py` says how they are tried and what the line holds.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.robustness import fuzzing
from benchmarks.robustness.fuzzing import Case, Fuzzer, mutate
from unembed.training.recipes.recipe import Recipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
VALUES = (
    *("nan", "inf", "-inf", "-1", "0", "1e308", "2.5", str(2**70), "9" * 5000, hex(16**5000), "true", "''", "'x'"),
    *("'" + "y" * 5000 + "'", '"\\u0000"', '"\\ud800"', "[]", "[[]]", "[" * 500, "[nan]", "[0.5, 0.5]", "{}"),
    *("{a = 1}", "1979-05-27", "1979-05-27T07:32:00Z", "'9e300h'", "'1s'", "['1s', 'x']", "\n[run]\nseed = 1"),
)


@lru_cache(maxsize=1)
def good() -> dict[str, str]:
    """The recipes of this repository by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.toml"))}


class Recipes(Fuzzer):
    """Recipes, and overrides of their keys."""

    benchmark = "fuzz_recipes"

    def case(self, index: int, seed: int) -> Case:
        """Return recipe number `index`; an override stands behind a zero byte."""
        generator = np.random.default_rng([seed, index])
        name = list(good())[index // 3 % len(good())]
        text = good()[name]
        if index % 3 == 0:
            return Case("bytes", name, mutate(text.encode(), generator))
        keys = list(re.finditer(r"^(\w+) = (.*)$", text, re.M))
        key = keys[int(generator.integers(len(keys)))]
        value = VALUES[int(generator.integers(len(VALUES)))]
        if index % 3 == 1:
            return Case("value", name, (text[: key.start(2)] + value + text[key.end(2) :]).encode())
        table = re.findall(r"^\[(\w+)\]$", text[: key.start()], re.M)
        override = f"{table[-1]}.{key[1]}={value}" if table else f"{key[1]}={value}"
        if generator.random() < 0.3:
            override = mutate(override.encode(), generator).decode("utf-8", "replace")
        return Case("override", name, text.encode() + b"\0" + override.encode())

    def rehearse(self, folder: Path, seed: int) -> None:
        """Read the good recipes."""
        for path in FOLDER.glob("*.toml"):
            Recipe.load(path)

    def attempt(self, case: Case, index: int, folder: Path) -> str:
        """Load a recipe; the numbers of what is read are finite."""
        path = folder / "recipe.toml"
        data, _, override = case.data.partition(b"\0") if case.kind == "override" else (case.data, b"", b"")
        path.write_bytes(data)
        recipe = Recipe.load(path, [override.decode()] if override else [])
        for table in recipe.to_dict().values():
            for value in table.values() if isinstance(table, dict) else ():
                for number in value if isinstance(value, tuple) else (value,):
                    if isinstance(number, int | float) and not (math.isfinite(number) and abs(number) < 2**63):
                        raise AssertionError(f"{number} is out of all bounds")
        if Recipe.from_dict(recipe.to_dict()) != recipe:
            raise AssertionError("the recipe does not come back")
        return "read"


FUZZER = Recipes()

if __name__ == "__main__":
    fuzzing.main(FUZZER, __doc__)
