"""`unembed serve`: the page and the API on this machine."""

from __future__ import annotations

import importlib.util

import click

from unembed.cli.options import encoder_option, model_options, precision_option
from unembed.errors import InputError


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0: a free one.")
@click.option("--token", metavar="TEXT", envvar="UNEMBED_TOKEN", help="Token of clients; or set UNEMBED_TOKEN.")
@click.option("--open/--no-open", "open_page", default=True, show_default=True, help="Open the page in a browser.")
@click.option("--queue", type=click.IntRange(1), default=64, show_default=True, help="Most requests under way.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Vectors decoded together.")
@click.option("--no-batching", is_flag=True, help="Decode each request by itself.")
@click.option("--rate", type=click.FloatRange(0), default=20, show_default=True, help="Requests per second and client.")
@click.option("--timeout", type=click.FloatRange(1), default=120, show_default=True, help="Most seconds of a request.")
@model_options
@encoder_option
@precision_option
@click.option("--quiet", "-q", is_flag=True, help="Show no notes, only errors.")
def command(
    host: str,
    port: int,
    token: str | None,
    open_page: bool,
    queue: int,
    batch: int,
    no_batching: bool,
    rate: float,
    timeout: float,
    model: str,
    device: str | None,
    encoder: str | None,
    precision: str,
    quiet: bool,
) -> None:
    """Serve a page that shows denoising live, and an API, on this machine.

    Needs the extra serve: pip install "unembed[serve]". No text and no vector is logged or kept. An address that other
    machines can reach needs a token that cannot be guessed. Ctrl-C ends the server; running requests have 5 seconds.

    \b
    Examples:
      unembed serve
      unembed serve --port 0 --no-open
      unembed serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"
      unembed serve --queue 16 --batch 8 --model runs/mine
    """
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise InputError("The server needs FastAPI and uvicorn.", 'Install them with pip install "unembed[serve]".')
    from unembed import __version__
    from unembed.cli.console import note
    from unembed.errors import UnembedError
    from unembed.inverter import Inverter
    from unembed.serve.app import create_app
    from unembed.serve.guard import check_token, is_loopback
    from unembed.serve.limits import Limits
    from unembed.serve.server import listen, make_server

    local = is_loopback(host)
    if token is not None:
        check_token(token, local)
    elif not local:
        raise InputError(
            f"{host} can be reached by other machines, and no token is set.",
            "Add --token TEXT, or leave --host out.",
        )
    with listen(host, port) as taken:
        note("Loading the model and its encoder.", quiet)
        inverter = Inverter.from_pretrained(model, device, precision)
        if encoder is not None:
            inverter.use_encoder(encoder)
        try:
            inverter.encoder.encode(["warm"])
        except UnembedError as error:
            note(f"Texts cannot be embedded: {error}", quiet)
        limits = Limits(places=queue, rate=rate, burst=max(1, round(3 * rate)), request_seconds=timeout)
        app = create_app(
            inverter,
            limits=limits,
            batch=1 if no_batching else batch,
            token=token,
            local=local,
            version=__version__,
        )

        def ready() -> None:
            name = f"[{host}]" if ":" in host else host
            address = f"http://{name}:{taken.getsockname()[1]}/"
            click.echo(f"Serving {inverter.name} at {address} (Ctrl-C ends it).")
            if open_page and local:
                import threading
                import webbrowser

                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        make_server(app, limits, ready).run(sockets=[taken])
