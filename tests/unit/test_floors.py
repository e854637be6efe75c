"""The house stands: imports downwards, no cycle, short files, quick starts."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import unembed

ROOT = Path(unembed.__file__).parent
FLOORS = {
    "errors": -1,  # the ground
    "files": 0,
    "machine": 0,
    "plugins": 0,
    "checks": 0,
    "encoders": 1,
    "stores": 1,
    "diffusion": 1,
    "metrics": 1,
    "priors": 1,
    "network": 2,
    "data": 2,
    "checkpoint": 3,
    "decoding": 4,
    "training": 5,
    "refinement": 5,
    "inverter": 6,
    "evaluation": 7,
    "serve": 8,
    "cli": 9,
}
# The package's own __init__ and __main__ stand above the house: they only pass names on.
ROOF = 10


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of ours that a file imports anywhere, inside functions and under TYPE_CHECKING too."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names}
    return frozenset(name for name in found if name in known)


def floor(module: str) -> int:
    parts = module.split(".")
    return FLOORS[parts[1]] if len(parts) > 1 and parts[1] != "__main__" else ROOF


def upward(name: str, path: Path) -> list[str]:
    """Imports of a module that do not go to a lower floor or to its own folder."""
    own, faults = name.split(".")[1] if "." in name else "", []
    for target in imports(path) - {name} if floor(name) != ROOF else ():
        if target == "unembed":  # only its version may be read, by the command line
            faults += [f"{name} imports the package itself"] * (own != "cli")
        elif target.split(".")[1] != own and floor(target) >= floor(name):
            faults.append(f"{name} (floor {floor(name)}) imports {target} (floor {floor(target)})")
    return faults


def circles() -> list[str]:
    """Import cycles, as paths from a module to itself."""
    graph = {name: imports(path) - {name, "unembed"} for name, path in modules().items()}
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        if name != "unembed":
            visit(name, ())
    return found


def test_imports_go_downwards_and_never_in_a_circle() -> None:
    homes = {name.split(".")[1] for name in modules() if name.count(".")} - {"__main__"}
    faults = [f"{home} has no floor" for home in sorted(homes - set(FLOORS))]
    faults += circles() + ([] if faults else [fault for item in modules().items() for fault in upward(*item)])
    assert not faults, "\n".join(faults)


def test_files_are_short_say_what_they_hold_and_have_names_of_their_own() -> None:
    faults = []
    for path in modules().values():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        faults += [f"{name} is longer than 500 lines: one concept a file"] * (text.count("\n") > 500)
        faults += [f"{name} says nothing by its name"] * ("util" in path.stem)
        faults += [f"{name} begins without a docstring"] * (not ast.get_docstring(ast.parse(text)))
    checkout = ROOT.parents[1]
    named: dict[str, list[str]] = {}
    for folder in ("src", "benchmarks", "reports", "scripts"):
        for path in sorted((checkout / folder).rglob("*.py")):
            named.setdefault(path.name, []).append(str(path.relative_to(checkout)))
    shared = {name: found for name, found in named.items() if len(found) > 2 and name != "__init__.py"}
    classes: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(name)
    shared |= {f"class {name}": found for name, found in classes.items() if len(found) > 1}
    faults += [f"{name} stands in {', '.join(found)}" for name, found in shared.items()]
    assert not faults, "\n".join(faults)


def test_import_is_quick_and_lazy_and_has_every_public_name() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import unembed; t = time.perf_counter() - t; "
        "heavy = {'torch', 'numpy', 'pyarrow', 'rich', 'click'} & set(sys.modules); sys.exit(f'{t} {heavy}' "
        "if heavy or t > 0.3 else 0)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(3)]
    assert any(run.returncode == 0 for run in runs), [run.stderr for run in runs]
    assert len(unembed.__all__) <= 12
    assert [name for name in unembed.__all__ if getattr(unembed, name) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unembed.nothing
