"""`olla bench`: how fast a server answers, at one and at several streams."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import click

from olla.address import Address
from olla.cli.cobra import CLIENT_ENVIRONMENT, command, exactly
from olla.cli.daemon import connect
from olla.cli.figures import Round, figure_of, format_figure, prompt_of, round_of
from olla.cli.model_names import complete_models
from olla.cli.terminal import echo_table, show_table, waiting
from olla.client import Client
from olla.client.replies import ReplySettings
from olla.client.timing import Api, Question, TimedReply, ask, together
from olla.errors import ApiError, ClientError, ServerUnreachable
from olla.settings import Settings

_HEADER = ("STREAMS", "FIRST TOKEN s", "PREFILL tok/s", "DECODE tok/s")
_MAX_STREAMS = 256
_UNLOAD_S = 30.0
_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked. `num_ctx` holds prompt and reply even where a word is two tokens."""

    model: str
    api: Api
    streams: tuple[int, ...]
    num_prompt_tokens: int
    num_tokens: int
    num_rounds: int
    seed: int

    @property
    def num_ctx(self) -> int:
        return 2 * self.num_prompt_tokens + self.num_tokens + 64


@dataclass(frozen=True, slots=True)
class Row:
    streams: int
    rounds: tuple[Round, ...]


class _Streams(click.ParamType[tuple[int, ...]]):
    name = "streams"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        texts = str(value).split(",")
        if not all(text.isascii() and text.isdigit() for text in texts):
            self.fail("expected whole numbers with commas between, such as 1,4,8")
        numbers = tuple(int(text) for text in texts)
        if not all(1 <= number <= _MAX_STREAMS for number in numbers):
            self.fail(f"expected numbers from 1 to {_MAX_STREAMS}")
        return numbers


