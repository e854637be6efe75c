"""`unembed doctor`: does what is installed work, and do the model and the encoder belong together?

A model knows its encoder by three probe texts and their vectors. The doctor embeds the probes
again; a cosine under 0.999 means that the vectors of this encoder are not those that the model has learnt from.
"""

from __future__ import annotations

from typing import Any

import click

from unembed.cli.models import printable
from unembed.cli.options import encoder_option, model_options, output_options
from unembed.errors import EncoderError, EncoderMismatchError


@click.command("doctor")
@model_options
@encoder_option
@output_options
def command(model: str, device: str | None, encoder: str | None, as_json: bool, quiet: bool) -> None:
    """Check that this machine, the model and the encoder fit together.

    Prints versions, threads and the matrix-multiply rate, verifies the checksums of the model's files, loads them, and
    embeds the model's three probe texts again: each must have a cosine of at least 0.999 to the stored vector, else the
    exit code is 2.

    \b
    Examples:
      unembed doctor
      unembed doctor --json
    """
    from unembed.checkpoint.checkpoint import verify_checkpoint
    from unembed.checkpoint.shipped import find_checkpoint
    from unembed.cli.console import show_json
    from unembed.encoders.registry import load_matching
    from unembed.inverter import Inverter
    from unembed.machine import describe, matmul_rate

    machine = describe()
    rates = {name: round(matmul_rate(name)) for name in ("fp32", "bf16")}
    folder = find_checkpoint(model)
    files, unlisted = verify_checkpoint(folder)
    inverter = Inverter.from_pretrained(folder, device)
    inverter.load_all()
    identity = inverter.identity
    options = {} if device is None else {"device": device}
    problem, cosine = None, None
    try:
        cosine = identity.check(load_matching(identity, encoder, **options))
    except (EncoderError, EncoderMismatchError) as error:
        problem = error
    report = {
        **machine,
        "matmul_gflops": rates,
        "model": str(folder),
        "files": len(files),
        "unlisted": unlisted,
        "encoder": encoder or identity.name,
        "dimension": identity.dimension,
        "least_probe_cosine": cosine,
        "ok": problem is None,
    }
    if as_json:
        show_json(report)
    else:
        _show(report)
    if problem is not None:
        raise problem


def _show(report: dict[str, Any]) -> None:
    """Print the report as two columns."""
    rows = [(name, report[name]) for name in ("python", "platform", "processor", "cores", "threads", "memory_gib")]
    rows += list(report["packages"].items())
    rows += [("AMX", "yes" if report["amx"] else "no"), ("accelerators", ", ".join(report["accelerators"]) or "none")]
    rows += [(f"matmul {name}, CPU", f"{rate} GFLOP/s") for name, rate in report["matmul_gflops"].items()]
    rows += [("model", f"{report['model']} (checksums of {report['files']} files right)")]
    if report["unlisted"]:
        rows += [("not listed in the model", printable(", ".join(report["unlisted"])))]
    rows += [("encoder", f"{report['encoder']} ({report['dimension']} dimensions)")]
    cosine = report["least_probe_cosine"]
    rows += [("least probe cosine", "not right, see below" if cosine is None else f"{cosine:.6f}")]
    for name, value in rows:
        click.echo(f"{name:<24}{'not known' if value is None else value}")
