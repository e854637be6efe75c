"""Damaged and hostile checkpoints, loaded and used: each works or is refused with an error of ours; one JSON line.

    python -m benchmarks.robustness.fuzz_checkpoints --count 100000 --seed 0 --out docs/results/fuzz-checkpoints.json

A small whole checkpoint (network, tokenizer, calibration, student, corrector) has one of its files
changed: bytes (`fuzzing.mutate`), values of JSON (another type, out of range, nested, missing), parts of the tokenizer
that make texts longer or take long, tensors (other shapes and types, NaN, names). The checksums are mended, as an
author of such a file would; in every twentieth they are not, and then the checkpoint must be refused. What loads then
inverts two vectors and a text, and every eighth time with queries, which student and corrector take part in.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from benchmarks.robustness.fuzzing import Case, Fuzzer, main, mutate
from unembed.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from unembed.checkpoint.corrector_file import CORRECTOR_FILE, _digest, write_corrector
from unembed.checkpoint.student_file import STUDENT_FILE, StudentFile, write_student
from unembed.checkpoint.sums import SUMS, list_files, sums_text
from unembed.data.tokenization import Tokenizer
from unembed.decoding.confidence import FEATURES, Calibration
from unembed.encoders.hashing import HashingEncoder
from unembed.errors import UnembedError
from unembed.inverter import Inverter, Refine
from unembed.network.config import ModelConfig
from unembed.network.corrector import Corrector, CorrectorConfig
from unembed.network.denoiser import Denoiser
from unembed.network.student import StudentConfig, StudentEncoder

DIMENSION, LIMIT = 8, 5
TEXT = "the old house by the river"
KINDS = ("bytes", "values", "values", "values", "tokenizer", "tensors")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, 64, 1000, 20_000, 10**6, 5 * 10**7, 2**31, 2**63, 10**30, 1e308,
    float("inf"), float("nan"), -0.5, "", "a", "9", "a" * 5000, "\x1b[2J", "\ud800", "../../x", "http://127.0.0.1:9/v1",
    [],
    {}, [[]], [0] * 5000, {"a": {"b": {}}}, [None], ["a"],
)  # fmt: skip
GROW = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 30}
PARTS: tuple[Any, ...] = (
    None, {}, [], "NFC", {"type": "Sequence", "normalizers": [GROW] * 12}, {"type": "Sequence", "pretokenizers": []},
    {"type": "Replace", "pattern": {"String": ""}, "content": "a"}, {"type": "Replace", "pattern": {"Regex": "(a+)+$"}},
    {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}, {**GROW, "content": "e" * 10**6}, GROW,
    {"type": "Split", "pattern": {"Regex": "(\\w+\\s?)*z"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"String": "e"}, "behavior": "Removed", "invert": True}, {"type": "Lowercase"},
    {"type": "Prepend", "prepend": "a" * 10**5}, {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Precompiled", "precompiled_charsmap": "CAAAAAAAAAAAAAAA"}, {"type": "NFKC"}, {"type": "ByteFallback"},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, {"type": "Fuse"},
    {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 500, "pair": []},
)  # fmt: skip


def _network() -> Denoiser:
    encoder = HashingEncoder(DIMENSION)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json())
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("mask", "eos", "bos", "pad")}
    shape = {"width": 8, "layers": 1, "heads": 2, "mlp": 16, "prefix_tokens": 1, "token_prior": True, "causal": True}
    denoiser = Denoiser(ModelConfig(vector_dim=DIMENSION, vocab_size=tokenizer.size, max_length=LIMIT, **shape, **ids))
    denoiser.banned[torch.from_numpy(tokenizer.banned)] = True
    denoiser.banned[tokenizer.eos_id] = False
    prior = denoiser.token_prior
    assert prior is not None
    prior.codes.copy_(torch.randint(-100, 100, prior.codes.shape))
    prior.scale.fill_(0.01)
    prior.square.copy_((prior.codes.float() ** 2).sum(1) * prior.scale**2)
    prior.counts.fill_(50)
    return denoiser.eval()


@lru_cache(maxsize=1)
def good() -> dict[str, bytes]:
    """Name -> bytes of a whole checkpoint's files, the same in every process."""
    torch.manual_seed(0)
    encoder, denoiser, generator = HashingEncoder(DIMENSION), _network(), np.random.default_rng(0)
    features = generator.normal(size=(60, len(FEATURES)))
    fitted = Calibration.fit(features, generator.random(60), generator.random(60) > 0.5).to_dict()
    notes = {"decode": {"strategy": "left-to-right", "beam": 2, "lengths": 2, "choose": "student"}, "steps": 3}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_checkpoint(
            folder,
            denoiser,
            Tokenizer.from_json(encoder.tokenizer_json()).to_json(),
            encoder.identity.to_dict(),
            {"run": {"seed": 0}, "data": {"encoder": "minilm"}},
            {"left-to-right": fitted},
            notes,
            dtype="int6",
        )
        checkpoint = load_checkpoint(folder)
        student = StudentEncoder(StudentConfig(DIMENSION, LIMIT, 8, 8, 1, 2, 16))
        write_student(folder, StudentFile(student, {"replace": [0.0, 0.1, 0.0, 0.0, 1.0]}), checkpoint.sha256)
        small = CorrectorConfig(layers=1, heads=2, mlp=16, read_heads=1, read_width=8, rank=4, vector_rows=1)
        corrector = Corrector(checkpoint.denoiser, small)
        write_corrector(folder / CORRECTOR_FILE, corrector, {"base": checkpoint.weights})
        (folder / "README.md").write_text("# A small model\n")
        list_files(folder, CORRECTOR_FILE, "README.md")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside, the first of long lists only."""
    found: list[tuple[Any, Any]] = []
    layer = [value]
    while layer:
        one = layer.pop()
        keys = list(one) if isinstance(one, dict) else range(min(len(one), 3)) if isinstance(one, list) else ()
        for key in keys if len(keys) <= 40 else list(keys)[:5]:
            found.append((one, key))
            layer.append(one[key])
    return found


def change_values(data: bytes, generator: np.random.Generator) -> bytes:
    """Change one to three values of a JSON file."""
    value = json.loads(data)
    for _ in range(int(generator.choice([1, 1, 2, 3]))):
        nodes = _nodes(value)
        if not nodes:
            break
        inside, key = nodes[int(generator.integers(len(nodes)))]
        other = VALUES[int(generator.integers(len(VALUES)))]
        kind = int(generator.integers(12))
        if kind == 0 and isinstance(inside, dict):
            del inside[key]
        elif kind == 1 and isinstance(inside, dict):
            inside[f"{key}x"] = other
        elif kind == 2 and isinstance(inside[key], list):
            inside[key] = inside[key] * int(generator.choice([2, 500]))
        elif kind == 3:
            nested: Any = other
            for _ in range(int(generator.choice([3, 300, 20_000]))):
                nested = [nested] if generator.integers(2) else {"a": nested}
                if generator.integers(1000) == 0:
                    break
            return _deep(value, inside, key, nested)
        else:
            inside[key] = other
    return json.dumps(value).encode()


def _deep(value: Any, inside: Any, key: Any, nested: Any) -> bytes:
    """JSON with a deep value, which the encoder of Python would not write."""
    depth = 0
    while isinstance(nested, list | dict) and nested and depth < 30_000:
        nested, depth = (nested[0] if isinstance(nested, list) else nested["a"] if "a" in nested else None), depth + 1
    inside[key] = "@deep@"
    return json.dumps(value).encode().replace(b'"@deep@"', b"[" * depth + b"]" * depth)


def change_tokenizer(data: bytes, generator: np.random.Generator) -> bytes:
    """Put a foreign part into a tokenizer, or an id out of range."""
    value = json.loads(data)
    if generator.integers(4):
        part = str(generator.choice(["normalizer", "pre_tokenizer", "post_processor", "decoder"]))
        value[part] = PARTS[int(generator.integers(len(PARTS)))]
        if not generator.integers(3):
            many = [PARTS[int(i)] for i in generator.integers(len(PARTS), size=3)]
            key = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
            value[part] = {"type": "Sequence", key.get(part, "processors"): many}
    else:
        vocabulary = value["model"]["vocab"]
        token = list(vocabulary)[int(generator.integers(len(vocabulary)))]
        vocabulary[token] = VALUES[int(generator.integers(len(VALUES)))]
        if generator.integers(2):
            value["model"]["type"] = str(generator.choice(["WordLevel", "BPE", "Unigram", "WordPiece"]))
    return json.dumps(value).encode()


def change_tensors(name: str, data: bytes, generator: np.random.Generator) -> bytes:
    """Change tensors: another shape, type or name, NaN, extreme numbers, one too few or many."""
    stored = load(data)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    for _ in range(int(generator.choice([1, 1, 2]))):
        at = list(stored)[int(generator.integers(len(stored)))]
        tensor = stored[at]
        kind = int(generator.integers(9))
        if kind == 0 and len(stored) > 1:
            del stored[at]
        elif kind == 1:
            stored[str(generator.choice([f"{at}@0", f"{at}:int4", f"{at}:scale", "x", f"{at}x"]))] = tensor.clone()
        elif kind == 2:
            stored[at] = tensor.reshape(-1)[: int(generator.integers(tensor.numel() + 1))].clone()
        elif kind == 3:
            stored[at] = tensor.repeat(*[2] * max(tensor.dim(), 1)) if tensor.numel() < 1 << 14 else tensor[:0]
        elif kind == 4:
            stored[at] = tensor.to(
                generator.choice([torch.int64, torch.float64, torch.bool, torch.uint8, torch.bfloat16])
            )
        elif tensor.is_floating_point() and tensor.numel():
            bad = float(generator.choice([np.nan, np.inf, -np.inf, 1e38, -1e38, 0.0]))
            bad = torch.tensor(bad).to(tensor.dtype).item()  # infinite where the type is small
            flat = tensor.clone().reshape(-1)
            flat[int(generator.integers(len(flat)))] = bad
            stored[at] = (flat if kind < 8 else torch.full_like(flat, bad)).reshape(tensor.shape)
        elif tensor.numel() and tensor.dtype in (torch.int8, torch.uint8, torch.int32, torch.uint16):
            flat = tensor.to(torch.int64).reshape(-1)
            flat[int(generator.integers(len(flat)))] = int(generator.integers(-100, 256))
            stored[at] = flat.to(tensor.dtype).reshape(tensor.shape)
    if name == CORRECTOR_FILE:
        header["sha256"] = _digest(stored)
        if not generator.integers(4):
            header["shape"] = change_values(header["shape"].encode(), generator).decode("utf-8", "replace")
    return save({key: value.contiguous() for key, value in stored.items()}, header)


class Checkpoints(Fuzzer):
    """Checkpoints, loaded and used."""

    benchmark, memory = "fuzz_checkpoints", 2048

    def case(self, index: int, seed: int) -> Case:
        """Return one changed file of a checkpoint."""
        generator = np.random.default_rng([seed, index])
        files = {name: data for name, data in good().items() if name not in ("README.md",)}
        kind = KINDS[index % len(KINDS)]
        ending = {"values": ".json", "tensors": ".safetensors"}.get(kind, "")
        names = ["tokenizer.json"] if kind == "tokenizer" else [name for name in files if name.endswith(ending)]
        name = names[int(generator.integers(len(names)))]
        if kind == "values" and not generator.integers(3):
            name = "config.json"
        data = files[name]
        if kind == "values":
            data = change_values(data, generator)
        elif kind == "tokenizer":
            data = change_tokenizer(data, generator)
        elif kind == "tensors":
            data = change_tensors(name, data, generator)
        else:
            data = mutate(data, generator)
        return Case(f"{kind} of {name}", name, data)

    def rehearse(self, folder: Path, seed: int) -> None:
        """Use the whole checkpoint."""
        for name, data in good().items():
            (folder / name).write_bytes(data)
        use(folder, True)

    def attempt(self, case: Case, index: int, folder: Path) -> str:
        """Put the file in, mend the checksums, use the checkpoint, and restore it."""
        files = {**good(), case.name: case.data}
        mended = bool(index % 20) or case.data == good()[case.name]
        if mended:
            files = mend(files, case.name)
        changed = [name for name in files if files[name] != good().get(name)]
        try:
            for name in changed:
                (folder / name).write_bytes(files[name])
            if not mended:
                refused(folder, case.name)
            use(folder, index % 8 == 0)
        finally:
            for name in changed:
                (folder / name).write_bytes(good()[name])
        return "read"


def mend(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """Give a changed file the checksums that it needs, as far as the files can still be read."""

    def digest(key: str) -> str:
        return hashlib.sha256(files[key]).hexdigest()

    files = dict(files)
    try:
        config = json.loads(files["config.json"])
        if name in config["files"]:
            config["files"][name] = digest(name)
            files["config.json"] = json.dumps(config).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    if name != "student.json":
        told = json.loads(files["student.json"])
        told |= {"checkpoint": digest("config.json"), "sha256": digest(STUDENT_FILE)}
        files["student.json"] = json.dumps(told).encode()
    if name != SUMS:
        files[SUMS] = sums_text({key: digest(key) for key in files if key != SUMS})
    return files


def refused(folder: Path, name: str) -> None:
    """A file that is not the one that is listed must be noticed by what verifies."""
    from unembed.checkpoint.checkpoint import verify_checkpoint

    try:
        verify_checkpoint(folder)
    except UnembedError:
        return
    raise AssertionError(f"a changed {name} passes as right")


def use(folder: Path, queries: bool) -> None:
    """Load a checkpoint and let every part of it work."""
    inverter = Inverter.from_pretrained(folder, "cpu")
    vectors = HashingEncoder(DIMENSION).encode([TEXT, "a"])
    found = [*inverter.invert(vectors), *inverter.invert_strings([TEXT])]
    inverter.load_all()
    if queries:
        found += inverter.invert(vectors, refine=Refine(4, "combined"))
    found += inverter.invert(vectors, strategy="prior")
    for one in found:
        if not (one.confidence is None or 0 <= one.confidence <= 1):
            raise AssertionError(f"a confidence of {one.confidence}")


CHECKPOINTS = Checkpoints()

if __name__ == "__main__":
    torch.set_num_threads(1)
    main(CHECKPOINTS, __doc__)
