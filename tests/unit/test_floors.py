"""The house stands: imports downwards, no cycle, short files, quick starts (design, "The house"; STYLE, habit 1)."""

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
    "defences": 1,
    "diffusion": 1,
    "metrics": 1,
    "priors": 1,
    "network": 2,
    "data": 2,
    "alignment": 2,
    "checkpoint": 3,
    "decoding": 4,
    "training": 5,
    "refinement": 5,
    "inverter": 6,
    "evaluation": 7,
    "attacks": 7,
    "serve": 8,
    "audit": 8,
    "cli": 9,
}
# The package's own __init__ and __main__ stand above the house: they only pass names on.
ROOF = 10


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


def test_every_folder_has_a_floor() -> None:
    homes = {name.split(".")[1] for name in modules() if name.count(".")} - {"__main__"}
    assert homes <= set(FLOORS), homes - set(FLOORS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_downwards(name: str) -> None:
    path, own = modules()[name], name.split(".")[1] if "." in name else ""
    if floor(name) == ROOF:
        return
    for target in imports(path) - {name}:
        if target == "unembed":  # only its version may be read, by the command line
            assert own == "cli", f"{name} imports the package itself"
            continue
        same = target.split(".")[1] == own
        assert same or floor(target) < floor(name), f"{name} (floor {floor(name)}) imports {target} ({floor(target)})"


def test_no_import_cycle() -> None:
    graph = {name: imports(path) - {name, "unembed"} for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        if name != "unembed":
            visit(name, ())


@pytest.mark.parametrize("path", sorted(modules().values()), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_hold(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500, "split it: one concept a file"
    assert "util" not in path.stem
    assert ast.get_docstring(ast.parse(text)), "a module begins with a docstring"


def test_import_is_quick_and_lazy() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import unembed; t = time.perf_counter() - t; "
        "heavy = {'torch', 'numpy', 'pyarrow', 'rich', 'click'} & set(sys.modules); sys.exit(f'{t} {heavy}' "
        "if heavy or t > 0.3 else 0)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(3)]
    assert any(run.returncode == 0 for run in runs), [run.stderr for run in runs]


def test_public_names_exist() -> None:
    assert len(unembed.__all__) <= 12
    for name in unembed.__all__:
        assert getattr(unembed, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unembed.nothing
