"""Options: what a user may set for a model or a request; one table names them all.

Precedence is the caller's: `defaults.merge(model).merge(request)`. SamplingParams is what the
engine gets: the same with nothing left open. Texts and types are spec/api.md section 3.2 and
spec/modelfile.md section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

from olla.errors import InvalidOption


class Kind(StrEnum):
    """The type of an option, in the words of Ollama's error texts."""

    INTEGER = "integer"
    FLOAT = "float32"
    BOOLEAN = "boolean"
    STRINGS = "array"
    CHOICE = "string"


QUANTIZATIONS = ("auto", "none", "int8", "int4", "nf4")


@dataclass(frozen=True, slots=True)
class OptionSpec:
    kind: Kind
    meaning: str
    choices: tuple[str, ...] = ()


_NO_EFFECT = "kept for Ollama's sake; has no effect"
OPTION_SPECS: Mapping[str, OptionSpec] = {
    "num_ctx": OptionSpec(Kind.INTEGER, "context window, in tokens"),
    "num_batch": OptionSpec(Kind.INTEGER, _NO_EFFECT),
    "num_gpu": OptionSpec(Kind.INTEGER, "layers on the GPU; 0 CPU only, -1 as many as fit"),
    "main_gpu": OptionSpec(Kind.INTEGER, "the GPU to begin with"),
    "use_mmap": OptionSpec(Kind.BOOLEAN, _NO_EFFECT),
    "num_thread": OptionSpec(Kind.INTEGER, "CPU threads; 0 one for each core that olla may use"),
    "draft_num_predict": OptionSpec(
        Kind.INTEGER, "most tokens drafted in a step; 0 none, -1 as many as pay"
    ),
    "num_keep": OptionSpec(Kind.INTEGER, "tokens kept when the context shifts; -1 the prompt"),
    "seed": OptionSpec(Kind.INTEGER, "random seed; -1 a new one for each request"),
    "num_predict": OptionSpec(Kind.INTEGER, "most tokens to generate; -1 until the model stops"),
    "top_k": OptionSpec(Kind.INTEGER, "sample from the k likeliest tokens; 0 all"),
    "top_p": OptionSpec(Kind.FLOAT, "sample from the likeliest tokens that sum to p"),
    "min_p": OptionSpec(Kind.FLOAT, "least probability, relative to the likeliest token's"),
    "typical_p": OptionSpec(Kind.FLOAT, "sample from the most typical tokens that sum to p"),
    "repeat_last_n": OptionSpec(Kind.INTEGER, "tokens that penalties look back on; -1 all"),
    "temperature": OptionSpec(Kind.FLOAT, "randomness; 0 takes the likeliest token"),
    "repeat_penalty": OptionSpec(Kind.FLOAT, "divides the logit of repeated tokens; 1 is off"),
    "presence_penalty": OptionSpec(Kind.FLOAT, "taken off the logit of a token seen before"),
    "frequency_penalty": OptionSpec(Kind.FLOAT, "taken off for each time a token was seen"),
    "stop": OptionSpec(Kind.STRINGS, "texts that end the reply"),
    "quantize": OptionSpec(Kind.CHOICE, "precision of the weights in memory", QUANTIZATIONS),
}

DEPRECATED_PARAMETERS = frozenset(
    {
        "penalize_newline",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mlock",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
    }
)

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_NUMERAL = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")  # Python reads "1_0" and " 1" too


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Defaults are Ollama's."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int = -1
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a user set; None is "not set"."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None
    num_keep: int | None = None
    seed: int | None = None
    num_predict: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_last_n: int | None = None
    temperature: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] | None = None
    quantize: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Self:
        """Read a JSON object of options. Unknown names and nulls are skipped.

        Raises:
            InvalidOption: a value of the wrong type.
        """
        known: dict[str, Any] = {
            name: _from_json(name, value)
            for name, value in values.items()
            if name in OPTION_SPECS and value is not None
        }
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """The options that are set, as a JSON object."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values
            if value is not None
        }

    def merge(self, other: Options) -> Options:
        """These options, overridden by those that `other` sets."""
        changed = {
            field.name: value
            for field in fields(other)
            if (value := getattr(other, field.name)) is not None
        }
        return replace(self, **changed)

    def sampling(self) -> SamplingParams:
        """What the engine samples by, with Ollama's defaults for what is not set."""
        values = {field.name: getattr(self, field.name) for field in fields(SamplingParams)}
        return SamplingParams(
            **{name: value for name, value in values.items() if value is not None}
        )


def parse_parameter(name: str, text: str) -> int | float | bool | str:
    """Read the value of a Modelfile's PARAMETER or of `/set parameter`; a stop is one string.

    Raises:
        InvalidOption: an unknown name or a value of the wrong type.
    """
    spec = OPTION_SPECS.get(name)
    if spec is None:
        raise InvalidOption(f"unknown parameter '{name}'")
    if spec.kind is Kind.STRINGS:
        return text
    if spec.kind is Kind.CHOICE:
        return _choose(name, text)
    if spec.kind is Kind.BOOLEAN:
        if text not in _TRUE | _FALSE:
            raise InvalidOption(f"invalid bool value [{text}]")
        return text in _TRUE
    return _parse_number(spec.kind, text)


def _parse_number(kind: Kind, text: str) -> int | float:
    noun, read = ("int", int) if kind is Kind.INTEGER else ("float", float)
    try:
        value = read(text) if _NUMERAL.fullmatch(text) else math.nan
    except ValueError as error:
        raise InvalidOption(f"invalid {noun} value [{text}]") from error
    if not _INT_MIN <= value <= _INT_MAX:
        raise InvalidOption(f"invalid {noun} value [{text}]")
    return value


def _choose(name: str, text: str) -> str:
    choices = OPTION_SPECS[name].choices
    if text not in choices:
        raise InvalidOption(f'option "{name}" must be one of {", ".join(choices)}')
    return text


def _from_json(name: str, value: object) -> object:
    kind = OPTION_SPECS[name].kind
    if kind is Kind.CHOICE and isinstance(value, str):
        return _choose(name, value)
    if kind is Kind.BOOLEAN and isinstance(value, bool):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in {Kind.INTEGER, Kind.FLOAT} and is_number:
        assert isinstance(value, int | float)
        if math.isfinite(value) and _INT_MIN <= value <= _INT_MAX:
            return int(value) if kind is Kind.INTEGER else float(value)
    if kind is Kind.STRINGS and isinstance(value, list | tuple):
        if not all(isinstance(item, str) for item in value):
            raise InvalidOption(f'option "{name}" must be of an array of strings')
        return tuple(value)
    raise InvalidOption(f'option "{name}" must be of type {kind}')
