"""The commands of the prompt that begin with a slash.

Knows nothing about keys and lines: a whole entry comes in, text goes to stdout or stderr. The
texts are spec/cli.md section 5.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import click

from olla.cli.conversation import Conversation
from olla.cli.show import format_info
from olla.cli.slash_help import HELP, HELP_SET, HELP_SHOW, HELPS, SHOWN_PARTS
from olla.cli.slash_models import list_stored, load, save
from olla.client.replies import THINK_LEVELS, ShownModel
from olla.errors import InvalidOption
from olla.options import OPTION_SPECS, Kind, parse_parameter

TRIPLE_QUOTE = '"""'

_NO_PARAMETERS = "No additional parameters were specified for this model."
_EMPTY_PARTS = {
    "license": "No license was specified for this model.",
    "system": "No system message was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


def run_slash(conversation: Conversation, entry: str) -> bool:
    """Obey one entry; False when it ends the conversation."""
    words = entry.split()
    if entry.startswith(("/bye", "/exit")):
        return False
    for prefix, act in _COMMANDS.items():
        if entry.startswith(prefix):
            act(conversation, words[1:], entry)
            return True
    _unknown(words[0])
    return True


def _help(_conversation: Conversation, args: list[str], _entry: str) -> None:
    _tell(HELPS.get(args[0] if args else "", HELP))


def _clear(conversation: Conversation, _args: list[str], _entry: str) -> None:
    conversation.clear()
    click.echo("Cleared session context")


def _set(conversation: Conversation, args: list[str], entry: str) -> None:
    match args:
        case []:
            _tell(HELP_SET)
        case ["parameter", name, *values] if values:
            _set_parameter(conversation, name, values)
        case ["parameter", *_]:
            _tell(_parameter_help())
        case ["system", *texts]:
            _set_system(conversation, entry if texts else "")
        case ["history" | "nohistory" as mode]:
            conversation.keeps_history = mode == "history"
        case ["format" | "noformat" as mode, *formats]:
            _set_format(conversation, mode, formats)
        case ["think" | "nothink" as mode, *levels]:
            _set_think(conversation, mode, levels)
        case [mode, *_] if mode in _VIEWS:
            name, value = _VIEWS[mode]
            conversation.view = replace(conversation.view, **{name: value})
            click.echo(f"Set '{mode}' mode.")
        case [unknown, *_]:
            _unknown(f"/set {unknown}")


_VIEWS = {
    "wordwrap": ("word_wrap", True),
    "nowordwrap": ("word_wrap", False),
    "verbose": ("verbose", True),
    "quiet": ("verbose", False),
}


def _set_parameter(conversation: Conversation, name: str, values: list[str]) -> None:
    try:
        value: object = parse_parameter(name, values[0])
    except InvalidOption as error:
        click.echo(f"Couldn't set parameter: {json.dumps(str(error), ensure_ascii=False)}")
        return
    if OPTION_SPECS[name].kind is Kind.STRINGS:
        value = values
    options = {**conversation.settings.options, name: value}
    conversation.was_warned = conversation.was_warned and name != "num_ctx"
    conversation.settings = replace(conversation.settings, options=options)
    click.echo(f"Set parameter '{name}' to '{', '.join(values)}'")


def _set_system(conversation: Conversation, entry: str) -> None:
    text = entry.partition("system")[2].strip()
    if not text:
        _tell(HELP_SET)
        return
    if text.startswith(TRIPLE_QUOTE):
        text = text.removeprefix(TRIPLE_QUOTE).removesuffix(TRIPLE_QUOTE)
    conversation.set_system(text)
    click.echo("Set system message.")


def _set_format(conversation: Conversation, mode: str, formats: list[str]) -> None:
    if mode == "noformat":
        conversation.settings = replace(conversation.settings, format=None)
        click.echo("Disabled format.")
        return
    if formats != ["json"]:
        click.echo("Invalid or missing format. For 'json' mode use '/set format json'")
        return
    conversation.settings = replace(conversation.settings, format="json")
    click.echo("Set format to 'json' mode.")


def _set_think(conversation: Conversation, mode: str, levels: list[str]) -> None:
    if mode == "nothink":
        conversation.settings = replace(conversation.settings, think=False)
        click.echo("Set 'nothink' mode.")
        return
    if levels and (len(levels) > 1 or levels[0] not in THINK_LEVELS):
        click.echo(f"Invalid level. Levels are {', '.join(THINK_LEVELS)}")
        return
    settings = replace(conversation.settings, think=levels[0] if levels else True)
    conversation.settings = settings
    click.echo(f"Set 'think' mode to '{levels[0]}'." if levels else "Set 'think' mode.")
    if "thinking" not in conversation.client.show(settings.model).capabilities:
        _tell(f'warning: model "{settings.model}" does not support thinking output')


def _show(conversation: Conversation, args: list[str], _entry: str) -> None:
    part = args[0] if args else ""
    if part not in SHOWN_PARTS:
        _unknown(f"/show {part}") if part else _tell(HELP_SHOW)
        return
    shown = conversation.client.show(conversation.settings.model)
    if part == "info":
        _tell(format_info(shown))
    elif part == "parameters":
        click.echo("\n".join(_parameter_lines(conversation, shown)))
    elif part == "system":
        click.echo(conversation.system or shown.system or _EMPTY_PARTS[part])
    else:
        click.echo(getattr(shown, part) or _EMPTY_PARTS.get(part, ""))


def _parameter_lines(conversation: Conversation, shown: ShownModel) -> list[str]:
    options = conversation.settings.options
    model = shown.parameters.splitlines() or [_NO_PARAMETERS]
    user = [
        f"{name:<30} {_format_option(item)}"
        for name, value in options.items()
        for item in (value if isinstance(value, list) else [value])
    ] or [_NO_PARAMETERS]
    return [
        "Model defined parameters:",
        *(f"  {line}" for line in model),
        "",
        "User defined parameters:",
        *(f"  {line}" for line in user),
        "",
    ]


def _format_option(value: object) -> str:
    """As the model's own parameters are written: `0`, `true`, `"text"`."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _parameter_help() -> str:
    rows = [
        f"  /set parameter {name + ' <' + spec.kind + '>':<32} {spec.meaning}"
        for name, spec in OPTION_SPECS.items()
    ]
    return "\n".join(["Available Parameters:", *rows, ""])


def _unknown(text: str) -> None:
    click.echo(f"Unknown command '{text}'. Type /? for help")


def _tell(text: str) -> None:
    click.echo(text, err=True)


_COMMANDS: dict[str, Callable[[Conversation, list[str], str], None]] = {
    "/?": _help,
    "/help": _help,
    "/clear": _clear,
    "/list": list_stored,
    "/load": load,
    "/save": save,
    "/set": _set,
    "/show": _show,
}
