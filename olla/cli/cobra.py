"""click, speaking as Ollama's command line does: its flags, argument counts and error texts.

Knows nothing about any one command. Scripts match on these texts (spec/cli.md section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click
from click.shell_completion import CompletionItem

# How each command's help explains the environment; olla/variables.py says how each is read.
ENVIRONMENT: Mapping[str, str] = {
    "OLLA_HOST": "Address of the server (default 127.0.0.1:11434)",
    "OLLA_HOME": "Folder of the models, the history and the logs (default ~/.olla)",
    "OLLA_MODELS": "Folder of the models (default $OLLA_HOME/models)",
    "OLLA_AUTOSTART": "0: never start the server in the background",
    "OLLA_NOHISTORY": "1: do not keep what is typed at the prompt",
    "OLLA_EDITOR": "Editor that Ctrl-G opens at the prompt (default VISUAL, EDITOR or vi)",
    "OLLA_KEEP_ALIVE": 'How long models stay loaded (default "5m")',
    "OLLA_LOAD_TIMEOUT": 'How long loading a model may take (default "5m")',
    "OLLA_CONTEXT_LENGTH": "Context length unless a model or request says otherwise",
    "OLLA_API_KEY": "Key to send, where the server wants one",
    "OLLA_MAX_LOADED_MODELS": "Most models loaded at once (default 3, or 3 for each GPU)",
    "OLLA_NUM_PARALLEL": "Most replies of a model at once (default 64)",
    "OLLA_ALLOWED_HOSTS": "Names, beside those of this machine, that the server answers to",
    "OLLA_INSECURE": "1: let other machines in though there is no key",
    "OLLA_MAX_CONNECTIONS": "Most connections open at once (default 1000)",
    "OLLA_IDLE_TIMEOUT": 'How long a connection may say nothing (default "75s")',
    "OLLA_BODY_TIMEOUT": 'How long the body of a request may take (default "2m")',
    "OLLA_REQUEST_TIMEOUT": "How long a reply may take (default: as long as it takes)",
    "OLLA_SHUTDOWN_TIMEOUT": 'How long the end waits for requests that run (default "5s")',
    "OLLA_LOG": "Form of the log: text, json",
    "OLLA_DEBUG_LOG_REQUESTS": "1: keep the bodies of requests in a temporary folder",
    "OLLA_MAX_QUEUE": "Most requests that may wait (default 512)",
    "OLLA_ORIGINS": "Origins, beside those on this machine, whose web pages may ask",
    "OLLA_NOPRUNE": "1: do not remove unused files when the server starts",
    "OLLA_MODELS_EXTRA": "More folders of models, which are only read",
    "OLLA_SOURCES": "Where to look for names, in order: package,ollama,hf,modelscope",
    "OLLA_SHARE": "1: let other machines pull the models here",
    "OLLA_DTYPE": "Precision of the computation: auto, float32, bfloat16, float16",
    "OLLA_QUANTIZE": "Precision of the weights: auto, none, int8, int4, nf4",
    "OLLA_DEVICE": 'Device that models run on, such as "cpu" or "cuda:0"',
    "OLLA_NUM_THREADS": "CPU threads of a runner (default: every core)",
    "OLLA_KV_CACHE": 'Memory for the cache of keys and values, such as "4GiB"',
    "OLLA_KV_CACHE_TYPE": "Format of that cache: auto, f16, q8_0",
    "OLLA_PROFILE": "1: log where the time of the engine's steps goes",
    "OLLA_DEBUG": "1: log more",
    "NO_COLOR": "1: no colours",
}
CLIENT_ENVIRONMENT = ("OLLA_HOST", "OLLA_HOME", "OLLA_API_KEY", "OLLA_AUTOSTART")
_CONTEXT = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True, slots=True)
class Arity:
    """How many arguments a command takes, and how it says that the count is wrong."""

    least: int
    most: int | None

    def complaint(self, given: int) -> str:
        """Why `given` arguments are refused; "" when they are not."""
        if self.least <= given and (self.most is None or given <= self.most):
            return ""
        if self.most == self.least:
            return f"accepts {self.least} arg(s), received {given}"
        if given < self.least:
            return f"requires at least {self.least} arg(s), only received {given}"
        return f"accepts at most {self.most} arg(s), received {given}"


def exactly(count: int) -> Arity:
    return Arity(least=count, most=count)


def at_least(count: int) -> Arity:
    return Arity(least=count, most=None)


def at_most(count: int) -> Arity:
    return Arity(least=0, most=count)


def between(least: int, most: int) -> Arity:
    return Arity(least, most)


class Command(click.Command):
    """A command that counts its arguments itself. Its click arguments are never required."""

    def __init__(
        self,
        *args: Any,
        arity: Arity,
        environment: tuple[str, ...],
        bare: Mapping[str, str],
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = {**_CONTEXT, "allow_extra_args": True}
        super().__init__(*args, **kwargs)
        self._arity = arity
        self._environment = environment
        self._bare = bare

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, list(self._fill_bare(args)))
        except click.BadOptionUsage as error:
            raise click.UsageError(self._value_complaint(error.option_name), ctx) from error
        given = len(ctx.args) + sum(
            _count(ctx.params[param.name])
            for param in self.params
            if isinstance(param, click.Argument) and param.name
        )
        complaint = self._arity.complaint(given)
        if complaint and not ctx.resilient_parsing:  # a shell completes half a line
            raise click.UsageError(complaint, ctx)
        return rest

    def _value_complaint(self, option: str) -> str:
        """Why `--flag=x`, or `--option` as the last word, is refused."""
        for param in self.params:
            if isinstance(param, click.Option) and param.is_flag and option in param.opts:
                return f"flag takes no value: {option}"
        letter = "" if option.startswith("--") else f"'{option[1:]}' in "
        return f"flag needs an argument: {letter}{option}"

    def _fill_bare(self, args: Sequence[str]) -> Iterator[str]:
        """`--think` -> `--think=true`: such a flag takes a value only when one is attached."""
        end = args.index("--") if "--" in args else len(args)
        for position, arg in enumerate(args):
            is_bare = position < end and arg in self._bare
            yield f"{arg}={self._bare[arg]}" if is_bare else arg

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_environment(self._environment, formatter)


@dataclass(frozen=True, slots=True)
class CommandPlace:
    """Where a command is, as `module:attribute`, and its line in the help of the group."""

    target: str
    summary: str


class Group(click.Group):
    """The root command: imports the one command that runs, and has aliases help does not list."""

    def __init__(
        self,
        *args: Any,
        places: Mapping[str, CommandPlace],
        aliases: Mapping[str, str],
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = _CONTEXT
        super().__init__(*args, **kwargs)
        self._places = places
        self._aliases = aliases

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._places.get(self._aliases.get(cmd_name, cmd_name))
        if place is None:
            return None
        module, _, attribute = place.target.partition(":")
        found = getattr(import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise click.UsageError(f'unknown command "{args[0]}" for "{ctx.info_name}"', ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """click would import every command for its summary."""
        names = [
            CompletionItem(name, help=place.summary)
            for name, place in self._places.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in self._places.items()])


def command(
    name: str,
    arity: Arity,
    environment: tuple[str, ...] = CLIENT_ENVIRONMENT,
    bare: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., Any]], click.Command]:
    """`bare`: the value of each option that may stand without one."""
    return click.command(name, cls=Command, arity=arity, environment=environment, bare=bare)


def error_text(error: click.ClickException) -> str:
    """What Ollama's command line would say."""
    if not isinstance(error, click.NoSuchOption):
        return error.format_message()
    name = error.option_name
    is_long = name.startswith("--")
    return f"unknown flag: {name}" if is_long else f"unknown shorthand flag: '{name[1:]}' in {name}"


def _count(value: object) -> int:
    return len(value) if isinstance(value, tuple) else int(value is not None)


def _write_environment(names: tuple[str, ...], formatter: click.HelpFormatter) -> None:
    if names:
        with formatter.section("Environment"):
            formatter.write_dl([(name, ENVIRONMENT[name]) for name in names])
