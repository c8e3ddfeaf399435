"""check_schemas(): what a JSON schema must be before an engine is asked to compile it.

The bounds are those within which compiling ends soon: it is not to be interrupted. What a schema
means, and which keywords are known, is the compiler's to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from olla.errors import BadInput
from olla.json_values import depth_of
from olla.messages import Tool

MAX_SCHEMA_BYTES = 128 * 1024
MAX_SCHEMAS_BYTES = 1024 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_PROPERTIES = 1000
MAX_MULTIPLE = 10_000

_DEFINITIONS = ("$defs", "definitions")


def check_schemas(format: Mapping[str, Any] | None, tools: tuple[Tool, ...] = ()) -> None:
    """
    Raises:
        BadInput: one of them is too large, or no schema at all; the tool is named.
    """
    num_bytes = 0 if format is None else _check(format, "the format")
    for tool in tools:
        name = f'the parameters of the tool "{tool.name}"'
        num_bytes += _check(tool.parameters, name)
        if tool.parameters.get("type", "object") != "object":
            raise BadInput(f'{name} must be of the type "object"')
    if num_bytes > MAX_SCHEMAS_BYTES:
        limit = MAX_SCHEMAS_BYTES // 1024
        raise BadInput(f"the schemas of a request are longer than {limit} KiB together")


def _check(schema: Mapping[str, Any], name: str) -> int:
    """How many bytes it has."""
    if depth_of(schema) > MAX_SCHEMA_DEPTH:
        raise BadInput(f"{name} is nested more than {MAX_SCHEMA_DEPTH} deep; flatten it")
    num_bytes = len(json.dumps(schema, ensure_ascii=False).encode())
    if num_bytes > MAX_SCHEMA_BYTES:
        raise BadInput(f"{name} is longer than {MAX_SCHEMA_BYTES // 1024} KiB; shorten it")
    for key in _DEFINITIONS:
        _check_definitions(schema.get(key, {}), f'"{key}" in {name}')
    _check_costs(schema, name)
    return num_bytes


def _check_definitions(definitions: object, name: str) -> None:
    is_good = isinstance(definitions, dict) and all(
        isinstance(schema, dict | bool) for schema in definitions.values()
    )
    if not is_good:
        raise BadInput(f"{name} must be an object of schemas")


def _check_costs(schema: Mapping[str, Any], name: str) -> None:
    """Refuse what the compiler would take minutes for: it looks at every property beside every
    other, and at every remainder of a division.
    """
    parts = list(_objects(schema))
    for part in parts:
        properties = part.get("properties")
        if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
            raise BadInput(f"{name} has an object of more than {MAX_PROPERTIES} properties")
    multiples = [Decimal(str(part["multipleOf"])) for part in parts if _divides(part)]
    combines = any("allOf" in part or "$ref" in part for part in parts)
    groups = [multiples] if combines else [[multiple] for multiple in multiples]
    if any(_common_multiple(group) > MAX_MULTIPLE for group in groups):
        raise BadInput(f'{name} has a "multipleOf" above {MAX_MULTIPLE}; leave it out')


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _divides(part: Mapping[str, Any]) -> bool:
    number = part.get("multipleOf")
    return isinstance(number, int | float) and not isinstance(number, bool)


def _common_multiple(numbers: list[Decimal]) -> int:
    """In units of the finest digit that any of them has."""
    exponents = (int(number.as_tuple().exponent) for number in numbers)
    digits = max(0, -min(exponents, default=0))
    return math.lcm(*(abs(int(number.scaleb(digits))) for number in numbers))
