"""Checkpoints of anybody's making: two sentences and exit code 2, in bounded memory, and nothing is waited for."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.robustness import fuzz_checkpoints as fuzz
from benchmarks.robustness import fuzzing
from unembed.checkpoint.checkpoint import verify_checkpoint
from unembed.checkpoint.sums import list_files, read_sums
from unembed.cli.app import main
from unembed.errors import CheckpointError
from unembed.inverter import Inverter

MEMORY = 300  # MiB that a refusal may add to the largest size of this process
Files = dict[str, bytes]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    write(tmp_path / "c", fuzz.good())
    return tmp_path / "c"


def write(folder: Path, files: Files) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Files], tuple[str, bytes]]:
    """Change the JSON of a file; what `change` returns, if anything, takes the place of all."""

    def apply(files: Files) -> tuple[str, bytes]:
        value = json.loads(files[name])
        other = change(value)
        return name, json.dumps(value if other is None else other).encode()

    return apply


def denoiser(**values: Any) -> Callable[[Files], tuple[str, bytes]]:
    return changed("config.json", lambda v: v["denoiser"].update(values))


def decode(**values: Any) -> Callable[[Files], tuple[str, bytes]]:
    return changed("config.json", lambda v: v["notes"].update(decode=values))


def identity(**values: Any) -> Callable[[Files], tuple[str, bytes]]:
    return changed("encoder.json", lambda v: v.update(values))


def tokenizer(**values: Any) -> Callable[[Files], tuple[str, bytes]]:
    return changed("tokenizer.json", lambda v: v.update(values))


def token_id(number: Any) -> Callable[[Files], tuple[str, bytes]]:
    return changed("tokenizer.json", lambda v: v["model"]["vocab"].update(house=number))


def replaces(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


BOMB = {"type": "Sequence", "normalizers": [replaces("e" * 30, String="e")] * 12}
SPLIT = {"type": "Split", "pattern": {"Regex": "(\\w+\\s?)*z"}, "behavior": "Isolated", "invert": False}
DOUBLE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 500, "pair": []}
NESTED = b"[" * 100_000 + b"]" * 100_000

HOSTILE: dict[str, Callable[[Files], tuple[str, bytes]]] = {
    "20,000 layers": denoiser(layers=20_000),
    "layers that the files do not hold": denoiser(layers=20),
    "a width that the files do not hold": denoiser(width=16_384),
    "a vocabulary that the files do not hold": denoiser(vocab_size=2_000_000),
    "a limit that the files do not hold": denoiser(max_length=65_536),
    "a dimension that the files do not hold": denoiser(vector_dim=60_000),
    "layers that are no number": denoiser(layers="1"),
    "layers that are true": denoiser(layers=True),
    "an infinite width": denoiser(width=1e400),
    "a width of many digits": denoiser(width=10**300),
    "an id out of range": denoiser(mask_id=10**9),
    "a negative id": denoiser(pad_id=-1),
    "a schedule that is a list": denoiser(schedule=["linear"]),
    "a denoiser that is a list": changed("config.json", lambda v: v.update(denoiser=[1])),
    "no files": changed("config.json", lambda v: v.update(files={})),
    "files that are null": changed("config.json", lambda v: v.update(files=None)),
    "a file outside": changed("config.json", lambda v: v["files"].update({"../../../etc/passwd": "0" * 64})),
    "notes that are a number": changed("config.json", lambda v: v.update(notes=3)),
    "a config that is a list": changed("config.json", lambda v: [v]),
    "a nested config": lambda files: ("config.json", NESTED),
    "a nested recipe": lambda files: ("recipe.json", b'{"a": ' + NESTED + b"}"),
    "a nested identity": lambda files: ("encoder.json", b'{"a":' * 900 + b"1" + b"}" * 900),
    "a config without end": lambda files: ("config.json", b" " * (2 << 20)),
    "no UTF-8": lambda files: ("recipe.json", b'{"a": "\xff"}'),
    "an identity that is null": lambda files: ("encoder.json", b"null"),
    "an infinite dimension": identity(dimension=1e400),
    "a dimension that is not the network's": changed(
        "encoder.json", lambda v: v.update(dimension=9, probe_vectors=[[0.5] * 9] * 3)
    ),
    "probe vectors that are null": identity(probe_vectors=None),
    "a name that a terminal obeys": identity(name="\x1b[2J"),
    "a billion passes": decode(strategy="adaptive", passes=10**9),
    "many drafts": decode(strategy="left-to-right", beam=1000, lengths=1000),
    "passes that are a number of another kind": decode(strategy="adaptive", passes=1e9),
    "a strategy that is none": decode(strategy="all"),
    "an option of another version": decode(strategy="prior", top_k=3),
    "a decode that is a text": changed("config.json", lambda v: v["notes"].update(decode="x")),
    "a token id of 50 million": token_id(50_000_000),
    "a token id of many digits": token_id(10**30),
    "a token id that is a text": token_id("7"),
    "a token id that is the network's last and one": token_id(5000),
    "a long token": changed("tokenizer.json", lambda v: v["model"]["vocab"].update({"e" * 10**6: 9})),
    "a normaliser bomb": tokenizer(normalizer=BOMB),
    "a normaliser that replaces nothing": tokenizer(normalizer=replaces("e" * 99, String="")),
    "a normaliser with a long text": tokenizer(normalizer=replaces("e" * 10**6, String="e")),
    "a normaliser with a slow expression": tokenizer(normalizer=replaces("", Regex="(x+x+)+y")),
    "a slow expression to split at": tokenizer(pre_tokenizer=SPLIT),
    "a decoder bomb": tokenizer(decoder={"type": "Sequence", "decoders": BOMB["normalizers"]}),
    "a normaliser that is a text": tokenizer(normalizer="NFC"),
    "a tokenizer without a model": tokenizer(model=None),
    "a nested tokenizer": lambda files: ("tokenizer.json", NESTED),
    "a calibration of NaN": changed("calibration.json", lambda v: v["left-to-right"].update(mean=[float("nan")] * 6)),
    "a calibration of texts": changed("calibration.json", lambda v: v["left-to-right"].update(f1_x="abc")),
    "a calibration with large numbers": changed("calibration.json", lambda v: v["left-to-right"].update(n=10**400)),
    "a calibration that is a list": lambda files: ("calibration.json", b"[1]"),
    "a student of many layers": changed("student.json", lambda v: v["config"].update(layers=10**6)),
    "a wide student": changed("student.json", lambda v: v["config"].update(width=60_000)),
    "a student of another dimension": changed("student.json", lambda v: v["config"].update(vector_dim=9)),
    "a student that is null": lambda files: ("student.json", b"null"),
    "a surrogate of texts": changed("student.json", lambda v: v.update(surrogate={"replace": "abcde"})),
    "a student that is cut": lambda files: ("student.safetensors", files["student.safetensors"][:-9]),
    "a corrector that is cut": lambda files: ("corrector.safetensors", files["corrector.safetensors"][:-9]),
    "a corrector with a long header": lambda files: ("corrector.safetensors", (2**40).to_bytes(8, "little") * 9),
    "weights that are empty": lambda files: ("model-00001-of-00001.safetensors", b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    """Its checksums are right: an author of such a file mends them."""
    place, data = HOSTILE[name](fuzz.good())
    write(tmp_path / "c", fuzz.mend({**fuzz.good(), place: data}, place))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        Inverter.from_pretrained(tmp_path / "c", "cpu").load_all()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEMORY
    what, do = caught.value.what, caught.value.do
    assert what.endswith(".") and do.endswith(".") and str(caught.value).isprintable() and len(str(caught.value)) < 700


def test_a_template_that_doubles_a_text_has_no_effect(tmp_path: Path) -> None:
    """Post-processors only add special tokens here, so none is run."""
    place, data = tokenizer(post_processor=DOUBLE)(fuzz.good())
    write(tmp_path / "c", fuzz.mend({**fuzz.good(), place: data}, place))
    assert Inverter.from_pretrained(tmp_path / "c", "cpu").tokenizer.encode(["the house"]) != []
    assert len(Inverter.from_pretrained(tmp_path / "c", "cpu").tokenizer.encode(["the house"])[0]) == 2


def test_options_that_are_gone_do_not_keep_a_checkpoint_from_loading(tmp_path: Path) -> None:
    place, data = decode(strategy="draft-correct", score="pseudo", keep=2, choose="mbr")(fuzz.good())
    write(tmp_path / "c", fuzz.mend({**fuzz.good(), place: data}, place))
    config = Inverter.from_pretrained(tmp_path / "c", "cpu").resolve({})
    assert (config.strategy, config.choose) == ("draft-correct", "likelihood")
    place, data = decode(strategy="left-to-right", guidance=1.5)(fuzz.good())
    write(tmp_path / "d", fuzz.mend({**fuzz.good(), place: data}, place))
    assert Inverter.from_pretrained(tmp_path / "d", "cpu").resolve({}).guidance == 1


COMMANDS = ("doctor", "verify", "show", "invert", "evaluate", "serve")
SEEN = {
    "a nested config": COMMANDS,
    "20,000 layers": ("doctor", "verify", "invert", "evaluate", "serve"),
    "an infinite dimension": ("doctor", "verify", "invert", "evaluate", "serve"),
    "a normaliser bomb": ("doctor", "verify", "invert", "evaluate", "serve"),
    "a billion passes": ("doctor", "verify", "invert", "evaluate", "serve"),
    "a student that is cut": ("doctor", "verify"),
}


def command(name: str, folder: Path, place: Path) -> list[str]:
    np.save(place / "v.npy", np.ones((1, 8), np.float32))
    (place / "t.txt").write_text("the old house\n")
    model = ["--model", str(folder)]
    return {
        "doctor": ["doctor", *model],
        "verify": ["models", "verify", str(folder)],
        "show": ["models", "show", str(folder)],
        "invert": ["invert", str(place / "v.npy"), *model],
        "evaluate": ["evaluate", str(place / "t.txt"), *model],
        "serve": ["serve", "--port", "0", "--no-open", *model],
    }[name]


@pytest.mark.parametrize("name", SEEN)
def test_every_command_ends_with_two_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("unembed.machine.matmul_rate", lambda *args: 1.0)  # a second each
    place, data = HOSTILE[name](fuzz.good())
    write(tmp_path / "c", fuzz.mend({**fuzz.good(), place: data}, place))
    for one in SEEN[name]:
        assert main(command(one, tmp_path / "c", tmp_path)) == 2, one
        said = capsys.readouterr().err
        assert said.splitlines()[-2].startswith("error: ") and "Traceback" not in said, said


@pytest.mark.parametrize(
    "name", ["config.json", "encoder.json", "tokenizer.json", "student.json", "SHA256SUMS", "corrector.safetensors"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_opened(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    """A pipe that nobody writes into would be waited for, a device could be read without end."""
    path = whole / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(CheckpointError):
        Inverter.from_pretrained(whole, "cpu").load_all()
        verify_checkpoint(whole)
    assert main(command("verify", whole, tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("name", ["tokenizer.json", "recipe.json", "calibration.json", "README.md", "student.json"])
def test_every_file_is_listed_and_compared(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also those that are no part of the model: its card, student and corrector."""
    files, unlisted = verify_checkpoint(whole)
    assert set(files) == {path.name for path in whole.iterdir()} - {"SHA256SUMS"} and not unlisted
    monkeypatch.setattr("unembed.machine.matmul_rate", lambda *args: 1.0)
    (whole / name).write_bytes((whole / name).read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=name):
        verify_checkpoint(whole)
    assert main(command("verify", whole, tmp_path)) == 2 and main(command("doctor", whole, tmp_path)) == 2
    assert name in capsys.readouterr().err


