"""`unembed models`: which checkpoints ship, what is known about one, and whether its files are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unembed.cli.options import output_options


@click.group("models")
def command() -> None:
    """List, show and verify checkpoints.

    \b
    Examples:
      unembed models list
      unembed models show default
      unembed models verify default
    """


@command.command("list")
@output_options
def list_models(as_json: bool, quiet: bool) -> None:
    """List the models that ship with this installation."""
    from unembed.cli.console import note, show_json
    from unembed.files import read_json
    from unembed.model.shipped import DEFAULT, WEIGHTS, shipped_names

    found = []
    for name in shipped_names():
        folder = WEIGHTS / name
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        identity = read_json(folder / "encoder.json") if (folder / "encoder.json").exists() else {}
        found.append(
            {
                "name": name,
                "default": name == DEFAULT,
                "encoder": identity.get("name"),
                "dimension": identity.get("dimension"),
                "limit": read_json(folder / "config.json").get("denoiser", {}).get("limit"),
                "mib": round(size / 2**20, 1),
                "path": str(folder),
            }
        )
    if as_json:
        show_json(found)
        return
    for row in found:
        mark = " (default)" if row["default"] else ""
        scope = f"texts of at most {row['limit']} tokens, {row['mib']} MiB"
        click.echo(f"{row['name']}{mark}: for {row['encoder']} ({row['dimension']} dimensions), {scope}")
    if not found:
        note("No model ships with this installation; train one with `unembed train`.", quiet)


@command.command("show")
@click.argument("model", default="default", metavar="MODEL")
@output_options
def show_model(model: str, as_json: bool, quiet: bool) -> None:
    """Show the card of MODEL, a shipped name or a checkpoint folder, or the facts of a student or corrector."""
    from unembed.cli.console import note, show_json
    from unembed.files import read_json
    from unembed.model.shipped import find_checkpoint

    folder = find_checkpoint(model)
    if not (folder / "config.json").exists() and (beside := _beside(folder)) is not None:
        if as_json:
            show_json({"path": folder, **beside})
        else:
            for key, value in beside.items():
                click.echo(f"{key} = {value}")
        return
    config = read_json(folder / "config.json")
    if as_json:
        parts = {name: _optional(folder / f"{name}.json") for name in ("encoder", "recipe", "calibration")}
        parts["encoder"] = {k: v for k, v in (parts["encoder"] or {}).items() if k != "probe_vectors"}
        show_json({"path": folder, **config, **parts})
        return
    card = folder / "README.md"
    if card.exists():
        click.echo(card.read_text(encoding="utf-8").rstrip())
        return
    note(f"{folder} has no model card; these are its settings.", quiet)
    for part in ("denoiser", "notes"):
        click.echo(f"[{part}]")
        for key, value in config.get(part, {}).items():
            click.echo(f"{key} = {value}")


@command.command("verify")
@click.argument("model", default="default", metavar="MODEL")
@output_options
def verify_model(model: str, as_json: bool, quiet: bool) -> None:
    """Compare every file of MODEL with its checksum."""
    from unembed.cli.console import show_json
    from unembed.model.checkpoint import verify_checkpoint
    from unembed.model.shipped import find_checkpoint

    folder = find_checkpoint(model)
    files = verify_checkpoint(folder)["files"]
    if as_json:
        show_json({"path": folder, "ok": True, "files": files})
        return
    for name, digest in files.items():
        click.echo(f"ok  {digest[:16]}  {name}")


def _beside(folder: Path) -> dict[str, Any] | None:
    """What is known of a student or corrector that a run has left in a folder, None where there is none."""
    from dataclasses import asdict

    from unembed.model.corrector_file import CORRECTOR_FILE, corrector_notes
    from unembed.model.student_file import read_student

    told = _optional(folder / "student.json")
    if told is not None:
        student = read_student(folder, told.get("checkpoint", "") if isinstance(told, dict) else "")
        return None if student is None else {**student.notes, **asdict(student.student.config), "kind": "student"}
    if (folder / CORRECTOR_FILE).exists():
        return {**corrector_notes(folder / CORRECTOR_FILE), "kind": "corrector"}
    return None


def _optional(path: Path) -> Any:
    """Read a JSON file, or return None where there is none."""
    from unembed.files import read_json

    return read_json(path) if path.exists() else None
