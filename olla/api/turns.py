"""What the requests of several dialects are checked and completed by, once they are values.

Knows no dialect's JSON. Texts of refusals name the field and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from olla.errors import BadInput
from olla.messages import Message, Tool
from olla.requests import ToolChoice, ToolMode

MAX_DEPTH = 200
"""JSON within JSON, in a schema or in an item."""


def check_depth(*values: object) -> None:
    """What is repeated in a reply or kept must be written again, which takes stack.

    Raises:
        BadInput: it has values within values within values ... past MAX_DEPTH.
    """
    level: list[object] = list(values)
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inner(value)]
        if not level:
            return
    raise BadInput(f"the request is nested too deeply; {MAX_DEPTH} levels are the most")


def _inner(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def refuse_tool(kind: str) -> BadInput:
    return BadInput(
        f'tools of type "{kind}" are not supported by this server: describe the tool as a function'
    )


def check_tool_choice(choice: ToolChoice, tools: Sequence[Tool]) -> ToolChoice:
    """
    Raises:
        BadInput: a call is required that no tool on offer can answer.
    """
    if choice.mode is ToolMode.REQUIRED and not tools:
        raise BadInput('"tool_choice" requires a tool, but "tools" is empty')
    if choice.name and choice.name not in {tool.name for tool in tools}:
        raise BadInput(f'"tool_choice" names "{choice.name}", which is not among "tools"')
    return choice


def name_tool_results(messages: Iterable[Message]) -> Iterator[Message]:
    """Give each result the name of the tool that was called, which some templates ask for."""
    names: dict[str, str] = {}
    for message in messages:
        names.update((call.id, call.name) for call in message.tool_calls)
        if message.role == "tool":
            yield replace(message, tool_name=names.get(message.tool_call_id, ""))
        else:
            yield message


def join_first_systems(messages: Sequence[Message]) -> Iterator[Message]:
    """One system message in place of several at the start: many templates take only one."""
    num_systems = 0
    while num_systems < len(messages) and messages[num_systems].role == "system":
        num_systems += 1
    if num_systems:
        yield Message("system", "\n\n".join(m.content for m in messages[:num_systems]))
    yield from messages[num_systems:]


def estimate_tokens(messages: Iterable[Message]) -> int:
    """About how many tokens these are: four characters each."""
    return sum(len(m.content) + len(m.thinking) for m in messages) // 4
