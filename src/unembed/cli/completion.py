"""`unembed completion`: the script that teaches a shell to complete commands and options."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_UNEMBED_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Examples:
      unembed completion bash >> ~/.bashrc
      unembed completion zsh >> ~/.zshrc
      unembed completion fish > ~/.config/fish/completions/unembed.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "unembed", VARIABLE).source())
