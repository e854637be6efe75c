"""What a sentence-transformers folder is made of, checked before anything of it is loaded.

Contents: `check_modules`, `WANTED`.

A folder is foreign data. Its modules are a tree: `modules.json` names the outer ones, a `Router` (once `Asym`) names
modules of its own, and each type is a class that is imported. Every type must be one of the library's own, every
module must lie inside the folder, weights must be safetensors (other formats are unpickled), and no configuration may
name another model, a tokenizer elsewhere or a class of another package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from unembed.errors import EncoderError

WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""Patterns of the files that a model needs of a hub repository; formats that are unpickled are not fetched."""

_OWN = re.compile(r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.\w+)?\.(\w+)")
_NESTING = ("Router", "Asym")
_NETWORKS = ("Transformer", "CLIPModel")
_TYPES = {
    *(*_NESTING, *_NETWORKS, "Pooling", "Normalize", "Dense", "Dropout", "LayerNorm", "LSTM", "CNN", "BoW"),
    *("StaticEmbedding", "WeightedLayerPooling", "WordEmbeddings", "WordWeights"),
}
_TOKENIZER = re.compile(
    r"sentence_transformers\.(models|sentence_transformer\.modules)\.tokenizer(\.\w+)?\.(Whitespace|Phrase)Tokenizer"
)
_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation|linear)\.\w+")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_KEYWORDS = re.compile(r"(model|tokenizer|processor|config)_(args|kwargs)")
_HARMLESS = {
    *("trust_remote_code", "dtype", "torch_dtype", "attn_implementation", "add_pooling_layer", "use_cache"),
    *("padding_side", "truncation_side", "model_max_length", "max_length", "do_lower_case", "use_fast"),
}
"""Keywords that a folder may give: numbers and plain words. ("trust_remote_code" is ignored: the caller decides.)"""
_MOST_BYTES = 64 << 20
_MOST_MODULES, _DEEPEST = 64, 4


def check_modules(folder: Path, name: str) -> None:
    """Refuse a folder whose parts are not plain data.

    Args:
        folder: the model's folder.
        name: the encoder's name, for messages.

    Raises:
        EncoderError: no `modules.json`; a module of another package; weights that would be unpickled; a module, a
            tokenizer or a base model outside the folder; a file that is not a regular one, or that cannot be read.
    """
    if not (folder / "modules.json").exists():
        raise EncoderError(
            f"{name!r} is not a sentence-transformers model: it has no modules.json, so its pooling is unknown.",
            "Save it with sentence-transformers and the pooling that it was trained with.",
        )
    modules = _read(folder / "modules.json", name)
    try:
        found = [(str(module["type"]), str(module["path"])) for module in modules]
    except (TypeError, KeyError) as error:
        raise _unreadable("modules.json", name) from error
    _Walk(folder, name).all(found, PurePosixPath(), 0)


