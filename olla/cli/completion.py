"""`olla completion`: what makes a shell complete olla's command lines. click writes the scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from olla.cli.cobra import command, exactly

COMPLETE_VARIABLE = "_OLLA_COMPLETE"
"""In which the scripts ask; click has derived its name from the program's."""
SHELLS = ("bash", "zsh", "fish")


@command("completion", exactly(1), ())
@click.argument("shell", metavar="SHELL", required=False)
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Write the script that completes olla's commands in a shell.

    Its flags and the names of models too. SHELL is bash, zsh or fish.

    \b
    bash: echo 'eval "$(olla completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(olla completion zsh)"' >> ~/.zshrc
    fish: olla completion fish > ~/.config/fish/completions/olla.fish
    """
    kind = get_completion_class(shell) if shell in SHELLS else None
    if kind is None:
        raise click.UsageError(f'unknown shell "{shell}" (must be one of {", ".join(SHELLS)})')
    click.echo(kind(ctx.find_root().command, {}, "olla", COMPLETE_VARIABLE).source(), nl=False)
