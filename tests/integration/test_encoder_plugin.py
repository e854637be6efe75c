"""The example package in examples/encoder-plugin, really installed; and plugins that are broken.

Everything runs in processes of its own, because entry points are looked for among what is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import unembed
from unembed import plugins
from unembed.errors import InputError
from unembed.stores.opening import open_store

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "encoder-plugin"
SOURCES = Path(unembed.__file__).parent.parent
RECIPE = """
[model]
width = 32
layers = 1
heads = 2
prefix_tokens = 2
init_embeddings = false
[data]
encoder = "ngrams"
limit = 12
batch_size = 16
[objective]
shortlist_frequent = 20
shortlist_sampled = 10
[run]
steps = 8
compile = "no"
precision = "fp32"
[validation]
texts = 8
decoded = 2
"""


def unembed_with(site: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line where the packages under `site` are installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(SOURCES)]), "OMP_NUM_THREADS": "1"}
    environment["HF_HUB_OFFLINE"] = "1"
    command = [sys.executable, "-m", "unembed", *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built and installed by pip without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")  # a build leaves files beside its sources
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site"), str(folder / "source")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_example_embeds_trains_and_inverts(site: Path, tmp_path: Path) -> None:
    texts = [f"{a} {b} {c}" for a in ("a", "no", "my") for b in ("cat", "dog", "fox", "hen") for c in ("ran", "sat")]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    vectors, shards, model = tmp_path / "v.parquet", tmp_path / "shards", tmp_path / "run" / "checkpoint"
    embed = ("embed", tmp_path / "texts.txt", "--encoder", "ngrams", "--limit", 12)
    report = unembed_with(site, *map(str, embed), "--out", vectors, "--json")
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["encoder"] == "ngrams"
    rows = np.stack(pq.read_table(vectors)["embedding"].to_numpy(zero_copy_only=False))
    assert rows.shape == (len(texts), 128)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    cosines = rows @ rows.T
    same = cosines[texts.index("a cat ran")]
    assert same[texts.index("a cat sat")] > same[texts.index("no fox sat")], "near texts have near vectors"
    found = unembed_with(site, *map(str, embed), "--shards", shards)
    assert found.returncode == 0, found.stderr
    run = ["train", tmp_path / "tiny.toml", "--out", tmp_path / "run", "--set", f'data.shards="{shards}"']
    found = unembed_with(site, *run, "--quiet")
    assert found.returncode == 0, found.stderr
    found = unembed_with(site, "invert", vectors, "--model", model, "--limit-rows", "3", "--json")
    assert found.returncode == 0, found.stderr
    recovered = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(recovered) == 3 and all(row["length"] >= 1 for row in recovered)


def test_the_example_gives_the_same_vectors_everywhere(site: Path) -> None:
    code = "from unembed import load_encoder; v = load_encoder('ngrams', dimension=8).encode(['The cat.', 'the  cat.'])"
    code += "; print(v.dtype, v.shape, (v[0] == v[1]).all(), (10 * v[0]).round().astype(int).tolist())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(SOURCES)])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "float32 (2, 8) True [0, -8, -2, 0, 0, 4, 4, 0]"


def test_without_the_package_the_name_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a cat\n")
    found = unembed_with(tmp_path / "none", "embed", tmp_path / "t.txt", "--encoder", "ngrams", "--out", "x.parquet")
    assert found.returncode == 2
    assert "ngrams" in found.stderr and len(found.stderr.strip().splitlines()) == 2


BROKEN = """
import numpy as np
from unembed.encoders.hashing import HashingEncoder

class Bad(HashingEncoder):
    identity = property(lambda self: HashingEncoder(8).identity)
    def __init__(self, kind):
        super().__init__(8)
        self.kind = kind
    def encode(self, texts):
        good = super().encode(texts)
        if self.kind == "wide":
            return np.hstack([good, good])
        if self.kind == "flat":
            return good.ravel()
        if self.kind == "few":
            return good[:-1]
        if self.kind == "words":
            return np.full(good.shape, "x")
        if self.kind == "nan":
            return good * np.nan
        raise ValueError("the server said no.\\nand more")

