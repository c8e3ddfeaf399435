"""From a request to the chunks of its reply, over a fake runner."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from olla.errors import (
    BadInput,
    CapabilityMissing,
    InvalidName,
    ModelNotFound,
    RunnerDied,
    TemplateError,
)
from olla.inference.service import MAX_RENDERS, Inference
from olla.messages import Message, Tool
from olla.options import Options
from olla.registry.manifest import ModelConfig
from olla.registry.model import Capability
from olla.requests import ChatChunk, ChatRequest, DoneReason, GenerateRequest
from olla.runner.pool import RunnerPool
from olla.runner.protocol import Schema
from tests.fakes import FakeSpawn
from tests.inference.conftest import TEMPLATE, FakeModel, FakeStore, collect

CHAT = ChatRequest(model="m", messages=(Message("user", "Hi"),))
GENERATE = GenerateRequest(model="m", prompt="Hi")
LOAD = ChatRequest(model="m")
SLOW = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GO = "{{ .System }} {{ .Prompt }}"
FIM = "{{ if .Suffix }}<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ else }}{{ .System }}{{ end }}"


async def test_a_chat_streams_its_reply(inference: Inference, spawn: FakeSpawn) -> None:
    *pieces, last = await collect(inference.chat(CHAT))

    assert pieces == [ChatChunk("Hello"), ChatChunk(" there")]
    assert (last.content, last.done_reason) == ("", DoneReason.STOP)
    assert spawn.runners[0].requests[0].prompt == "[user] Hi "
    assert not spawn.runners[0].requests[0].add_special_tokens


async def test_the_last_chunk_has_the_timings(inference: Inference) -> None:
    timings = (await collect(inference.chat(CHAT)))[-1].timings

    assert timings.total_ns > timings.load_ns > 0
    assert (timings.num_prompt_tokens, timings.prompt_ns) == (2, 10)
    assert (timings.num_tokens, timings.generation_ns) == (2, 20)


async def test_a_reply_that_was_cut_says_so(inference: Inference, spawn: FakeSpawn) -> None:
    await collect(inference.chat(LOAD))
    spawn.runners[0].reason = "length"

    assert (await collect(inference.chat(CHAT)))[-1].done_reason is DoneReason.LENGTH


async def test_empty_pieces_are_not_passed_on(inference: Inference, spawn: FakeSpawn) -> None:
    await collect(inference.chat(LOAD))
    spawn.runners[0].reply = ("", "a", "")

    assert (await collect(inference.chat(CHAT)))[0] == ChatChunk("a")
    assert len(await collect(inference.chat(CHAT))) == 2


async def test_generate_gives_the_context_of_the_next_call(
    inference: Inference, spawn: FakeSpawn
) -> None:
    chunks = await collect(inference.generate(replace(GENERATE, context=(1, 2))))

    assert chunks[-1].context == (1, 2, 7, 8)
    assert spawn.runners[0].requests[0].context == [1, 2]


async def test_a_raw_prompt_goes_as_it_is_and_has_no_context(
    inference: Inference, spawn: FakeSpawn
) -> None:
    chunks = await collect(inference.generate(replace(GENERATE, raw=True)))

    assert spawn.runners[0].requests[0].prompt == "Hi"
    assert spawn.runners[0].requests[0].add_special_tokens
    assert chunks[-1].context == ()


async def test_a_prompt_of_tokens_goes_as_it_is(inference: Inference, spawn: FakeSpawn) -> None:
    asked = GenerateRequest(model="m", tokens=(5, 6), echo=True)

    chunks = await collect(inference.generate(asked))

    (sent,) = spawn.runners[0].requests
    assert (sent.prompt, sent.context, sent.echo) == ("", [5, 6], True)
    assert chunks[-1].done_reason is DoneReason.STOP
    assert chunks[-1].context == ()


async def test_tokens_are_a_prompt_even_when_the_model_is_to_go(
    inference: Inference, spawn: FakeSpawn
) -> None:
    await collect(inference.generate(GenerateRequest(model="m", tokens=(5,), keep_alive_s=0)))

    assert len(spawn.runners[0].requests) == 1


async def test_a_prompt_without_a_template_gets_special_tokens(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    store.model = FakeModel(prompt_template="{{ .Prompt }}")

    await collect(inference.generate(GENERATE))

    assert spawn.runners[0].requests[0].prompt == "Hi"
    assert spawn.runners[0].requests[0].add_special_tokens


async def test_the_template_gets_tools_thinking_and_special_tokens(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    store.model = FakeModel(
        prompt_template="{{ bos_token }}{{ tools[0].function.name }}{{ enable_thinking }}"
        "{{ eos_token }}",
        capabilities=tuple(Capability),
    )

    await collect(inference.chat(replace(CHAT, tools=(Tool("f"),))))

    assert spawn.runners[0].requests[0].prompt == "<s>fTrue</s>"


async def test_a_request_may_bring_its_template(inference: Inference, spawn: FakeSpawn) -> None:
    template = "{{ messages[0].content }}!"

    await collect(inference.generate(replace(GENERATE, template=template)))

    assert spawn.runners[0].requests[0].prompt == "Hi!"


async def test_a_go_template_writes_the_prompt(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    store.model = FakeModel(prompt_template=GO)

    await collect(inference.chat(CHAT))
    await collect(inference.generate(replace(GENERATE, template="<{{ .Prompt }}>")))

    assert [request.prompt for request in spawn.runners[0].requests] == [" Hi", "<Hi>"]
    assert spawn.runners[0].requests[0].add_special_tokens


async def test_a_suffix_goes_where_the_template_says(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    capabilities = (Capability.COMPLETION, Capability.INSERT)
    store.model = FakeModel(prompt_template=FIM, capabilities=capabilities, system="S")

    await collect(inference.generate(replace(GENERATE, suffix="end")))

    assert spawn.runners[0].requests[0].prompt == "<P>Hi<S>end<M>"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ range 9999999 }}{{ end }}", "takes more than 500200 steps"),
        ("{{ define `t` }}{{ template `t` }}{{ end }}{{ template `t` }}", "80 levels deep"),
        ("{{ index .Messages 5 }}", "line 1 column 4: index 5 is out of range"),
        ("{{ .Prompt ", "line 1 column 12: unclosed action"),
    ],
)
async def test_a_template_that_fails_lets_go_of_the_model(
    inference: Inference, store: FakeStore, pool: RunnerPool, template: str, text: str
) -> None:
    with pytest.raises(TemplateError, match=text):
        await collect(inference.generate(replace(GENERATE, template=template)))

    pool.unload(store.model.name)
    assert pool.list() == ()


SEER = FakeModel(
    files={"config.json": Path("/blobs/c")},
    capabilities=(Capability.COMPLETION, Capability.VISION),
)


async def test_images_go_to_the_runner_with_their_places(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    store.model = SEER
    turns = (Message("user", "a [img]", images=(b"1",)), Message("user", "b", images=(b"2",)))

    await collect(inference.chat(replace(CHAT, messages=turns)))
    await collect(inference.generate(replace(GENERATE, images=(b"3",))))
    await collect(
        inference.generate(replace(GENERATE, prompt="x[img-0]", images=(b"4",), raw=True))
    )

    assert [(request.prompt, request.images) for request in spawn.runners[0].requests] == [
        ("[user] a [img-0] [user] [img-1]b ", [b"1", b"2"]),
        ("[user] [img-0]Hi ", [b"3"]),
        ("x[img-0]", [b"4"]),
    ]


async def test_old_images_make_room(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    store.model = SEER
    turns = tuple(Message("user", name, images=(name.encode() * 1500,)) for name in "abc")

    await collect(inference.chat(replace(CHAT, messages=turns)))

    (sent,) = spawn.runners[0].requests
    assert (sent.prompt, sent.images) == (
        "[user] [img-0]b [user] [img-1]c ",
        [b"b" * 1500, b"c" * 1500],
    )


async def test_images_count(inference: Inference, store: FakeStore) -> None:
    store.model = SEER
    turns = (Message("user", "a", images=(b"x" * 700,)),)

    assert await inference.count_tokens(replace(CHAT, messages=turns)) == 702


async def test_a_rendered_prompt_says_how_many_images_it_has(
    inference: Inference, store: FakeStore
) -> None:
    store.model = SEER
    request = replace(GENERATE, images=(b"1",), debug_render_only=True)

    assert await collect(inference.generate(request)) == [
        ChatChunk(rendered_prompt="[user] [img-0]Hi ", num_images=1)
    ]


async def test_old_messages_make_room(inference: Inference, spawn: FakeSpawn) -> None:
    turns = (Message("user", "old " * 50), Message("user", "new " * 50))
    request = replace(CHAT, messages=turns, options=Options(num_ctx=60))

    await collect(inference.chat(request))

    assert spawn.runners[0].requests[0].prompt == f"[user] {'new ' * 50} "
    assert spawn.runners[0].tokenized[0][1] is False


async def test_a_prompt_with_fewer_bytes_than_the_window_is_not_counted(
    inference: Inference, spawn: FakeSpawn
) -> None:
    await collect(inference.chat(replace(CHAT, messages=CHAT.messages * 3)))

    assert spawn.runners[0].tokenized == []


async def test_nothing_is_dropped_where_the_client_forbids_it(
    inference: Inference, spawn: FakeSpawn
) -> None:
    turns = (Message("user", "old " * 50), Message("user", "new " * 50))
    request = replace(CHAT, messages=turns, truncate=False, options=Options(num_ctx=60))

    await collect(inference.chat(request))

    assert "old" in spawn.runners[0].requests[0].prompt
    assert not spawn.runners[0].requests[0].truncate


@pytest.mark.parametrize("request_", [LOAD, replace(GENERATE, prompt="")])
async def test_without_a_prompt_the_model_is_loaded(
    inference: Inference, pool: RunnerPool, request_: ChatRequest | GenerateRequest
) -> None:
    chunks = (
        inference.chat(request_)
        if isinstance(request_, ChatRequest)
        else inference.generate(request_)
    )

    assert await collect(chunks) == [ChatChunk(done_reason=DoneReason.LOAD)]
    assert len(pool.list()) == 1


async def test_without_a_prompt_and_keep_alive_the_model_is_unloaded(
    inference: Inference, pool: RunnerPool
) -> None:
    await collect(inference.chat(LOAD))

    chunks = await collect(inference.chat(replace(LOAD, keep_alive_s=0)))

    assert chunks == [ChatChunk(done_reason=DoneReason.UNLOAD)]
    assert pool.list() == ()


async def test_unloading_a_model_that_is_not_loaded_is_fine(
    inference: Inference, spawn: FakeSpawn
) -> None:
    request = replace(GENERATE, prompt="", keep_alive_s=0, think=True)

    assert await collect(inference.generate(request)) == [ChatChunk(done_reason=DoneReason.UNLOAD)]
    assert spawn.loads == []


async def test_keep_alive_zero_with_a_prompt_answers_first(
    inference: Inference, pool: RunnerPool
) -> None:
    chunks = await collect(inference.chat(replace(CHAT, keep_alive_s=0)))

    assert chunks[-1].done_reason is DoneReason.STOP
    assert pool.list() == ()


async def test_the_rendered_prompt_can_be_asked_for(inference: Inference, spawn: FakeSpawn) -> None:
    chunks = await collect(inference.chat(replace(CHAT, debug_render_only=True)))

    assert chunks == [ChatChunk(rendered_prompt="[user] Hi ")]
    assert spawn.runners[0].requests == []


async def test_an_unknown_model_is_named_as_the_client_did(inference: Inference) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await collect(inference.chat(replace(CHAT, model="Nope")))

    assert str(caught.value) == "model 'Nope' not found"


async def test_a_bad_name_is_refused(inference: Inference) -> None:
    with pytest.raises(InvalidName):
        await collect(inference.generate(replace(GENERATE, model="a b")))


async def test_what_the_model_cannot_do_is_told_before_it_is_loaded(
    inference: Inference, spawn: FakeSpawn
) -> None:
    with pytest.raises(CapabilityMissing):
        await collect(inference.chat(replace(CHAT, think=True)))

    assert spawn.loads == []


async def test_tokens_are_counted_of_the_whole_prompt_without_a_reply(
    inference: Inference, spawn: FakeSpawn, pool: RunnerPool
) -> None:
    long = replace(CHAT, messages=(Message("user", "word " * 9000), *CHAT.messages), truncate=False)

    num_tokens = await inference.count_tokens(long)

    runner = spawn.runners[0]
    assert num_tokens > 9000
    assert runner.requests == []
    pool.unload(FakeModel().name)  # nothing holds it
    assert pool.list() == ()


async def test_counting_has_the_errors_of_a_chat(inference: Inference) -> None:
    with pytest.raises(ModelNotFound):
        await inference.count_tokens(replace(CHAT, model="nobody"))
    with pytest.raises(CapabilityMissing):
        await inference.count_tokens(replace(CHAT, think=True))


async def test_closing_a_reply_frees_the_engine_and_the_runner(
    inference: Inference, spawn: FakeSpawn, pool: RunnerPool
) -> None:
    await collect(inference.chat(LOAD))
    spawn.runners[0].hold()
    chunks = inference.chat(CHAT)
    await anext(chunks)

    await chunks.aclose()

    assert spawn.runners[0].num_cancelled == 1
    pool.unload(FakeModel().name)
    assert pool.list() == ()


async def test_a_cancelled_task_frees_the_engine_and_the_runner(
    inference: Inference, spawn: FakeSpawn, pool: RunnerPool
) -> None:
    await collect(inference.chat(LOAD))
    spawn.runners[0].hold()
    chunks = inference.chat(CHAT)
    await anext(chunks)
    task = asyncio.create_task(collect(chunks))
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert spawn.runners[0].num_cancelled == 1
    pool.unload(FakeModel().name)
    assert pool.list() == ()


async def test_a_crash_costs_one_request_and_the_next_one_works(
    inference: Inference, spawn: FakeSpawn
) -> None:
    await collect(inference.chat(LOAD))
    spawn.runners[0].hold()
    chunks = inference.chat(CHAT)
    await anext(chunks)
    spawn.runners[0].die()
    with pytest.raises(RunnerDied, match="an error was encountered while running"):
        await anext(chunks)

    again = await collect(inference.chat(CHAT))

    assert again[-1].done_reason is DoneReason.STOP
    assert len(spawn.runners) == 2


async def test_slow_templates_leave_threads_for_others(
    inference: Inference, store: FakeStore
) -> None:
    """Such as lists and `ps` need; a template is given a second, one render at a time."""
    store.model = FakeModel(prompt_template=SLOW)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(MAX_RENDERS + 1))
    chats = [asyncio.create_task(collect(inference.chat(CHAT))) for _ in range(MAX_RENDERS + 4)]
    first, _ = await asyncio.wait(chats, return_when=asyncio.FIRST_COMPLETED)

    started = time.monotonic()
    await asyncio.to_thread(time.monotonic)

    assert time.monotonic() - started < 0.5
    assert isinstance(first.pop().exception(), TemplateError)
    for chat in chats:
        chat.cancel()
    await asyncio.gather(*chats, return_exceptions=True)


QWEN = TEMPLATE + "{% if enable_thinking %}<think>\n{% endif %}{# </think> <tool_call> #}"
CAPABLE = FakeModel(prompt_template=QWEN, capabilities=tuple(Capability))
CALL = '<tool_call>{"name":"f","arguments":{}}</tool_call>'


@pytest.mark.parametrize(
    ("think", "tools", "thinking", "content", "num_calls"),
    [
        (None, (Tool("f"),), "a", "b", 1),
        (True, (), "a", f"b {CALL}", 0),
        (False, (), "", f"a</think> b {CALL}", 0),
    ],
)
async def test_replies_are_read_as_the_template_writes_them(
    inference: Inference,
    store: FakeStore,
    spawn: FakeSpawn,
    think: bool | None,
    tools: tuple[Tool, ...],
    thinking: str,
    content: str,
    num_calls: int,
) -> None:
    store.model = CAPABLE
    await collect(inference.chat(LOAD))
    spawn.runners[0].reply = ("a", "</think>", " b ", CALL)

    chunks = await collect(inference.chat(replace(CHAT, think=think, tools=tools)))

    assert "".join(chunk.thinking for chunk in chunks) == thinking
    assert "".join(chunk.content for chunk in chunks) == content
    assert sum(len(chunk.tool_calls) for chunk in chunks) == num_calls


async def test_a_raw_reply_is_not_parsed(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    store.model = replace(CAPABLE, config=ModelConfig(parser="qwen3"))
    await collect(inference.chat(LOAD))
    spawn.runners[0].reply = ("<think>a</think>b", CALL)

    chunks = await collect(inference.generate(replace(GENERATE, raw=True)))

    assert "".join(chunk.content for chunk in chunks) == f"<think>a</think>b{CALL}"


async def test_generate_gives_calls_in_its_last_chunk(
    inference: Inference, store: FakeStore, spawn: FakeSpawn
) -> None:
    store.model = replace(CAPABLE, config=ModelConfig(parser="qwen3"))
    await collect(inference.chat(LOAD))
    spawn.runners[0].reply = ("a</think>b", CALL, "c")

    *chunks, last = await collect(inference.generate(GENERATE))

    assert [chunk.tool_calls for chunk in chunks] == [()] * len(chunks)
    assert [call.name for call in last.tool_calls] == ["f"]


@pytest.mark.parametrize(
    ("think", "raw", "thinks"), [(True, False, True), (False, False, False), (True, True, False)]
)
async def test_a_format_holds_behind_the_thinking(
    inference: Inference, store: FakeStore, spawn: FakeSpawn, think: bool, raw: bool, thinks: bool
) -> None:
    store.model = CAPABLE
    request = replace(GENERATE, think=think, raw=raw, format={"type": "object"})

    await collect(inference.generate(request))

    (sent,) = spawn.runners[0].requests
    assert sent.grammar is not None
    assert sent.grammar.schemas == (Schema("the format", '{"type": "object"}'),)
    assert sent.grammar.tags == (("</think>",) if thinks else ())


async def test_an_unknown_parser_is_told(inference: Inference, store: FakeStore) -> None:
    store.model = replace(CAPABLE, config=ModelConfig(parser="x"))

    with pytest.raises(BadInput, match='unknown parser "x"'):
        await collect(inference.chat(CHAT))


async def test_tokens_of_dropped_messages_are_counted(
    inference: Inference, spawn: FakeSpawn
) -> None:
    turns = (Message("user", "old " * 50), Message("user", "new " * 50))
    request = replace(CHAT, messages=turns, options=Options(num_ctx=60))
    await collect(inference.chat(LOAD))
    spawn.runners[0].ending = {"num_truncated_tokens": 2}

    chunks = await collect(inference.chat(request))

    assert chunks[-1].timings.num_truncated_tokens == 51 + 2
