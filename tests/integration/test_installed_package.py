"""What pip would install: the files of the wheel, and its types as a user's mypy sees them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
import numpy as np
import torch
from unembed import Inverter, Recovery, UnembedError, load_encoder, read_vectors
from unembed.errors import InputError


def texts(path: str) -> list[str]:
    inverter = Inverter.from_pretrained("default", device="cpu")
    found: list[Recovery] = []
    try:
        for batch in read_vectors(path, batch=64):
            found += inverter.invert(torch.from_numpy(batch.vectors), strategy="adaptive")
    except InputError as error:
        raise SystemExit(error.what) from error
    except UnembedError as error:
        raise SystemExit(error.do) from error
    return [recovery.text for recovery in found if (recovery.confidence or 0.0) > 0.5]


vectors: np.ndarray = load_encoder("minilm").encode(["a text"])
"""
WRONG = {
    "Inverter.from_pretrained(3)": 'Argument 1 to "from_pretrained" of',
    "recovery.txt": 'has no attribute "txt"',
    'load_encoder("minilm").encode("one", 2)': "Too many arguments",
    "number: int = recovery.likelihood": 'expression has type "float", variable has type "int"',
    "unembed.nothing": 'has no attribute "nothing"',
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree by the declared backend."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A Python whose only `unembed` is the wheel's; everything else is shared with this one."""
    home = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A folder named in a .pth is searched, but the .pth files in it, those of editable installs, are not read.
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run([python, *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_package_its_types_and_its_models(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {"unembed/py.typed", "unembed/cli/app.py", "unembed/weights/minilm/config.json"} <= names
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert sources <= names
    roots = {name.split("/")[0].split("-")[0] for name in names}
    assert roots == {"unembed"}, "nothing but the package is installed"
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    for licence in ("LICENSE", "LICENSE-WEIGHTS"):
        assert any(name.endswith(f"/licenses/{licence}") for name in names)
    assert "Requires-Python: >=3.11" in metadata and "License-Expression: Apache-2.0 AND CC-BY-SA-4.0" in metadata


def test_the_wheels_commands_run_where_the_sources_are_not(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys, unembed; from unembed.cli import main; print(unembed.__file__); sys.exit(main(['models', 'list']))"
    )
    found = run(installed, "-c", code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    where, *models = found.stdout.splitlines()
    assert Path(where).is_relative_to(installed.parent.parent), "not the editable install"
    assert any(line.startswith("minilm (default)") for line in models)


@pytest.mark.slow
def test_a_users_program_is_typed(installed: Path, tmp_path: Path) -> None:
    """`mypy --strict` accepts a right program and finds each mistake of a wrong one."""
    (tmp_path / "good.py").write_text(GOOD)
    lines = ["import unembed", "from unembed import Inverter, Recovery, load_encoder", "", "recovery: Recovery", *WRONG]
    (tmp_path / "wrong.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    found = subprocess.run(
        [*command, "--cache-dir", str(ROOT / ".mypy_cache" / "user"), "good.py", "wrong.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = [line for line in found.stdout.splitlines() if ": error: " in line]
    assert not [line for line in output if line.startswith("good.py")], found.stdout
    assert len(output) == len(WRONG), found.stdout
    for (code, message), line in zip(WRONG.items(), output, strict=True):
        assert message in line, code
