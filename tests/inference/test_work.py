"""What a request comes to on its model: checks, messages, options."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from olla.errors import BadInput, CapabilityMissing, OllaError
from olla.inference.prompt import Prompt
from olla.inference.work import Work, chat_work, generate_work, to_runner
from olla.messages import Message, Tool
from olla.names import ModelName
from olla.options import Options, SamplingParams
from olla.parsers.base import Verbatim
from olla.parsers.choose import Choice
from olla.registry.model import Capability, Model
from olla.requests import ChatRequest, GenerateRequest
from olla.runner.devices import may_have_gpu
from olla.runner.protocol import Adapter, Generate, Schema
from tests.inference.conftest import SETTINGS, FakeModel

HI = (Message("user", "Hi"),)
TOOL = Tool("f")
EMBEDDER = FakeModel(capabilities=(Capability.EMBEDDING,))
THINKER = FakeModel(capabilities=(Capability.COMPLETION, Capability.THINKING))
CALLER = FakeModel(capabilities=(Capability.COMPLETION, Capability.TOOLS))
SEER = FakeModel(
    capabilities=(Capability.COMPLETION, Capability.VISION, Capability.INSERT),
    files={"config.json": Path("/blobs/c"), "model.safetensors": Path("/blobs/w")},
)
BLIND = FakeModel(capabilities=(Capability.COMPLETION, Capability.INSERT))
SEEN = Message("user", "Hi", images=(b"x", b"y"))
FULL = "registry.ollama.ai/library/m:latest"


def _chat(model: FakeModel, **fields: Any) -> Work:
    request = ChatRequest(model="M", **({"messages": HI} | fields))
    return chat_work(cast(Model, model), request, SETTINGS)


def _generate(model: FakeModel, **fields: Any) -> Work:
    request = GenerateRequest(model="M", **({"prompt": "Hi"} | fields))
    return generate_work(cast(Model, model), request, SETTINGS)


def _sent(work: Work) -> Generate:
    return to_runner(work, Prompt("p"), add_special_tokens=False)


def _texts(work: Work) -> list[str]:
    return [f"{message.role}:{message.content}" for message in work.messages]


@pytest.mark.parametrize(
    ("model", "fields", "text"),
    [
        (EMBEDDER, {}, '"M" does not support chat'),
        (FakeModel(), {"think": True}, '"M" does not support thinking'),
        (FakeModel(), {"think": "low"}, '"M" does not support thinking'),
        (EMBEDDER, {"think": True}, '"M" does not support thinking'),
        (FakeModel(), {"tools": (TOOL,)}, f"{FULL} does not support tools"),
        (BLIND, {"messages": (SEEN,)}, f"{FULL} does not support vision"),
    ],
)
def test_a_chat_the_model_cannot_hold_is_refused(
    model: FakeModel, fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(CapabilityMissing) as caught:
        _chat(model, **fields)

    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("model", "fields", "error", "text"),
    [
        (EMBEDDER, {}, CapabilityMissing, '"M" does not support generate'),
        (FakeModel(), {"think": True}, CapabilityMissing, '"M" does not support thinking'),
        (FakeModel(), {"suffix": "x"}, CapabilityMissing, f"{FULL} does not support insert"),
        (BLIND, {"images": (b"x",)}, CapabilityMissing, f"{FULL} does not support vision"),
    ]
    + [
        (
            EMBEDDER,
            {"raw": True, "think": True} | field,
            BadInput,
            "raw mode does not support template, system, or context",
        )
        for field in ({"template": "x"}, {"system": "x"}, {"context": (1,)})
    ],
)
def test_a_prompt_the_model_cannot_take_is_refused(
    model: FakeModel, fields: dict[str, Any], error: type[OllaError], text: str
) -> None:
    with pytest.raises(error) as caught:
        _generate(model, **fields)

    assert str(caught.value) == text


def test_images_reach_a_model_that_sees() -> None:
    said = _chat(SEER, messages=(SEEN,))
    asked = _generate(SEER, images=SEEN.images)
    raw = _generate(SEER, images=SEEN.images, raw=True)

    assert said.messages == (SEEN,)
    assert asked.messages == (SEEN,)
    assert (raw.messages, raw.raw_images) == ((), SEEN.images)
    assert to_runner(raw, Prompt("p", (b"x",)), add_special_tokens=True).images == [b"x"]


@pytest.mark.parametrize(
    ("asked", "trained", "num_ctx"),
    [(None, 8192, 4096), (100, 8192, 2048), (3000, 8192, 3000), (100, 512, 512), (1, 0, 2048)],
)
def test_a_model_that_sees_has_a_window_for_an_image(
    asked: int | None, trained: int, num_ctx: int
) -> None:
    model = replace(SEER, context_length=trained)

    for work in (
        _chat(model, options=Options(num_ctx=asked)),
        _generate(model, options=Options(num_ctx=asked)),
    ):
        assert work.num_ctx == num_ctx


def test_weights_that_cannot_be_read_are_left_to_the_load() -> None:
    assert not _chat(FakeModel(capabilities=(), architecture="")).is_load


@pytest.mark.parametrize(
    ("model", "asked", "told"),
    [
        (FakeModel(), None, None),
        (FakeModel(), False, False),
        (THINKER, None, True),
        (THINKER, False, False),
        (THINKER, "high", "high"),
    ],
)
def test_a_model_that_can_think_does_unless_told_not_to(
    model: FakeModel, asked: bool | str | None, told: bool | str | None
) -> None:
    assert _chat(model, think=asked).think == told


def test_thinking_may_be_only_a_wish() -> None:
    assert _chat(FakeModel(), think="low", think_if_able=True).think is None
    assert _chat(THINKER, think="low", think_if_able=True).think == "low"


def test_tools_reach_a_model_that_can_call_them() -> None:
    assert _chat(CALLER, tools=(TOOL,)).tools == (TOOL,)


OWN = FakeModel(system="S", messages=(Message("user", "q"), Message("assistant", "a")))


@pytest.mark.parametrize(
    ("model", "messages", "texts"),
    [
        (FakeModel(), HI, ["user:Hi"]),
        (OWN, HI, ["system:S", "user:q", "assistant:a", "user:Hi"]),
        (
            OWN,
            (Message("system", "T"), *HI),
            ["user:q", "assistant:a", "system:T", "user:Hi"],
        ),
        (
            OWN,
            (*HI, Message("system", "T")),
            ["system:S", "user:q", "assistant:a", "user:Hi", "system:T"],
        ),
    ],
)
def test_a_chat_has_the_models_messages_before_its_own(
    model: FakeModel, messages: tuple[Message, ...], texts: list[str]
) -> None:
    assert _texts(_chat(model, messages=messages)) == texts


@pytest.mark.parametrize(
    ("model", "fields", "texts"),
    [
        (FakeModel(), {}, ["user:Hi"]),
        (OWN, {}, ["system:S", "user:q", "assistant:a", "user:Hi"]),
        (OWN, {"system": "T"}, ["system:T", "user:q", "assistant:a", "user:Hi"]),
        (OWN, {"context": (1, 2)}, ["system:S", "user:Hi"]),
        (OWN, {"raw": True}, []),
    ],
)
def test_a_prompt_becomes_the_turn_of_a_user(
    model: FakeModel, fields: dict[str, Any], texts: list[str]
) -> None:
    assert _texts(_generate(model, **fields)) == texts


@pytest.mark.parametrize("work", [_chat(OWN, messages=()), _generate(OWN, prompt="")])
def test_without_a_prompt_there_is_only_the_model_to_load(work: Work) -> None:
    assert work.is_load


def test_a_raw_prompt_is_used_as_it_is() -> None:
    work = _generate(OWN, raw=True)

    assert (work.raw, work.is_load, work.wants_context) == ("Hi", False, False)


@pytest.mark.parametrize(
    ("asked", "setting", "trained", "num_ctx"),
    [
        (None, 0, 8192, 4096),
        (None, 1000, 8192, 1000),
        (500, 1000, 8192, 500),
        (9000, 0, 8192, 8192),
        (None, 0, 2048, 2048),
        (9000, 0, 0, 9000),
        (1, 0, 8192, 4),
        (-5, 0, 8192, 4),
    ],
)
def test_the_window_is_what_was_asked_for_within_what_was_trained(
    asked: int | None, setting: int, trained: int, num_ctx: int
) -> None:
    request = ChatRequest(model="m", messages=HI, options=Options(num_ctx=asked))
    settings = replace(SETTINGS, context_length=setting)

    work = chat_work(cast(Model, FakeModel(context_length=trained)), request, settings)

    assert work.num_ctx == num_ctx
    assert work.runnable.context_length == num_ctx


@pytest.mark.parametrize(("asked", "is_told"), [(9000, True), (100, False), (None, False)])
def test_a_window_that_is_cut_to_the_trained_length_is_told(
    asked: int | None, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    _chat(FakeModel(context_length=2048), options=Options(num_ctx=asked))

    assert ("num_ctx=9000 trained=2048" in caplog.text) is is_told


def test_how_a_model_is_to_be_loaded_goes_to_the_pool() -> None:
    options = Options(quantize="int8", num_gpu=-5, main_gpu=1, num_thread=3)

    asked = _chat(FakeModel(), options=options).runnable
    unsaid = _chat(FakeModel()).runnable

    main_gpu = 1 if may_have_gpu() else 0  # else one runner does for all
    assert (asked.quantize, asked.num_gpu, asked.main_gpu) == ("int8", -1, main_gpu)
    assert (asked.num_threads, unsaid.num_threads) == (3, 0)
    assert (unsaid.quantize, unsaid.num_gpu, unsaid.main_gpu) == ("", -1, 0)


@pytest.mark.parametrize(
    ("asked", "sent"), [(None, 1000), (-1, 1000), (-2, 1000), (0, 0), (7, 7), (5000, 1000)]
)
def test_a_reply_is_at_most_ten_windows_long(asked: int | None, sent: int) -> None:
    work = _chat(FakeModel(), options=Options(num_ctx=100, num_predict=asked))

    assert _sent(work).num_predict == sent


def test_the_requests_options_win_over_the_models() -> None:
    model = FakeModel(options=Options(temperature=0.1, top_k=3, stop=("a", "b")))

    sent = _sent(_chat(model, options=Options(temperature=0.7, num_keep=-1)))

    assert sent.sampling == SamplingParams(temperature=0.7, top_k=3)
    assert sent.stop == ["a", "b"]
    assert sent.num_keep == -1


@pytest.mark.parametrize(
    ("architecture", "asked", "sent"),
    [
        ("llama", None, True),
        ("llama", False, False),
        ("deepseek2", None, False),
        ("deepseek2", True, True),
    ],
)
def test_the_window_shifts_unless_the_model_cannot(
    architecture: str, asked: bool | None, sent: bool
) -> None:
    assert _sent(_chat(FakeModel(architecture=architecture), shift=asked)).shift is sent


def test_adapters_and_truncation_travel_with_the_request() -> None:
    adapter = {"adapter_model.safetensors": Path("/blobs/x")}

    sent = _sent(_chat(FakeModel(adapters=(adapter,), adapter_scales=(0.5,)), truncate=False))

    assert sent.adapters == [Adapter({"adapter_model.safetensors": "/blobs/x"}, 0.5)]
    assert not sent.truncate
    assert not _sent(_chat(FakeModel(), keeps_messages_whole=True)).truncate


def test_a_context_takes_its_room_from_the_prompt() -> None:
    work = _generate(FakeModel(), context=(1, 2, 3), options=Options(num_ctx=10))

    assert work.room == 7
    assert _sent(work).context == [1, 2, 3]
    assert _sent(work).want_context


def test_the_prompt_comes_back_when_asked_for() -> None:
    assert not _sent(_generate(FakeModel())).echo
    assert _sent(_generate(FakeModel(), raw=True, echo=True)).echo


def test_what_sampling_and_the_reply_need_is_passed_on() -> None:
    choice = Choice(Verbatim(), special_tokens=("[TOOL_CALLS]",))
    work = _chat(FakeModel(), logprobs=True, top_logprobs=3, logit_bias={7: -1.5}, format={"é": {}})

    sent = to_runner(work, Prompt("p"), choice, add_special_tokens=False)

    assert (sent.logprobs, sent.top_logprobs, sent.logit_bias) == (True, 3, {7: -1.5})
    assert sent.grammar is not None
    assert sent.grammar.schemas == (Schema("the format", '{"\\u00e9": {}}'),)
    assert sent.shown_tokens == ["[TOOL_CALLS]"]
    assert _sent(_chat(FakeModel())).grammar is None


@pytest.mark.parametrize(
    ("model", "is_kept"),
    [
        (FakeModel(), True),
        (FakeModel(architecture="qwen3moe"), False),
        (FakeModel(name=ModelName.parse("deepseek-r1:7b")), False),
    ],
)
def test_some_families_do_not_read_what_they_thought_before(
    model: FakeModel, is_kept: bool
) -> None:
    old, new = (
        Message("assistant", "<think>a</think>\n\nb"),
        Message("assistant", "<think>c</think>d"),
    )

    texts = _texts(_chat(model, messages=(old, *HI, new)))

    assert texts == [
        "assistant:" + (old.content if is_kept else "b"),
        "user:Hi",
        f"assistant:{new.content}",
    ]


def test_only_thinking_at_the_start_and_with_an_end_is_left_out() -> None:
    contents = ("say <think>a</think>", "<think>a", "b</think>c", "d")
    turns = tuple(Message("assistant", content) for content in contents)

    texts = _texts(_chat(FakeModel(architecture="qwen3"), messages=(*turns, *HI)))

    assert texts == [*(f"assistant:{content}" for content in contents), "user:Hi"]


def test_a_suffix_has_only_the_prompt_beside_it() -> None:
    model = replace(OWN, capabilities=(Capability.COMPLETION, Capability.INSERT))

    work = _generate(model, suffix="end", system="S")

    assert (_texts(work), work.suffix) == (["user:Hi"], "end")


def test_a_raw_prompt_has_no_suffix() -> None:
    assert _generate(SEER, suffix="end", raw=True).suffix == ""
