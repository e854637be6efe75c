"""The difference prior, which lives on a lower floor since the corrector needs it too (`model/difference.py`)."""

from __future__ import annotations

from unembed.model.difference import Difference, DifferencePrior

__all__ = ["Difference", "DifferencePrior"]
