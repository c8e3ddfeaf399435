"""HarmonyParser: the replies of gpt-oss, which are messages on channels.

    <|channel|>analysis<|message|>thinking<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{}<|call|>
    <|start|>assistant<|channel|>final<|message|>content<|return|>

A message to a function is a call; what else is on `analysis` is thinking, and all the rest is
content, as is a reply without any of this. Names of functions are mapped back to the tools'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from olla.messages import Tool
from olla.parsers.base import Delta, NotACall, Tools, new_call
from olla.parsers.bodies import BracketBody
from olla.parsers.json_calls import read_json_object
from olla.parsers.tags import Tags, TagScanner, tags_of

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END = "<|end|>"
ENDS = (END, "<|call|>", "<|return|>")
HARMONY_TAGS = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)

_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_MAYBE_RECIPIENT = re.compile(r"\s*(t|to|to=\S*\s*)?")
_NO_IDENTIFIER = re.compile(r"[ .-]")


class HarmonyParser:
    def __init__(self, tools: Tools, prompt: str = "") -> None:
        """`prompt` ends within a header or a message, which the reply goes on with."""
        self._names = _identifiers(tools)
        self._scanner = TagScanner()
        self._header: str | None = None  # what has been read of it, where the reply is in one
        self._role_is_in_prompt = False
        self._is_thinking = False
        self._function = ""
        self._body: BracketBody | None = None
        self._begin(prompt)

    def push(self, text: str) -> Delta:
        self._scanner.push(text)
        return Delta.join(self._advance())

    def finish(self) -> Delta:
        self._scanner.close()
        rest = Delta.join(self._advance())
        if self._body is not None:
            return rest + self._end_call(self._body)
        return rest + Delta(
            content=self._header if self._role_is_in_prompt and self._header else ""
        )

    def _begin(self, prompt: str) -> None:
        _, start, last = prompt.rpartition(START)
        role, message, _ = last.partition(MESSAGE)
        if start and not message:
            self._role_is_in_prompt = role.strip() == "assistant"
            self._header = "" if self._role_is_in_prompt else role
        elif start and not any(end in last for end in ENDS):
            self._open(role)

    def _advance(self) -> Iterator[Delta]:
        is_at_tag = True
        while is_at_tag:
            text, tag = self._scanner.next(self._wanted())
            is_at_tag = bool(tag)
            if self._body is not None:
                yield self._take_call(self._body, text, tag)
            elif self._header is not None:
                yield self._take_header(self._header + text, tag)
            else:
                yield self._show(text)
                self._switch(tag)

    def _wanted(self) -> Tags:
        return tags_of(*HARMONY_TAGS) if self._body is None else self._body.wanted

    def _take_call(self, body: BracketBody, text: str, tag: str) -> Delta:
        if tag not in HARMONY_TAGS:
            return self._end_call(body) if body.take(text, tag) else Delta()
        body.take(text, "")
        ended = self._end_call(body)
        self._switch(tag)
        return ended

    def _take_header(self, header: str, tag: str) -> Delta:
        if self._role_is_in_prompt and not _MAYBE_RECIPIENT.fullmatch(header):
            self._header, self._role_is_in_prompt = None, False
            self._switch(tag)
            return Delta(content=header)
        self._header = header
        self._switch(tag)
        return Delta()

    def _switch(self, tag: str) -> None:
        if not tag:
            return
        self._role_is_in_prompt = False
        if tag == MESSAGE:
            self._open(self._header or "")
        elif tag in {CHANNEL, CONSTRAIN}:
            self._header = (self._header or "") + tag
        else:
            self._open("")
            self._header = "" if tag == START else None

    def _open(self, header: str) -> None:
        """Begin the message that the header announces."""
        self._header = None
        channel, recipient = _CHANNEL_NAME.search(header), _RECIPIENT.search(header)
        name = recipient[1] if recipient else ""
        self._is_thinking = channel is not None and channel[1] == "analysis"
        self._function = self._names.get(name, name.removeprefix("functions."))
        is_call = name.startswith("functions.") or name in self._names
        self._body = BracketBody(HARMONY_TAGS) if is_call else None

    def _show(self, text: str) -> Delta:
        return Delta(thinking=text) if self._is_thinking else Delta(content=text)

    def _end_call(self, body: BracketBody) -> Delta:
        self._body = None
        self._is_thinking = False
        try:
            return Delta(tool_calls=(new_call(self._function, read_json_object(body.text)),))
        except NotACall:
            return Delta(content=body.text)


def identifier_of(tool: Tool, tools: Tools) -> str:
    """What the model may call one of `tools`."""
    return next(key for key, name in _identifiers(tools).items() if name == tool.name)


def is_in_message(prompt: str) -> bool:
    """Whether the prompt ends within a message, which the reply goes on with."""
    _, start, last = prompt.rpartition(START)
    return bool(start) and MESSAGE in last and not any(end in last for end in ENDS)


def _identifiers(tools: Tools) -> dict[str, str]:
    """What the model may call a tool -> its name: as it is, and as an identifier."""
    names: dict[str, str] = {}
    for tool in tools:
        identifier = base = _NO_IDENTIFIER.sub("_", tool.name)
        count = 1
        while names.get(identifier, tool.name) != tool.name:
            count += 1
            identifier = f"{base}_{count}"
        names[identifier] = tool.name
    names |= {tool.name: tool.name for tool in tools}
    return names | {f"functions.{key}": name for key, name in names.items()}
