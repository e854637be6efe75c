"""The command line: one file a command, each imported only when it is used."""

from unembed.cli.app import main

__all__ = ["main"]
