"""Running a module of benchmarks, reports or scripts as its command would."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest


def run_script(name: str, *arguments: object) -> Any:
    """Call `main` of a module ("benchmarks.speed.decode") with arguments; return its exit code or message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            return importlib.import_module(name).main() or 0
        except SystemExit as end:
            return end.code
