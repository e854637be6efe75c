"""The library's face: few names, each documented; numpy and torch are both welcome; it logs and never prints."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import logging
import pickle
import re
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import unembed
from tests.helpers.tiny import save_tiny
from unembed import Inverter, UnembedError, errors, load_encoder
from unembed.checkpoint.checkpoint import load_checkpoint
from unembed.stores.protocol import VectorBatch

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(unembed.__file__).parent
TEXTS = ["the old man and the sea", "she told me about it", "where is the station ?"]


def test_there_are_at_most_twelve_names() -> None:
    assert len(unembed.__all__) <= 12
    assert unembed.__all__ == sorted(unembed.__all__, key=lambda name: (name.lower() == name, name))
    assert dir(unembed) == sorted(unembed.__all__)
    page = (ROOT / "docs" / "api.md").read_text().split("## Behind the public names")[0]
    documented = set(re.findall(r"^::: unembed\.(\w+)$", page, re.MULTILINE))
    assert documented == set(unembed.__all__) - {"__version__"}


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert unembed.__version__ == project["version"] == citation[1]


def public_callables() -> Iterator[tuple[str, Callable[..., object]]]:
    """Functions, classes and the methods that classes of ours define in the open."""
    for name in unembed.__all__:
        value = getattr(unembed, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        if not inspect.isclass(value):
            continue
        for member, raw in vars(value).items():
            method = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
            if inspect.isfunction(method) and not member.startswith("_"):
                yield f"{name}.{member}", method


CALLABLES = dict(public_callables())
SAYS_NOTHING_CAN_GO_WRONG = {  # tensors of the right shape in, numbers out; nothing that a user reads from a file
    *(
        "Denoiser.condition",
        "Denoiser.unconditional",
        "Denoiser.length_log_probs",
        "Denoiser.hidden",
        "Denoiser.token_logits",
        "Denoiser.read",
    ),
    *("Denoiser.scores", "Denoiser.logits", "Denoiser.next_logits", "Denoiser.parameter_counts"),
    *("Inverter.calibration", "Recipe.to_dict", "Recipe.told"),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_docstrings_have_the_sections_that_apply(name: str) -> None:
    value = CALLABLES[name]
    text = inspect.getdoc(value) or ""
    sections = set(re.findall(r"^(Args|Attributes|Returns|Yields|Raises):$", text, re.MULTILINE))
    taken = [p for p in inspect.signature(value).parameters if p not in ("self", "cls")]
    if inspect.isclass(value):
        assert sections & {"Args", "Attributes"}, name
    else:
        assert not taken or "Args" in sections, f"{name} does not say what it takes"
        returned = inspect.signature(value).return_annotation
        assert returned in (None, "None") or sections & {"Returns", "Yields"}, f"{name} does not say what it returns"
        assert name in SAYS_NOTHING_CAN_GO_WRONG or "Raises" in sections, f"{name} does not say how it fails"
    listed = re.search(r"^(?:Args|Attributes):\n((?: .*\n?|\n)+)", text, re.MULTILINE)
    words = set(re.findall(r"\w+", listed[1])) if listed else set()
    assert set(taken) <= words, f"{name} says nothing of {sorted(set(taken) - words)}"


def test_every_exception_is_ours_and_has_two_sentences() -> None:
    found = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert len(found) >= 7
    for kind in found:
        assert issubclass(kind, UnembedError)
        again = pickle.loads(pickle.dumps(kind("Row 3 is bad.", "Remove it.")))  # crosses a process boundary
        assert type(again) is kind and (again.what, again.do) == ("Row 3 is bad.", "Remove it.")
        assert str(again) == "Row 3 is bad. Remove it."


def test_the_library_neither_prints_nor_touches_the_root_logger() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert name != "print", f"{path}:{node.lineno} prints"
            if "cli" not in path.relative_to(PACKAGE).parts:
                assert name not in {"logging.basicConfig", "sys.stdout.write", "sys.stderr.write"}, f"{path}"
                assert name != "logging.getLogger" or node.args, f"{path}:{node.lineno} takes the root logger"


# ------------------------------------------------------------------ numpy and torch


@pytest.fixture(scope="module")
def inverter(tmp_path_factory: pytest.TempPathFactory) -> Inverter:
    """A tiny network with random weights for the hashing encoder."""
    return Inverter(load_checkpoint(save_tiny(tmp_path_factory.mktemp("face") / "tiny", causal=False)))


ROWS = load_encoder("hashing:24").encode(TEXTS)
KINDS: dict[str, Callable[[], object]] = {
    "numpy float16": lambda: ROWS.astype(np.float16),
    "numpy float64": lambda: ROWS.astype(np.float64),
    "numpy big-endian": lambda: ROWS.astype(">f4"),
    "numpy column order": lambda: np.asfortranarray(ROWS),
    "numpy strided": lambda: np.repeat(ROWS, 2, axis=1)[:, ::2],
    "numpy reversed": lambda: np.ascontiguousarray(ROWS[::-1])[::-1],
    "numpy read-only": lambda: np.frombuffer(ROWS.tobytes(), dtype=np.float32).reshape(ROWS.shape),
    "torch float16": lambda: torch.from_numpy(ROWS).half(),
    "torch bfloat16": lambda: torch.from_numpy(ROWS).bfloat16(),
    "torch float32": lambda: torch.from_numpy(ROWS),
    "torch float64": lambda: torch.from_numpy(ROWS).double(),
    "torch transposed": lambda: torch.from_numpy(np.ascontiguousarray(ROWS.T)).T,
    "torch strided": lambda: torch.from_numpy(ROWS).repeat_interleave(2, dim=1)[:, ::2],
    "torch on autograd": lambda: torch.from_numpy(ROWS).requires_grad_() * 1.0,
    "list of lists": lambda: ROWS.tolist(),
    "list of arrays": lambda: list(ROWS),
    "array of arrays": lambda: pd.Series(list(ROWS)).to_numpy(),
    "pandas Series of arrays": lambda: pd.Series(list(ROWS)),
    "pandas column of lists": lambda: pd.DataFrame({"v": ROWS.tolist()})["v"],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_torch_are_both_welcome(kind: str, inverter: Inverter) -> None:
    vectors: typing.Any = KINDS[kind]()
    before = np.array([np.asarray(row.detach().float() if hasattr(row, "detach") else row) for row in vectors])
    options: dict[str, typing.Any] = {"strategy": "confidence", "passes": 4, "lengths": 1}
    expected = inverter.invert(ROWS, **options)
    found = inverter.invert(vectors, **options)
    assert [len(inverter.drafts(vectors, **options)), len(found)] == [3, 3]
    if "16" in kind:  # rounded vectors may be read otherwise
        np.testing.assert_allclose([r.likelihood for r in found], [r.likelihood for r in expected], atol=0.05)
    else:
        assert [r.token_ids for r in found] == [r.token_ids for r in expected]
    assert list(inverter.stream(vectors[0], **options))
    after = np.array([np.asarray(row.detach().float() if hasattr(row, "detach") else row) for row in vectors])
    assert (before == after).all(), "what the caller owns is not changed"


def test_what_is_public_says_what_it_is(inverter: Inverter) -> None:
    """A repr is a line that names what one asks first; no vectors, and a long text only by its beginning."""
    assert repr(inverter) == (
        "<Inverter 'tiny': vectors of hashing:24 (24 dimensions) to texts of up to 8 tokens; cpu, fp32>"
    )
    found = inverter.invert(ROWS, strategy="confidence", passes=2, trace=True)[0]
    assert repr(found) == f"Recovery({found.text!r}, likelihood={found.likelihood:.3f})"
    asked = dataclasses.replace(found, text="word " * 50, confidence=0.5, cosine=0.75, queries=3)
    assert repr(asked).startswith(f"Recovery('{('word ' * 12)[:57]}...', confidence=0.500, cosine=0.750, queries=3, ")
    assert found.trace and repr(found.trace) == f"<Trace: {len(found.trace.steps)} steps, {found.trace.passes} passes>"
    encoder = load_encoder("hashing:24")
    assert repr(encoder) == "<HashingEncoder 'hashing:24', 24 dimensions>" and len(repr(encoder.identity)) < 250
    assert repr(load_encoder("http://127.0.0.1:9/v1?model=m")) == (
        "<HttpEncoder 'endpoint:m' at http://127.0.0.1:9/v1, unknown dimensions>"
    )
    batch = VectorBatch([5, 6], ROWS[:2], {"text": ["a", "b"]}, start=5)
    assert repr(batch) == "<VectorBatch: 2 vectors of 24 dimensions from row 5; metadata ['text']>"


@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor, list], ids=["numpy", "torch", "list"])
def test_given_tokens_may_be_an_array_a_tensor_or_a_list(wrap: Callable[[object], object], inverter: Inverter) -> None:
    the = inverter.tokenizer.encode(["the"])[0][0]
    found = inverter.invert(ROWS, given=wrap([[the, -1]] * 3), strategy="confidence", passes=2)
    assert all(r.token_ids[0] == the for r in found)


def test_what_is_said_goes_through_logging(
    inverter: Inverter,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("unembed")
    monkeypatch.setattr(logger, "handlers", [])  # commands that ran in this process before have added theirs
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="unembed"):
        inverter.invert(ROWS * 3, strategy="confidence", passes=2)
    assert any("scaled to length 1" in record.getMessage() for record in caplog.records)
    assert {record.name.split(".")[0] for record in caplog.records} == {"unembed"}
    assert capfd.readouterr() == ("", "")


def test_the_package_is_silent_until_asked() -> None:
    """Without a logging configuration, notes go nowhere and nothing is printed."""
    code = "import unembed, logging; unembed.Inverter; logging.getLogger('unembed').info('a note')"
    code += "; assert not logging.getLogger().handlers"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "")
