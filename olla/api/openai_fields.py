"""What OpenAI's requests for replies have in common (spec/openai-anthropic.md sections 1 and 2.1).

Knows neither messages nor prompts. A prompt is never cut in silence: one that is too long for the
model is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from olla.api.json_fields import Fields, parse_fields
from olla.errors import BadInput
from olla.options import Options
from olla.requests import InferenceRequest

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_BIAS = 100

_TOKEN_ID = re.compile(r"[0-9]{1,9}")
_EFFORTS: Mapping[str, bool | str | None] = {
    "": None,
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}

_Request = TypeVar("_Request", bound=InferenceRequest)


@dataclass(frozen=True, slots=True)
class Asked(Generic[_Request]):
    """What a body asks for: `num_choices` replies to each of `requests`, of which there is one."""

    requests: tuple[_Request, ...]
    num_choices: int = 1
    include_usage: bool = False

    def __post_init__(self) -> None:
        if self.num_choices * len(self.requests) > MAX_CHOICES:
            raise BadInput(f"n times the number of prompts must be at most {MAX_CHOICES}")

    @property
    def model(self) -> str:
        return self.requests[0].model

    @property
    def stream(self) -> bool:
        """A prompt that is only rendered comes whole, as in Ollama."""
        return self.requests[0].stream and not self.requests[0].debug_render_only

    def of(self, model: str) -> Self:
        """The same, of a model by another name."""
        requests = tuple(replace(request, model=model) for request in self.requests)
        return replace(self, requests=requests)

    @property
    def groups(self) -> tuple[tuple[_Request, ...], ...]:
        """For each prompt the requests of its choices, which differ in their seeds."""
        return tuple(
            tuple(_with_seed(request, number) for number in range(self.num_choices))
            for request in self.requests
        )


def parse_body(body: bytes, struct: str) -> Fields:
    """
    Raises:
        BadInput: no body, which OpenAI's routes tell in other words, or no JSON object.
    """
    return parse_fields(body, struct, if_empty="EOF")


def refuse(fields: Fields, names: Mapping[str, str]) -> None:
    """
    Args:
        names: field -> what to do instead.

    Raises:
        BadInput: one of them asks for something, as {} does; null, "", 0, false and [] do not.
    """
    for name, instead in names.items():
        if fields.raw(name) or fields.raw(name) == {}:
            raise BadInput(f"{name} is not supported by this server; {instead}")


def common_fields(fields: Fields) -> dict[str, Any]:
    """The fields of every InferenceRequest, but for its options, format and logprobs."""
    return {
        "model": fields.text("model"),
        "stream": fields.flag("stream"),
        "truncate": False,
        "debug_render_only": fields.flag("_debug_render_only"),
        "logit_bias": _logit_bias(fields),
    }


def options(fields: Fields, **values: object) -> Options:
    """The options that have OpenAI's names, with `values` for those that have others."""
    temperature = fields.raw("temperature")
    return Options.from_json(
        {
            "temperature": 1.0 if temperature is None else temperature,
            "seed": fields.raw("seed"),
            "frequency_penalty": fields.raw("frequency_penalty"),
            "presence_penalty": fields.raw("presence_penalty"),
            **values,
        }
    )


def count(fields: Fields, name: str) -> int | None:
    """A whole number, None where there is none."""
    return None if fields.raw(name) is None else fields.integer(name)


def num_choices(fields: Fields) -> int:
    number = count(fields, "n")
    if number is not None and not 1 <= number <= MAX_CHOICES:
        raise BadInput(f"n must be from 1 to {MAX_CHOICES}")
    return number or 1


def include_usage(fields: Fields) -> bool:
    return fields.child("stream_options", "openai.StreamOptions").flag("include_usage")


def think_of(effort: str) -> bool | str | None:
    """How hard to think, in Ollama's words.

    Raises:
        BadInput: there is no such effort.
    """
    if effort not in _EFFORTS:
        raise BadInput(
            f'invalid reasoning value: "{effort}" (must be "minimal", "low", "medium", "high", '
            '"xhigh", "ultra", "max", or "none")'
        )
    return _EFFORTS[effort]


def _with_seed(request: _Request, number: int) -> _Request:
    seed = request.options.seed
    if number == 0 or seed is None or seed < 0:
        return request
    return replace(request, options=replace(request.options, seed=seed + number))


def _logit_bias(fields: Fields) -> dict[int, float]:
    values = fields.object("logit_bias", "map[string]float64")
    return {_token_id(token): _bias(token, value) for token, value in values.items()}


def _token_id(text: str) -> int:
    if not _TOKEN_ID.fullmatch(text):
        raise BadInput(f'the keys of logit_bias must be ids of tokens, which "{text}" is not')
    return int(text)


def _bias(token: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -MAX_BIAS <= value <= MAX_BIAS:  # type: ignore[operator]
        raise BadInput(f"logit_bias of token {token} must be from -{MAX_BIAS} to {MAX_BIAS}")
    return float(value)  # type: ignore[arg-type]
