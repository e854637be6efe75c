"""Recover text from embedding vectors with a conditional masked diffusion language model.

    from unembed import Inverter
    inverter = Inverter.from_pretrained("default")
    for recovery in inverter.invert(vectors):
        print(recovery.confidence, recovery.text)

The public names below are imported at first use, so that `import unembed` needs neither numpy nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unembed.errors import UnembedError

if TYPE_CHECKING:
    from unembed.checkpoint.checkpoint import load_checkpoint
    from unembed.encoders.registry import load_encoder
    from unembed.evaluation.evaluate import evaluate
    from unembed.inverter import Inverter, Recovery
    from unembed.network.denoiser import Denoiser
    from unembed.plugins import register
    from unembed.refinement.refine import Refine
    from unembed.stores.opening import read_vectors
    from unembed.training.loop import train
    from unembed.training.recipes.recipe import Recipe

__version__ = "0.1.0"

_HOMES = {
    "Denoiser": "unembed.network.denoiser",
    "Inverter": "unembed.inverter",
    "Recipe": "unembed.training.recipes.recipe",
    "Recovery": "unembed.inverter",
    "Refine": "unembed.refinement.refine",
    "evaluate": "unembed.evaluation.evaluate",
    "load_checkpoint": "unembed.checkpoint.checkpoint",
    "load_encoder": "unembed.encoders.registry",
    "read_vectors": "unembed.stores.opening",
    "register": "unembed.plugins",
    "train": "unembed.training.loop",
}

__all__ = [
    "Denoiser",
    "Inverter",
    "Recipe",
    "Recovery",
    "Refine",
    "UnembedError",
    "evaluate",
    "load_checkpoint",
    "load_encoder",
    "read_vectors",
    "register",
    "train",
]


def _import_name(name: str) -> Any:
    """Import a public name from its home at first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'unembed' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker sees the imports above, and so it finds names that do not exist
    __getattr__ = _import_name


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return sorted(__all__)
