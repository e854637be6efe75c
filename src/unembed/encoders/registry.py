"""Encoders by name: built in, from plugins, or any sentence-transformers model.

Contents: `load_encoder`, `load_matching`, `encoder_names`.

A plugin registers a function under the entry-point group `unembed.encoders`; it is called with the options and returns
an `Encoder`:

    [project.entry-points."unembed.encoders"]
    mine = "my_package:load_my_encoder"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.plugin import load_plugin, plugin_names
from unembed.encoders.protocol import Encoder
from unembed.errors import EncoderError


def _minilm(**options: Any) -> Encoder:
    from unembed.encoders.minilm import load_minilm

    return load_minilm(**options)


def _hashing(**options: Any) -> Encoder:
    from unembed.encoders.hashing import HashingEncoder

    return HashingEncoder(**options)


_BUILT_IN: dict[str, Callable[..., Encoder]] = {"minilm": _minilm, "hashing": _hashing}


def encoder_names() -> list[str]:
    """Names of the built-in encoders and of plugins, sorted."""
    return sorted({*_BUILT_IN, *plugin_names()})


def load_encoder(name: str = "minilm", **options: Any) -> Encoder:
    """Load an encoder.

    Args:
        name: "minilm" (default, offline), "hashing" or "hashing:64" (the number is the dimension), the name of a
            plugin, or a sentence-transformers folder or hub name.
        options: for "minilm" and sentence-transformers: `precision` ("fp32" or "bf16"), `batch_size`, `device`,
            `prompt`, `prompt_name`, `normalise`, `revision`; for "hashing": `dimension`.

    Returns:
        The encoder; its `encode(texts)` returns float32 (n, dimension).

    Raises:
        EncoderError: unknown name or option, unreachable hub, damaged weights.
    """
    if not isinstance(name, str) or not name.strip():
        raise EncoderError(f"{name!r} is no name of an encoder.", 'Use "minilm", a folder or a hub name.')
    family, _, argument = name.partition(":")
    if family == "hashing" and argument:
        if not argument.isdigit():
            raise EncoderError(f"{name!r} has no dimension behind its colon.", 'Write "hashing:64".')
        options = {"dimension": int(argument), **options}
        name = family
    loader = _BUILT_IN.get(name)
    if loader is None:
        plugin = load_plugin(name, options)
        if plugin is not None:
            return plugin
        from unembed.encoders.sentence_transformer import load_sentence_transformer

        _check_options(name, options)
        return load_sentence_transformer(name, **options)
    if name == "minilm":
        _check_options(name, options)
    try:
        return loader(**options)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise EncoderError(f"The encoder {name!r} cannot take these options ({error}).", "Remove them.") from error


def load_matching(identity: EncoderIdentity, **options: Any) -> Encoder:
    """Load the encoder that an identity names and check that it makes the same vectors.

    Args:
        identity: as stored with a checkpoint or shards; its prompt and revision are used.
        options: further options of `load_encoder`, for example `device` or `precision`.

    Raises:
        EncoderError: it cannot be loaded.
        EncoderMismatchError: it makes other vectors.
    """
    known = {**options}
    if identity.name.partition(":")[0] != "hashing" and identity.name not in plugin_names():
        known = {"prompt": identity.prompt, **known}
        if identity.revision and not identity.revision.startswith("sha256:"):
            known = {"revision": identity.revision, **known}
    encoder = load_encoder(identity.name, **known)
    if identity.normalised and getattr(encoder, "normalise", None) is False and not encoder.identity.normalised:
        encoder = load_encoder(identity.name, **{**known, "normalise": True})
    identity.check(encoder)
    return encoder


def _check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse options that no sentence-transformers encoder has, by name."""
    from unembed.encoders.sentence_transformer import SentenceTransformerEncoder

    known = set(inspect.signature(SentenceTransformerEncoder.__init__).parameters) - {"self", "model", "name"}
    known |= {"device", "revision"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise EncoderError(
            f"The encoder {name!r} has no option {unknown[0]!r}.", f"Its options are {', '.join(sorted(known))}."
        )
