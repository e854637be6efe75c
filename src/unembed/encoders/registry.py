"""Encoders by name: built in, from plugins, behind an HTTP endpoint, or any sentence-transformers model.

Contents: `load_encoder`, `load_matching`, `encoder_names`, `takes_device`.

    minilm   hashing:64   lsa:FOLDER   openai:MODEL   http://HOST/v1?model=MODEL   FOLDER or hub name

"?dimensions=256" behind any of them keeps so many components ("&normalise=no" leaves the cut rows as they are); an
endpoint is asked for them instead.

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


def _lsa(**options: Any) -> Encoder:
    from unembed.encoders.lsa import load_lsa

    if "folder" not in options:
        raise EncoderError(
            'The encoder "lsa" names no folder.',
            "Fit one with `unembed fit-lsa TEXTS --out FOLDER` and name it as lsa:FOLDER.",
        )
    return load_lsa(**options)


_BUILT_IN: dict[str, Callable[..., Encoder]] = {"minilm": _minilm, "hashing": _hashing, "lsa": _lsa}
_ENDPOINTS = ("http://", "https://", "openai:")
_SWITCH = {"yes": True, "no": False}


def encoder_names() -> list[str]:
    """Names of the built-in encoders and of plugins, sorted."""
    return sorted({*_BUILT_IN, *plugin_names()})


def load_encoder(name: str = "minilm", **options: Any) -> Encoder:
    """Load an encoder.

    Args:
        name: "minilm" (default, offline), "hashing" or "hashing:64" (the number is the dimension), "lsa:FOLDER", the
            name of a plugin, an endpoint (see `encoders.http`), or a sentence-transformers folder or hub name; with
            "?dimensions=256" the first so many components.
        options: for "minilm" and sentence-transformers: `precision` ("fp32" or "bf16"), `batch_size`, `device`,
            `prompt`, `prompt_name`, `normalise`, `revision`; for "hashing": `dimension`; for endpoints see
            `encoders.http.load_http`.

    Returns:
        The encoder; its `encode(texts)` returns float32 (n, dimension).

    Raises:
        EncoderError: unknown name or option, unreachable hub, damaged weights.
    """
    if not isinstance(name, str) or not name.strip():
        raise EncoderError(f"{name!r} is no name of an encoder.", 'Use "minilm", a folder or a hub name.')
    if name.startswith(_ENDPOINTS):
        from unembed.encoders.http import load_http

        return _call(name, load_http, {"spec": name, **options})
    base, mark, query = name.partition("?")
    if mark:
        return _truncated(base, query, options)
    family, _, argument = name.partition(":")
    if family == "hashing" and argument:
        if not argument.isdigit():
            raise EncoderError(f"{name!r} has no dimension behind its colon.", 'Write "hashing:64".')
        options = {"dimension": int(argument), **options}
        name = family
    elif family == "lsa" and argument:
        options = {"folder": argument, **options}
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
    return _call(name, loader, options)


def _call(name: str, loader: Callable[..., Encoder], options: dict[str, Any]) -> Encoder:
    """Load, and answer an option that the loader does not take."""
    try:
        return loader(**options)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise EncoderError(f"The encoder {name!r} cannot take these options ({error}).", "Remove them.") from error


def _truncated(base: str, query: str, options: dict[str, Any]) -> Encoder:
    """Load what stands before a question mark and keep what the query behind it asks for."""
    from urllib.parse import parse_qsl

    from unembed.encoders.truncation import TruncatedEncoder

    asked = dict(parse_qsl(query, keep_blank_values=True))
    count, switch = asked.pop("dimensions", ""), asked.pop("normalise", None)
    if asked or not count.isdecimal() or (switch is not None and switch not in _SWITCH):
        raise EncoderError(
            f"The encoder {base!r} cannot be asked for {query!r}.",
            'Write "?dimensions=256", with "&normalise=no" to leave cut rows as they are.',
        )
    return TruncatedEncoder(load_encoder(base, **options), int(count), None if switch is None else _SWITCH[switch])


def takes_device(name: str) -> bool:
    """Whether an encoder computes with torch on this machine, so that it can be told a device and a precision."""
    return name.partition("?")[0].partition(":")[0] not in ("hashing", "lsa", "http", "https", "openai")


def load_matching(identity: EncoderIdentity, source: str | Encoder | None = None, **options: Any) -> Encoder:
    """Load the encoder that an identity names and check that it makes the same vectors.

    Args:
        identity: as stored with a checkpoint or shards; its prompt and revision are used.
        source: another address of the same model (a name as for `load_encoder`, for example an endpoint that serves
            it, or an encoder); it must make the same vectors.
        options: further options of `load_encoder`, for example `device` or `precision`.

    Raises:
        EncoderError: it cannot be loaded.
        EncoderMismatchError: it makes other vectors.
    """
    if source is not None and not isinstance(source, str):
        identity.check(source)
        return source
    known, name = {**options}, source or identity.name
    local = takes_device(name)
    if (local or identity.prompt) and name.partition("?")[0] not in plugin_names():
        known = {"prompt": identity.prompt, **known}
        pinned = source is None and identity.revision and not identity.revision.startswith("sha256:")
        if local and pinned:
            known = {"revision": identity.revision, **known}
    encoder = load_encoder(name, **known)
    if identity.normalised and getattr(encoder, "normalise", None) is False and not encoder.identity.normalised:
        encoder = load_encoder(name, **{**known, "normalise": True})
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