def test_a_file_that_is_not_listed_is_named(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unembed.machine.matmul_rate", lambda *args: 1.0)
    (whole / "notes.txt").write_text("x")
    assert verify_checkpoint(whole)[1] == ["notes.txt"]
    assert main(command("verify", whole, tmp_path)) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["not", "listed", "notes.txt"]
    assert main([*command("doctor", whole, tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unlisted"] == ["notes.txt"]
    list_files(whole, "notes.txt")
    assert verify_checkpoint(whole)[1] == []
    (whole / "notes.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks notes\.txt"):
        verify_checkpoint(whole)
    list_files(whole)
    assert "notes.txt" not in read_sums(whole) and not verify_checkpoint(whole)[1]


def test_a_list_is_refused_where_it_does_not_say_what_config_says(whole: Path) -> None:
    sums = (whole / "SHA256SUMS").read_text()
    for text in (
        "".join(line for line in sums.splitlines(True) if "tokenizer" not in line),
        sums + "0" * 64 + "  ../x\n",
        sums + sums,
        "x",
        sums.replace("  ", " "),
    ):
        (whole / "SHA256SUMS").write_text(text)
        with pytest.raises(CheckpointError, match="SHA256SUMS"):
            verify_checkpoint(whole)
    (whole / "SHA256SUMS").unlink()  # as version 0.1.0 wrote it
    files, unlisted = verify_checkpoint(whole)
    assert "tokenizer.json" in files and unlisted == [
        "README.md",
        "config.json",
        "corrector.safetensors",
        "student.json",
        "student.safetensors",
    ]


def test_changed_checkpoints_work_or_are_refused(tmp_path: Path) -> None:
    """60 in this process; benchmarks/robustness/fuzz_checkpoints.py does as many as one wants."""
    fuzz.CHECKPOINTS.rehearse(tmp_path, 3)
    found = [one for one in fuzzing.try_cases(fuzz.CHECKPOINTS, 0, 60, 3, tmp_path) if "outcome" in one]
    outcomes = [one["outcome"] for one in found]
    assert not [one for one in found if one["outcome"] == "failed"]
    assert len(outcomes) == 60 and outcomes.count("read") > 5 and outcomes.count("refused") > 25
