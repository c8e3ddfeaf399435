"""What JSON from elsewhere needs before it is a value of ours: bounds, and text that is UTF-8."""

from __future__ import annotations

from typing import Any


def without_surrogates(value: Any) -> Any:
    """A lone half of a surrogate pair cannot be written as UTF-8; Go reads it as U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value


def depth_of(value: Any) -> int:
    """How many objects and lists stand within each other, without recursion; 0 for a scalar."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [inner for item in level for inner in _inside(item)]
    return depth


def _inside(value: list[Any] | dict[str, Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