@command("bench", exactly(1), CLIENT_ENVIRONMENT)
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@click.option("--host", metavar="URL", help="Another server than olla's own.")
@click.option(
    "--api",
    type=click.Choice([api.value for api in Api]),
    default=Api.OLLAMA.value,
    show_default=True,
    help="What the server speaks.",
)
@click.option(
    "--streams", type=_Streams(), default="1,4,8,16", show_default=True, help="Replies at a time."
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(1, 1_000_000),
    default=512,
    show_default=True,
    help="About how long each prompt is.",
)
@click.option(
    "--output-tokens",
    type=click.IntRange(2, 1_000_000),
    default=128,
    show_default=True,
    help="How long each reply is at most.",
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Every round as JSON, for machines.")
@click.pass_obj
def bench(
    settings: Settings, /, model: str, host: str | None, api: str, as_json: bool, **sizes: Any
) -> None:
    """Measure how fast a model answers.

    Loads the model anew, then asks for replies to prompts of random words: the time until the
    first token, and tokens in a second of all streams together. Each figure is the median of the
    rounds, with the lowest and the highest.
    """
    plan = Plan(
        model=model,
        api=Api(api),
        streams=sizes["streams"],
        num_prompt_tokens=sizes["prompt_tokens"],
        num_tokens=sizes["output_tokens"],
        num_rounds=sizes["rounds"],
        seed=time.time_ns(),
    )
    try:
        client = Client(Address.parse(host)) if host else connect(settings)
        with waiting():
            load_s = load(client, plan)
            rows = tuple(measure(client, plan))
    except ServerUnreachable as error:
        if not host:
            raise
        raise ServerUnreachable(f"nothing answers at {Address.parse(host).url}") from error
    report = _report_json if as_json else _report_table
    report(plan, load_s, rows)


def load(client: Client, plan: Plan) -> float | None:
    """Seconds to load the model anew; None where the API cannot tell a server to.

    Raises:
        ClientError: it is not there, cannot be loaded, or others keep using it.
    """
    if plan.api is not Api.OLLAMA:
        return None
    client.unload(plan.model)
    deadline = time.monotonic() + _UNLOAD_S
    while any(_is_named(running.name, plan.model) for running in client.running()):
        if time.monotonic() > deadline:
            raise ClientError(f"{plan.model} is in use and cannot be loaded anew: try again later")
        time.sleep(0.02)
    start = time.perf_counter()
    client.load(ReplySettings(plan.model, options={"num_ctx": plan.num_ctx}))
    return time.perf_counter() - start


def measure(client: Client, plan: Plan) -> Iterator[Row]:
    ignore_eos = _accepts_ignore_eos(client, plan)
    for streams in plan.streams:
        # What a server makes ready when it first meets so many streams is not counted.
        _ask_round(client, plan, streams, 0, min(plan.num_tokens, _WARM_UP_TOKENS), ignore_eos)
        rounds = tuple(
            round_of(_ask_round(client, plan, streams, number, plan.num_tokens, ignore_eos))
            for number in range(1, plan.num_rounds + 1)
        )
        yield Row(streams, rounds)


def _accepts_ignore_eos(client: Client, plan: Plan) -> bool:
    """Some OpenAI-compatible servers know the field, some pass over it, some refuse it."""
    try:
        _ask_round(client, plan, 1, 0, 2, plan.api is Api.OPENAI)
    except ApiError as error:
        if plan.api is Api.OLLAMA or error.status not in {400, 422}:
            raise
        return False
    return True


def _ask_round(
    client: Client, plan: Plan, streams: int, number: int, num_tokens: int, ignore_eos: bool
) -> list[TimedReply]:
    questions = [
        Question(
            model=plan.model,
            prompt=prompt_of(plan.num_prompt_tokens, hash((plan.seed, streams, number, stream))),
            num_tokens=num_tokens,
            num_ctx=plan.num_ctx,
            ignore_eos=ignore_eos,
        )
        for stream in range(streams)
    ]
    return together([partial(ask, client, plan.api, question) for question in questions])


def _is_named(running: str, model: str) -> bool:
    return running in {model, f"{model}:latest"}


def _report_table(plan: Plan, load_s: float | None, rows: Sequence[Row]) -> None:
    lines = [_cells(row) for row in rows]
    if sys.stdout.isatty():
        show_table(_HEADER, lines)
    else:
        echo_table(_HEADER, lines)
    num_prompt_tokens = rows[0].rounds[0].num_prompt_tokens
    loaded = "" if load_s is None else f"loaded in {load_s:.2f} s; "
    click.echo(
        f"{plan.model}: {loaded}prompts of {num_prompt_tokens} tokens, replies of "
        f"{plan.num_tokens}, median of {plan.num_rounds}"
    )
    shortest = min(round_.num_tokens for row in rows for round_ in row.rounds)
    if shortest < plan.num_tokens:
        text = f"the model ended some replies early, one after {shortest} of {plan.num_tokens}"
        click.echo(f"Warning: {text} tokens", err=True)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        str(row.streams),
        *(format_figure(figure_of(samples)) for samples in _samples(row).values()),
    )


def _samples(row: Row) -> dict[str, list[float]]:
    return {
        "ttft_s": [round_.ttft_s for round_ in row.rounds],
        "prefill": [round_.prefill for round_ in row.rounds],
        "decode": [round_.decode for round_ in row.rounds],
    }


def _report_json(plan: Plan, load_s: float | None, rows: Sequence[Row]) -> None:
    results = [
        {
            "streams": row.streams,
            "median": {name: figure_of(samples).median for name, samples in _samples(row).items()},
            "rounds": [asdict(round_) for round_ in row.rounds],
        }
        for row in rows
    ]
    report = {
        "model": plan.model,
        "api": plan.api,
        "num_prompt_tokens": plan.num_prompt_tokens,
        "num_tokens": plan.num_tokens,
        "load_s": load_s,
        "results": results,
    }
    click.echo(json.dumps(report, indent=2))
