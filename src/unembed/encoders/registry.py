"""Encoders by name: built in, from plugins, behind an HTTP endpoint, or any sentence-transformers model.

Contents: `load_encoder`, `load_matching`, `encoder_names`, `takes_device`, `ENVIRONMENT`.

    minilm   hashing:64   lsa:FOLDER   openai:MODEL   http://HOST/v1?model=MODEL   FOLDER or hub name

"?dimensions=256" after any of them keeps that many components ("&normalise=no" leaves the cut rows as they are); an
endpoint is asked for them instead. "?revision=COMMIT" after a hub name takes that revision.

These are names that a user gives. A name that a checkpoint holds loads only what is built in or installed: never an
address, a hub name or a folder (`load_matching`).

A plugin registers a function under the entry-point group `unembed.encoders`; it is called with the options and returns
an `Encoder`:

    [project.entry-points."unembed.encoders"]
    mine = "my_package:load_my_encoder"
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from unembed.encoders.endpoint import ENDPOINTS
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.plugin import load_plugin
from unembed.encoders.protocol import Encoder
from unembed.errors import EncoderError
from unembed.plugins import plugin_names


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
_OWN = ("minilm", "hashing")
"""Encoders that come with the program, and take nothing from outside it."""

ENVIRONMENT = "UNEMBED_ENCODER"
"""Environment variable that names the encoder of a checkpoint that cannot name its own."""

_SWITCH = {"yes": True, "no": False}


def encoder_names() -> list[str]:
    """Names of the built-in encoders and of plugins, sorted."""
    return sorted({*_BUILT_IN, *plugin_names("encoder")})


def load_encoder(name: str = "minilm", **options: Any) -> Encoder:
    """Load an encoder.

    Args:
        name: "minilm" (default, offline), "hashing" or "hashing:64" (the number is the dimension), "lsa:FOLDER", the
            name of a plugin, an endpoint (see `encoders.http`), or a sentence-transformers folder or hub name; with
            "?dimensions=256" that many of the first components.
        options: for "minilm" and sentence-transformers: `precision` ("fp32" or "bf16"), `batch_size`, `device`,
            `prompt`, `prompt_name`, `normalise`, `revision`; for "hashing": `dimension`; for endpoints see
            `encoders.http.load_http`.

    Returns:
        The encoder; its `encode(texts)` returns float32 (n, dimension).

    Raises:
        EncoderError: unknown name or option, unreachable hub, damaged weights.
    """
    if not isinstance(name, str) or not name.strip():
        raise EncoderError(f"{name!r} is not the name of an encoder.", 'Use "minilm", a folder or a hub name.')
    if name.startswith("endpoint:"):
        raise EncoderError(
            f"{name!r} is the name of a model behind an endpoint, and not its address.",
            'Give the address: "http://HOST/v1?model=MODEL", or "openai:MODEL".',
        )
    if name.startswith(ENDPOINTS):
        from unembed.encoders.http import load_http

        return _call(name, load_http, {"spec": name, **options})
    base, mark, query = name.partition("?")
    if mark:
        return _truncated(base, query, options)
    family, _, argument = name.partition(":")
    if family == "hashing" and argument:
        if not argument.isdigit():
            raise EncoderError(f"{name!r} has no dimension after its colon.", 'Write "hashing:64".')
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
    """Load what is before a question mark and keep what the query after it asks for."""
    from urllib.parse import parse_qsl

    from unembed.encoders.truncation import TruncatedEncoder

    asked = dict(parse_qsl(query, keep_blank_values=True))
    revision = asked.pop("revision", "")
    if revision:
        options = {"revision": revision, **options}
        if not asked:
            return load_encoder(base, **options)
    count, switch = asked.pop("dimensions", ""), asked.pop("normalise", None)
    if asked or not (count.isdecimal() and len(count) < 9) or (switch is not None and switch not in _SWITCH):
        raise EncoderError(
            f"The encoder {base!r} cannot be asked for {query!r}.",
            'Write "?dimensions=256", with "&normalise=no" to leave cut rows as they are, or "?revision=COMMIT".',
        )
    return TruncatedEncoder(load_encoder(base, **options), int(count), None if switch is None else _SWITCH[switch])


def takes_device(name: str) -> bool:
    """Whether an encoder computes with torch on this machine, so that a device and a precision can be set."""
    return name.partition("?")[0].partition(":")[0] not in ("hashing", "lsa", "http", "https", "openai", "endpoint")


def load_matching(identity: EncoderIdentity, source: str | Encoder | None = None, **options: Any) -> Encoder:
    """Load the encoder of an identity and check that it makes the same vectors.

    The identity comes from a file that may be anybody's. Its name loads only what comes with the program or what the
    user has installed as a plug-in; any other encoder is named by the user, here or in the environment.

    Args:
        identity: as stored with a checkpoint or shards; its prompt is used.
        source: where the user has the model: a name as for `load_encoder`, for example an endpoint that serves it, or
            an encoder; it must make the same vectors. None: by the identity's name, or else what the environment
            variable UNEMBED_ENCODER names.
        options: further options of `load_encoder`; `device` and `precision` are left out where it takes none.

    Raises:
        EncoderError: it cannot be loaded, or nobody but the identity names it.
        EncoderMismatchError: it makes other vectors.
    """
    if source is not None and not isinstance(source, str):
        identity.check(source)
        return source
    known, name = {**options}, source or _named(identity)
    if not takes_device(name):
        known = {key: value for key, value in known.items() if key not in ("device", "precision")}
    if (takes_device(name) or identity.prompt) and name.partition("?")[0] not in plugin_names("encoder"):
        known = {"prompt": identity.prompt, **known}
    encoder = load_encoder(name, **known)
    if identity.normalised and getattr(encoder, "normalise", None) is False and not encoder.identity.normalised:
        encoder = load_encoder(name, **{**known, "normalise": True})
    identity.check(encoder)
    return encoder


def _named(identity: EncoderIdentity) -> str:
    """What may be loaded for an identity: its own name, or what the environment says."""
    base = identity.name.partition("?")[0]
    if base.partition(":")[0] in _OWN or base in plugin_names("encoder"):
        return identity.name
    given = os.environ.get(ENVIRONMENT, "").strip()
    if given:
        return given
    raise EncoderError(
        f"The encoder {identity.name!r} ({identity.dimension} dimensions) is neither built in nor a plug-in that is "
        "installed, and a file may not say where texts and keys are sent.",
        f"Name it yourself: --encoder NAME (an endpoint, a folder or a hub name), or {ENVIRONMENT}=NAME.",
    )


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