class _Walk:
    """One walk through the tree of modules."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.seen = 0

    def all(self, modules: list[tuple[str, str]], inside: PurePosixPath, depth: int) -> None:
        """Check modules given as (type, path below `inside`)."""
        self.seen += len(modules)
        if self.seen > _MOST_MODULES or depth > _DEEPEST:
            raise EncoderError(
                f"The encoder {self.name!r} has more than {_MOST_MODULES} modules, or modules within modules within "
                "modules.",
                "Choose a model of fewer modules.",
            )
        for kind, path in modules:
            self.one(kind, inside / path, path, depth)

    def one(self, kind: str, place: PurePosixPath, given: str, depth: int) -> None:
        """Check a module and those within it."""
        own = _OWN.fullmatch(kind)
        short = own[3] if own else ""
        if not kind.startswith("sentence_transformers."):
            raise self._refused(f"needs code of its own ({_shown(kind)}), which is not run")
        if short not in _TYPES:
            raise self._refused(f"has a module of type {_shown(kind)}, which is not part of a text encoder")
        if PurePosixPath(given).is_absolute() or ".." in place.parts or "\\" in given or "\0" in given:
            raise self._refused(f"takes a module from outside its folder ({given[:100]!r})")
        inside = self.folder / place
        if not inside.is_dir():
            return  # a module without files, or an incomplete folder: the library says which
        files = self._files(inside)
        self._weights(place, set(files), short)
        texts = {file: _read(path, self.name) for file, path in files.items() if _is_config(file)}
        if short in _NETWORKS:
            self._network(files, texts)
        for key, allowed, wanted in (
            ("activation_function", _ACTIVATION, "Dense"),
            ("tokenizer_class", _TOKENIZER, "WordEmbeddings"),
        ):
            for values in texts.values() if short == wanted else ():
                named = values.get(key) if isinstance(values, Mapping) else None
                if named is not None and not (isinstance(named, str) and allowed.fullmatch(named)):
                    raise self._refused(f"needs code of its own ({_shown(named)}), which is not run")
        if short in _NESTING:
            self._nested(texts, place, depth)

    def _files(self, inside: Path) -> dict[str, Path]:
        """The files of a module's folder by name."""
        found = {}
        for path in inside.iterdir():
            if path.is_file():
                found[path.name] = path
            elif not path.is_dir():
                raise self._refused(f"holds {path.name!r}, which is not a regular file")
        return found

    def _weights(self, place: PurePosixPath, files: set[str], short: str) -> None:
        """Refuse weights that would be unpickled: those with no safetensors beside them that are taken instead."""
        safe = {file for file in files if file.endswith(".safetensors")}
        if short not in _NETWORKS:
            safe &= {"model.safetensors"}
        pickled = sorted(file for file in files if file.endswith(_PICKLES))
        if pickled and not safe:
            raise EncoderError(
                f"The encoder {self.name!r} keeps its weights in {str(place / pickled[0])!r}, which is unpickled "
                "when it is loaded and can run code.",
                "Save it again as safetensors (sentence-transformers does), on a machine where you trust it.",
            )

    def _network(self, files: Mapping[str, Path], texts: Mapping[str, Any]) -> None:
        """Refuse a transformer that is put together of what lies elsewhere."""
        if "adapter_config.json" in files:
            raise EncoderError(
                f"The encoder {self.name!r} is an adapter of another model.",
                "Merge the adapter into its model (merge_and_unload of peft) and save that.",
            )
        for file, values in texts.items():
            if not file.startswith("sentence_") or not isinstance(values, Mapping):
                continue
            if values.get("tokenizer_name_or_path") is not None:
                raise self._refused(f"takes its tokenizer from elsewhere (tokenizer_name_or_path in {file})")
            for key, given in values.items():
                if not _KEYWORDS.fullmatch(key) or not given:
                    continue
                wrong = [k for k, v in given.items() if not _plain(k, v)] if isinstance(given, Mapping) else [key]
                if wrong:
                    raise self._refused(f"has {key} in {file} that are not obeyed ({_shown(wrong[0])})")

    def _nested(self, texts: Mapping[str, Any], place: PurePosixPath, depth: int) -> None:
        """Check the modules that a router names in whichever file it reads."""
        for file in ("router_config.json", "config.json"):
            values = texts.get(file)
            types = values.get("types") if isinstance(values, Mapping) else None
            if types is None:
                continue
            if not isinstance(types, Mapping):
                raise _unreadable(file, self.name)
            self.all([(str(kind), str(path)) for path, kind in types.items()], place, depth + 1)

    def _refused(self, what: str) -> EncoderError:
        return EncoderError(
            f"The encoder {self.name!r} {what}.", "Choose a model made of sentence-transformers modules only."
        )


def _shown(value: Any) -> str:
    """A name for a message: cut short, printable."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:100])


def _is_config(file: str) -> bool:
    """Whether a file is one of those that say how a module is built."""
    return file.endswith("config.json") and file not in ("tokenizer_config.json", "config_sentence_transformers.json")


def _plain(key: str, value: Any) -> bool:
    """Whether a keyword is harmless: known, and a number or a word that names nothing elsewhere."""
    return key in _HARMLESS and (
        value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and value.isidentifier())
    )


def _read(path: Path, name: str) -> Any:
    """A JSON file of the folder."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise ValueError("no regular file, or a very large one")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise _unreadable(path.name, name) from error


def _unreadable(file: str, name: str) -> EncoderError:
    return EncoderError(f"{file} of {name!r} cannot be read.", "Restore the folder.")
