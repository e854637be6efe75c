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
    from unembed.checkpoint.shipped import DEFAULT, WEIGHTS, shipped_names
    from unembed.cli.console import note, show_json
    from unembed.files import read_json

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
    from unembed.checkpoint.shipped import find_checkpoint
    from unembed.checkpoint.untrusted import read_config, read_object, read_text
    from unembed.cli.console import note, show_json

    folder = find_checkpoint(model)
    if not (folder / "config.json").exists() and (beside := _beside(folder)) is not None:
        if as_json:
            show_json({"path": folder, **beside})
        else:
            for key, value in beside.items():
                click.echo(printable(f"{key} = {value}"))
        return
    config = read_config(folder)
    if as_json:
        paths = {name: folder / f"{name}.json" for name in ("encoder", "recipe", "calibration")}
        parts = {name: read_object(path) if path.exists() else None for name, path in paths.items()}
        parts["encoder"] = {k: v for k, v in (parts["encoder"] or {}).items() if k != "probe_vectors"}
        show_json({"path": folder, **config, **parts})
        return
    card = folder / "README.md"
    if card.exists():
        click.echo(printable(read_text(card, 2**20).rstrip()))
        return
    note(f"{folder} has no model card; these are its settings.", quiet)
    for part in ("denoiser", "notes"):
        click.echo(f"[{part}]")
        for key, value in config.get(part, {}).items():
            if key == "null_vector" and not value:
                continue  # without it there is no guidance to speak of
            click.echo(printable(f"{key} = {value}"))


@command.command("verify")
@click.argument("model", default="default", metavar="MODEL")
@output_options
def verify_model(model: str, as_json: bool, quiet: bool) -> None:
    """Compare every file of MODEL with its checksum, and load what they hold.

    A file that no list names is named; it is not part of the model.
    """
    from unembed.checkpoint.checkpoint import verify_checkpoint
    from unembed.checkpoint.shipped import find_checkpoint
    from unembed.cli.console import show_json
    from unembed.inverter import Inverter

    folder = find_checkpoint(model)
    files, unlisted = verify_checkpoint(folder)
    Inverter.from_pretrained(folder, device="cpu").load_all()
    if as_json:
        show_json({"path": folder, "ok": True, "files": files, "unlisted": unlisted})
        return
    for name, digest in files.items():
        click.echo(f"ok          {digest[:16]}  {name}")
    for name in unlisted:
        click.echo(f"not listed                    {printable(name)}")


def _beside(folder: Path) -> dict[str, Any] | None:
    """What is known of a student or corrector that a run has left in a folder, None where there is none."""
    from dataclasses import asdict

    from unembed.checkpoint.corrector_file import CORRECTOR_FILE, corrector_notes
    from unembed.checkpoint.student_file import read_student
    from unembed.checkpoint.untrusted import read_object

    if (folder / "student.json").exists():
        told = read_object(folder / "student.json")
        student = read_student(folder, str(told.get("checkpoint", "")))
        return None if student is None else {**student.notes, **asdict(student.student.config), "kind": "student"}
    if (folder / CORRECTOR_FILE).exists():
        return {**corrector_notes(folder / CORRECTOR_FILE), "kind": "corrector"}
    return None


def printable(text: str) -> str:
    """A text of a file without what a terminal would obey; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