def wide(): return Bad("wide")
def flat(): return Bad("flat")
def few(): return Bad("few")
def words(): return Bad("words")
def nan(): return Bad("nan")
def raises(): return Bad("raises")
def fails(): raise OSError("no weights here")
def quits(): raise SystemExit("bye")
def nothing(): return object()
"""
SAYS = {
    "absent": "cannot be imported (ModuleNotFoundError: No module named 'not_there')",
    "leaves": "cannot be imported (SystemExit: 0)",
    "escapes": "cannot be imported (Odd: not an Exception)",
    "quits": "cannot load it (SystemExit: bye)",
    "lacking": "cannot be imported (AttributeError",
    "fails": "cannot load it (OSError: no weights here)",
    "nothing": "returns a object without name, dimension, encode, tokenizer_json",
    "wide": "returns float32 of shape (2, 16) for 2 texts and not numbers of shape (2, 8)",
    "flat": "returns float32 of shape (16,) for 2 texts and not numbers of shape (2, 8)",
    "few": "returns float32 of shape (1, 8) for 2 texts",
    "words": "returns <U1 of shape (2, 8) for 2 texts",
    "nan": "returns NaN or infinite numbers for text 0",
    "raises": "fails on 2 texts (ValueError: the server said no)",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plugins that each do one thing wrong, installed as pip would leave them."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_encoders.py").write_text(BROKEN)
    (folder / "absent_encoder.py").write_text("import not_there\n")
    (folder / "leaves_encoder.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "escapes_encoder.py").write_text("class Odd(BaseException): pass\nraise Odd('not an Exception')\n")
    info = folder / "broken_encoders-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-encoders\nVersion: 1.0\n")
    apart = ("absent", "leaves", "escapes")
    lines = [f"{name} = {f'{name}_encoder' if name in apart else 'broken_encoders'}:{name}" for name in SAYS]
    stores = [f"{name} = {name}_encoder:open" for name in apart]
    (info / "entry_points.txt").write_text("\n".join(["[unembed.encoders]", *lines, "[unembed.stores]", *stores]))
    return folder


@pytest.mark.parametrize("name", SAYS)
def test_a_broken_plugin_is_said_in_two_sentences(name: str, broken: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the cat\nthe dog\n")
    found = unembed_with(broken, "embed", tmp_path / "t.txt", "--encoder", name, "--out", tmp_path / "v.parquet")
    assert found.returncode == 2, found.stderr
    what, do = found.stderr.strip().splitlines()
    assert SAYS[name] in what and f"encoder {name!r} " in what, what
    assert do == "Repair or remove the package that brings it."
    assert not (tmp_path / "v.parquet").exists()


def test_a_broken_store_is_said_in_two_sentences(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its import, when it is opened, and while it is read: nothing is traced, and no exit code 0 without a row."""
    monkeypatch.syspath_prepend(str(broken))
    for name, said in (("absent", "ModuleNotFoundError"), ("leaves", "SystemExit: 0"), ("escapes", "Odd")):
        with pytest.raises(InputError, match=rf"plug-in for store '{name}' .*cannot be imported \({said}"):
            open_store(f"{name}://place")

    def stops(address: str, column: str | None, id_column: str | None) -> Any:
        if address.endswith("shut"):
            raise SystemExit(0)

        def batches(batch: int) -> Iterator[Any]:
            yield from ()
            raise SystemExit(0)

        return SimpleNamespace(name=address, dimension=2, count=None, batches=batches)

    monkeypatch.setitem(plugins._registered, ("store", "own"), stops)
    with pytest.raises(InputError, match="own:// cannot open it"):
        open_store("own://shut")
    with pytest.raises(InputError, match="own:// fails while it is read"):
        list(open_store("own://place").batches())
