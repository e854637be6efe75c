"""Encoders that other packages bring, found by entry point, and watched: what they get wrong is said in two sentences.

Contents: `load_plugin`, `PluginEncoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unembed.encoders.identity import EncoderIdentity
from unembed.errors import EncoderError
from unembed.plugins import REPAIR, guarded, plugin, told

if TYPE_CHECKING:
    import numpy as np

_MEMBERS = ("name", "dimension", "encode", "tokenizer_json")  # `identity` too, but asking for it would embed the probes


def load_plugin(name: str, options: Mapping[str, Any]) -> PluginEncoder | None:
    """Load the encoder that a package or a program registered, or return None where none did.

    Args:
        name: the name of the entry point.
        options: keyword arguments of its function.

    Raises:
        EncoderError: it cannot be imported, does not take the options, fails, or returns something else.
    """
    load = plugin("encoder", name, EncoderError)
    if load is None:
        return None

    def refuse(error: BaseException) -> EncoderError:
        if isinstance(error, TypeError) and "keyword argument" in str(error):
            return EncoderError(f"The encoder {name!r} cannot take these options ({error}).", "Remove them.")
        return EncoderError(f"The plug-in for encoder {name!r} cannot load it ({told(error)}).", REPAIR)

    with guarded(refuse):
        encoder = load(**options)
        missing = [member for member in _MEMBERS if not hasattr(encoder, member)]
    if missing:
        raise EncoderError(
            f"The plug-in for encoder {name!r} returns a {type(encoder).__name__} without {', '.join(missing)}, which "
            "is not an encoder.",
            REPAIR,
        )
    return PluginEncoder(encoder, name)


class PluginEncoder:
    """An encoder from another package, whose results are checked before anything is built on them.

    Members that are not of the protocol (`token_embeddings`) are passed on as they are.

    Args:
        encoder: what the plugin's function returned.
        plugin: the name that it is registered under, for messages.

    Attributes:
        inner: the same.
    """

    def __init__(self, encoder: Any, plugin: str) -> None:
        self.inner = encoder
        self._plugin = plugin

    def __repr__(self) -> str:
        return f"<PluginEncoder {self._plugin!r}>"

    @property
    def name(self) -> str:
        """The name under which `load_encoder` finds it."""
        with guarded(self._failed("cannot say its name")):
            return str(self.inner.name)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        with guarded(self._failed("cannot say its dimension")):
            return int(self.inner.dimension)

    @property
    def identity(self) -> EncoderIdentity:
        """Name, revision, prompt and probe vectors.

        Raises:
            EncoderError: the plugin fails to say, or says another dimension than its own.
        """
        with guarded(self._failed("cannot say who it is")):
            identity = self.inner.identity
        if not isinstance(identity, EncoderIdentity) or identity.dimension != self.dimension:
            found = getattr(identity, "dimension", type(identity).__name__)
            raise self._wrong(f"has an identity of dimension {found}", f"of dimension {self.dimension}")
        return identity

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, each as one query: float32 (n, dimension).

        Raises:
            EncoderError: the plugin fails, or returns another shape, no numbers, NaN or infinity.
        """
        import numpy as np

        with guarded(self._failed(f"fails on {len(texts)} texts")):
            rows = np.asarray(self.inner.encode(texts))
        expected = f"numbers of shape ({len(texts)}, {self.dimension})"
        if rows.shape != (len(texts), self.dimension) or rows.dtype.kind not in "fiu":
            raise self._wrong(f"returns {rows.dtype} of shape {rows.shape} for {len(texts)} texts", expected)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise self._wrong(f"returns NaN or infinite numbers for text {int(bad.argmax())}", "finite numbers")
        return rows

    def tokenizer_json(self) -> str | None:
        """The encoder's own tokenizer as JSON, or None."""
        with guarded(self._failed("cannot give its tokenizer")):
            found = self.inner.tokenizer_json()
        if not isinstance(found, str | None):
            raise self._wrong(f"gives a tokenizer of type {type(found).__name__}", "JSON or None")
        return found

    def __getattr__(self, name: str) -> Any:
        """Pass on what is not of the protocol."""
        if name in ("inner", "_plugin"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def _failed(self, what: str) -> Callable[[BaseException], EncoderError]:
        return lambda error: EncoderError(f"The plug-in encoder {self._plugin!r} {what} ({told(error)}).", REPAIR)

    def _wrong(self, found: str, expected: str) -> EncoderError:
        return EncoderError(f"The plug-in encoder {self._plugin!r} {found} and not {expected}.", REPAIR)
