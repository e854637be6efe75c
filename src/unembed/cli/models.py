"""`unembed models`: which checkpoints ship, what is known about one, and whether its files are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unembed.cli.options import output_options
from unembed.errors import CheckpointError

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


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

    found = []
    for config in sorted(WEIGHTS.glob("*/config.json")):
        folder = config.parent
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        identity = read_json(folder / "encoder.json") if (folder / "encoder.json").exists() else {}
        found.append(
            {
                "name": folder.name,
                "encoder": identity.get("name"),
                "dimension": identity.get("dimension"),
                "limit": read_json(config).get("denoiser", {}).get("limit"),
                "mib": round(size / 2**20, 1),
                "path": str(folder),
            }
        )
    if as_json:
        show_json(found)
        return
    for row in found:
        click.echo(
            f"{row['name']}: for {row['encoder']} ({row['dimension']} dimensions), texts of at most {row['limit']} "
            f"tokens, {row['mib']} MiB"
        )
    if not found:
        note("No model ships with this installation; train one with `unembed train`.", quiet)


@command.command("show")
@click.argument("model", default="default", metavar="MODEL")
@output_options
def show_model(model: str, as_json: bool, quiet: bool) -> None:
    """Show the card of MODEL, a shipped name or a checkpoint folder."""
    from unembed.cli.console import note, show_json
    from unembed.files import read_json

    folder = find_model(model)
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

    folder = find_model(model)
    files = verify_checkpoint(folder)["files"]
    if as_json:
        show_json({"path": folder, "ok": True, "files": files})
        return
    for name, digest in files.items():
        click.echo(f"ok  {digest[:16]}  {name}")


def find_model(model: str) -> Path:
    """Return the folder of a checkpoint: a path, or the name of one that ships.

    Raises:
        CheckpointError: neither.
    """
    for folder in (Path(model), WEIGHTS / model):
        if (folder / "config.json").is_file():
            return folder
    shipped = ", ".join(sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))) or "none"
    raise CheckpointError(
        f"There is no checkpoint at {model}, and no model of that name ships (shipped: {shipped}).",
        "Give a folder that `unembed train` wrote, or a name from `unembed models list`.",
    )


def _optional(path: Path) -> Any:
    """Read a JSON file, or return None where there is none."""
    from unembed.files import read_json

    return read_json(path) if path.exists() else None
