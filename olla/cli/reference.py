"""The help of every command: `olla help`, and docs/cli.md, which `python -m olla.cli.reference`
writes. A test compares the file with the commands.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from olla.cli.cobra import at_most, command

_WIDTH = 80
_TITLE = """\
# Command line

Written by `python -m olla.cli.reference docs/cli.md` from the commands' own help.
"""


@command("help", at_most(1), ())
@click.argument("names", nargs=-1, metavar="[COMMAND]")
@click.pass_context
def help_command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Explain a command."""
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    if not names:
        click.echo(root.get_help())
        return
    _, found, _ = root.command.resolve_command(root, list(names))
    assert found is not None
    click.echo(click.Context(found, root, info_name=names[0]).get_help())


def reference_text(group: click.Group) -> str:
    """docs/cli.md."""
    root = _context(group, None, "olla")
    parts = [_TITLE, _section("olla", root)]
    for name in group.list_commands(root):
        found = group.get_command(root, name)
        assert found is not None
        context = _context(found, root, name)
        parts.append(_section(f"olla {name}", context))
        if isinstance(found, click.Group):
            parts += [
                _section(f"olla {name} {inner}", _context(found.commands[inner], context, inner))
                for inner in found.list_commands(context)
            ]
    return "\n".join(parts)


def _section(title: str, context: click.Context) -> str:
    return f"## {title}\n\n```text\n{context.get_help()}\n```\n"


def _context(found: click.Command, parent: click.Context | None, name: str) -> click.Context:
    settings = {**found.context_settings, "terminal_width": _WIDTH}
    return click.Context(found, parent=parent, info_name=name, **settings)


if __name__ == "__main__":
    from olla.cli import cli

    Path(sys.argv[1]).write_text(reference_text(cli), encoding="utf-8")
