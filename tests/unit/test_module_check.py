"""Folders of sentence-transformers models that would run code or reach outside themselves: refused before loading."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unembed.encoders.module_check import check_modules
from unembed.encoders.registry import load_encoder
from unembed.errors import EncoderError

NETWORK = "sentence_transformers.base.modules.transformer.Transformer"
POOLING = "sentence_transformers.models.Pooling"
ROUTER = "sentence_transformers.base.modules.router.Router"
ASYM = "sentence_transformers.models.Asym"
DENSE = "sentence_transformers.models.Dense"
WORDS = "sentence_transformers.sentence_transformer.modules.word_embeddings.WordEmbeddings"


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, hit: Path) -> None:
        self.hit = hit

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.hit),)


def put(folder: Path, file: str, value: Any) -> None:
    """Write a JSON file, or bytes."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())


def model(folder: Path, *modules: tuple[str, str]) -> Path:
    """A folder with a network (safetensors) and the given modules (type, path)."""
    put(folder, "modules.json", [{"type": kind, "path": path} for kind, path in (*modules, (NETWORK, ""))])
    put(folder, "config.json", {"model_type": "bert"})
    put(folder, "model.safetensors", b"weights")
    return folder


def refused(folder: Path, *parts: str) -> None:
    """The check refuses the folder by itself, and `load_encoder` does."""
    for act in (lambda: check_modules(folder, "m"), lambda: load_encoder(str(folder))):
        with pytest.raises(EncoderError) as caught:
            act()
        assert all(part in str(caught.value) for part in parts), caught.value
        assert caught.value.what.endswith(".") and caught.value.do.endswith(".") and len(str(caught.value)) < 600


@pytest.mark.parametrize("outer", [ROUTER, ASYM])
@pytest.mark.parametrize("config", ["router_config.json", "config.json"])
@pytest.mark.parametrize("kind", ["joblib.numpy_pickle", "pickle", "evil.Evil", "torch.serialization"])
def test_nested_types_that_unpickle_a_file_run_nothing(tmp_path: Path, outer: str, config: str, kind: str) -> None:
    """sentence-transformers before 6.0 imports what a router's types name, and calls its `load` on a file."""
    folder = model(tmp_path / "m", (outer, "0_Router"))
    put(folder, f"0_Router/{config}", {"types": {"payload.pkl": kind}, "structure": {}, "parameters": {}})
    put(folder, "0_Router/payload.pkl", pickle.dumps(Payload(tmp_path / "hit")))
    put(folder, "0_Router/model.safetensors", b"weights")
    refused(folder, "code of its own", kind)
    assert not (tmp_path / "hit").exists()


def test_routers_within_routers_are_followed_and_end(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", (ROUTER, "r"))
    put(folder, "r/router_config.json", {"types": {"r": ROUTER, "p": POOLING}})
    put(folder, "r/r/router_config.json", {"types": {"d": DENSE}})
    check_modules(folder, "m")
    put(folder, "r/r/d/config.json", {"activation_function": "evil.Evil"})
    refused(folder, "code of its own", "evil.Evil")
    for depth in range(2, 8):
        put(folder, "/".join("r" * depth) + "/router_config.json", {"types": {"r": ROUTER}})
    refused(folder, "modules within modules")
    put(folder, "r/router_config.json", {"types": {f"p{i}": POOLING for i in range(100)}})
    refused(folder, "more than 64 modules")
    put(folder, "r/router_config.json", {"types": [ROUTER]})
    refused(folder, "router_config.json", "cannot be read")


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.base.model.pickle",
        "sentence_transformers.util.misc.import_from_string",
        "sentence_transformers.models.Transformer.torch",
        "sentence_transformers.SparseEncoder",
        "sentence_transformers.models.",
        "sentence_transformers.models.Pooling\n",
    ],
)
def test_only_modules_of_text_encoders_are_taken_from_the_library(tmp_path: Path, kind: str) -> None:
    refused(model(tmp_path, (kind, "1")), "not part of a text encoder")


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "..\\b", "a\0b"])
def test_modules_lie_inside_the_folder(tmp_path: Path, path: str) -> None:
    refused(model(tmp_path, (POOLING, path)), "outside its folder")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth", "d.pkl", "model.ckpt", "x.joblib"])
def test_weights_are_never_unpickled(tmp_path: Path, file: str) -> None:
    """Beside safetensors, which are taken, such a file is left alone; without them the folder is refused."""
    folder = model(tmp_path, (DENSE, "2_Dense"))
    put(folder, file, b"\x80\x04.")
    check_modules(folder, "m")
    put(folder, f"2_Dense/{file}", b"\x80\x04.")
    refused(folder, f"2_Dense/{file}", "unpickled", "safetensors")
    put(folder, "2_Dense/other.safetensors", b"weights")  # not the file that a Dense reads
    refused(folder, "unpickled")
    put(folder, "2_Dense/model.safetensors", b"weights")
    check_modules(folder, "m")
    (folder / "model.safetensors").unlink()
    refused(folder, file, "unpickled")


@pytest.mark.parametrize(
    ("file", "value", "part"),
    [
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "someone/else"}, "tokenizer from elsewhere"),
        ("sentence_bert_config.json", {"model_args": {"weights_only": False}}, "weights_only"),
        ("sentence_roberta_config.json", {"model_kwargs": {"use_safetensors": False}}, "use_safetensors"),
        ("sentence_bert_config.json", {"model_args": {"attn_implementation": "someone/kernel"}}, "attn_implementation"),
        ("sentence_bert_config.json", {"config_args": {"gguf_file": "x.gguf"}}, "gguf_file"),
        ("sentence_bert_config.json", {"processor_kwargs": ["x"]}, "processor_kwargs"),
        ("adapter_config.json", {"base_model_name_or_path": "someone/else"}, "adapter"),
        ("config.json", b"[" * 100_000, "cannot be read"),
        ("config.json", b"\xff", "cannot be read"),
        ("modules.json", {"0": 1}, "modules.json"),
        ("modules.json", [{"type": POOLING}], "modules.json"),
        ("modules.json", 3, "modules.json"),
        ("modules.json", None, "modules.json"),
    ],
)
def test_configurations_name_nothing_elsewhere_and_are_plain(tmp_path: Path, file: str, value: Any, part: str) -> None:
    folder = model(tmp_path)
    put(folder, file, value)
    refused(folder, part)


def test_what_real_folders_say_is_taken(tmp_path: Path) -> None:
    folder = model(tmp_path, (DENSE, "2_Dense"), (WORDS, "3_Words"))
    args = {
        "model_args": {"torch_dtype": "bfloat16", "trust_remote_code": True},
        "tokenizer_args": {"padding_side": "left"},
    }
    put(folder, "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False, **args, "config_args": {}})
    put(folder, "2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"})
    named = "sentence_transformers.sentence_transformer.modules.tokenizer.whitespace.WhitespaceTokenizer"
    put(folder, "3_Words/wordembedding_config.json", {"tokenizer_class": named})
    check_modules(folder, "m")
    put(folder, "3_Words/wordembedding_config.json", {"tokenizer_class": "joblib.numpy_pickle"})
    refused(folder, "code of its own")


@pytest.mark.parametrize("file", ["modules.json", "config.json", "2_Dense/pipe"])
def test_a_pipe_is_never_waited_for(tmp_path: Path, file: str) -> None:
    folder = model(tmp_path, (DENSE, "2_Dense"))
    (folder / "2_Dense").mkdir()
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    refused(folder)
