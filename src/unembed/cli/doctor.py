"""`unembed doctor`: does what is installed work, and do the model and the encoder belong together?

A model knows its encoder by three probe texts and their vectors (design, decision 15). The doctor embeds the probes
again; a cosine under 0.999 means that the vectors of this encoder are not those that the model has learnt from.
"""

from __future__ import annotations

from typing import Any

import click

from unembed.cli.options import model_options, output_options
from unembed.errors import EncoderMismatchError

TOLERANCE = 0.999


@click.command("doctor")
@model_options
@click.option("--encoder", metavar="NAME", help="Check this encoder (a name or a folder) instead of the model's own.")
@output_options
def command(model: str, device: str | None, encoder: str | None, as_json: bool, quiet: bool) -> None:
    """Check that this machine, the model and the encoder fit together.

    Prints versions, threads and the matrix-multiply rate, verifies the model's checksums, and embeds the model's three
    probe texts again: each must have a cosine of at least 0.999 to the stored vector, else the exit code is 2.

    \b
    Examples:
      unembed doctor
      unembed doctor --json
    """
    from unembed.cli.console import show_json
    from unembed.cli.models import find_model
    from unembed.encoders.identity import EncoderIdentity
    from unembed.encoders.registry import load_encoder
    from unembed.files import read_json
    from unembed.machine import describe, matmul_rate
    from unembed.model.checkpoint import verify_checkpoint

    machine = describe()
    cpu = {name: round(matmul_rate(name)) for name in ("fp32", "bf16")}
    folder = find_model(model)
    verify_checkpoint(folder)
    identity = EncoderIdentity.from_dict(read_json(folder / "encoder.json"))
    tested = load_encoder(encoder or identity.name)
    cosines = probe_cosines(identity, tested)
    report: dict[str, Any] = {
        **machine,
        "matmul_gflops": cpu,
        "model": str(folder),
        "encoder": tested.name,
        "dimension": tested.dimension,
        "probe_cosines": cosines,
        "ok": min(cosines) >= TOLERANCE,
    }
    if as_json:
        show_json(report)
    else:
        for name in ("python", "platform", "processor", "cores", "threads", "memory_gib"):
            click.echo(f"{name:<22}{machine[name]}")
        for name, value in machine["packages"].items():
            click.echo(f"{name:<22}{value or 'not installed'}")
        click.echo(f"{'AMX':<22}{'yes' if machine['amx'] else 'no'}")
        click.echo(f"{'accelerators':<22}{', '.join(machine['accelerators']) or 'none'}")
        for name, rate in cpu.items():
            click.echo(f"{f'matmul {name} (CPU)':<22}{rate} GFLOP/s")
        click.echo(f"{'model':<22}{folder} (checksums right)")
        click.echo(f"{'encoder':<22}{tested.name} ({tested.dimension} dimensions)")
        for text, cosine in zip(identity.probes, cosines, strict=True):
            click.echo(f"{'probe cosine':<22}{cosine:.6f}  {text[:60]}")
    if not report["ok"]:
        raise EncoderMismatchError(
            f"The encoder {tested.name} gives the probe texts other vectors than the model was trained on "
            f"(lowest cosine {min(cosines):.3f}, at least {TOLERANCE} is needed).",
            "Use the encoder, revision, prompt and normalisation that `unembed models show` names.",
        )


def probe_cosines(identity: Any, encoder: Any) -> list[float]:
    """Embed the probe texts of an identity again.

    Returns:
        The cosine of each to the stored vector; 0 for each where the dimensions differ.
    """
    import numpy as np

    stored = np.asarray(identity.probe_vectors, dtype=np.float64)
    if encoder.dimension != stored.shape[1]:
        return [0.0] * len(stored)
    found = np.asarray(encoder.encode(list(identity.probes)), dtype=np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(stored, axis=1)
    return [float(value) for value in (found * stored).sum(axis=1) / np.maximum(norms, 1e-12)]
