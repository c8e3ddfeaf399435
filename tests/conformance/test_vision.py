"""The official clients show images to models, and read what transformers reads from them.

The models are tiny random ones of real architectures, made from safetensors directories.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer

from tests.conformance.daemon import Daemon
from tests.tiny_vision import picture, save_tiny_vision_model

QUESTION = "what is it?"
SHOWN, OTHER = picture(40, 20, seed=1), picture(24, 36, seed=2)
NUM_PREDICT = 16
GREEDY = {"temperature": 0, "num_predict": NUM_PREDICT}


@dataclass(frozen=True)
class Seeing:
    """A model in the daemon's store, and the folder that it was made from."""

    daemon: Daemon
    name: str
    folder: Path

    def prompt(self, *parts: str | bytes) -> str:
        """What the model has to read of one turn of a user."""
        written = "".join(part if isinstance(part, str) else self._image(part) for part in parts)
        answer = "model" if self.name == "gemma3" else "assistant"
        return f"<turn>user\n{written}\n<turn>{answer}\n"

    def count(self, *parts: str | bytes) -> int:
        return len(self._tokenizer.encode(self.prompt(*parts)).ids)

    def reply(self, *parts: str | bytes) -> str:
        """What transformers answers."""
        tokens = torch.tensor([self._tokenizer.encode(self.prompt(*parts)).ids])
        pictures = [Image.open(io.BytesIO(part)) for part in parts if isinstance(part, bytes)]
        made = dict(self._processor(images=pictures, return_tensors="pt"))
        made = {name: made[name] for name in ("pixel_values", "image_grid_thw") if name in made}
        token, types = ("<image_soft_token>", "token_type_ids")
        if self.name != "gemma3":
            token, types = ("<|image_pad|>", "mm_token_type_ids")
        made[types] = torch.eq(tokens, self._tokenizer.token_to_id(token) or 0).int()
        kind = transformers.AutoModelForImageTextToText
        model = kind.from_pretrained(self.folder, dtype=torch.float32).eval()
        made["input_ids"] = tokens
        found = model.generate(**made, max_new_tokens=NUM_PREDICT, do_sample=False)
        return str(self._tokenizer.decode(found[0, tokens.shape[1] :].tolist()))

    def _image(self, data: bytes) -> str:
        if self.name == "gemma3":
            tokens = "<image_soft_token>" * 9
            return f"\n\n<start_of_image>{tokens}<end_of_image>\n\n"
        made = self._processor(images=[Image.open(io.BytesIO(data))], return_tensors="pt")
        num_tokens = int(made["image_grid_thw"][0].prod()) // 4
        return f"<|vision_start|>{'<|image_pad|>' * num_tokens}<|vision_end|>"

    @property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @property
    def _processor(self) -> Any:
        return transformers.AutoImageProcessor.from_pretrained(self.folder, backend="pil")


@pytest.fixture(scope="module")
def gemma3(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeing]:
    with made(daemon, "gemma3", tmp_path_factory.mktemp("gemma3")) as seeing:
        yield seeing


@pytest.fixture(scope="module")
def qwen2_5_vl(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeing]:
    with made(daemon, "qwen2_5_vl", tmp_path_factory.mktemp("qwen2_5_vl")) as seeing:
        yield seeing


@pytest.fixture(params=["gemma3", "qwen2_5_vl"])
def seeing(request: pytest.FixtureRequest) -> Seeing:
    """A model of each family."""
    found: Seeing = request.getfixturevalue(request.param)
    return found


@contextmanager
def made(daemon: Daemon, family: str, folder: Path) -> Iterator[Seeing]:
    save_tiny_vision_model(folder, family)
    create(daemon, family, folder)
    yield Seeing(daemon, family, folder)
    daemon.ask("DELETE", "/api/delete", {"model": family})


@pytest.fixture(scope="module")
def native(daemon: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(daemon.url) as client:
        yield client


@pytest.fixture(scope="module")
def oai(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0) as oai:
        yield oai


@pytest.fixture(scope="module")
def claude(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=daemon.url, api_key="any", max_retries=0) as claude:
        yield claude


def create(daemon: Daemon, name: str, folder: Path) -> None:
    modelfile = folder / "Modelfile"
    modelfile.write_text(f"FROM {folder}\nPARAMETER num_predict {NUM_PREDICT}\n")
    done = daemon.run("create", name, "-f", str(modelfile))
    assert done.returncode == 0, done.stderr


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def oai_parts(*parts: str | bytes) -> Any:
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in parts
    ]


def response_parts(*parts: str | bytes) -> Any:
    return [
        {"type": "input_text", "text": part}
        if isinstance(part, str)
        else {"type": "input_image", "image_url": data_url(part), "detail": "auto"}
        for part in parts
    ]


def claude_parts(*parts: str | bytes) -> Any:
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": "image/png",
                "data": base64.b64encode(part).decode(),
            },
        }
        for part in parts
    ]


def test_ollamas_client_shows_images_to_chat(native: ollama.Client, seeing: Seeing) -> None:
    message = {"role": "user", "content": QUESTION, "images": [SHOWN, OTHER]}

    whole = native.chat(seeing.name, [message], options=GREEDY)
    pieces = list(native.chat(seeing.name, [message], options=GREEDY, stream=True))

    assert whole.message.content == seeing.reply(SHOWN, OTHER, QUESTION)
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert whole.prompt_eval_count == seeing.count(SHOWN, OTHER, QUESTION)


def test_ollamas_client_shows_images_to_generate(native: ollama.Client, seeing: Seeing) -> None:
    image = base64.b64encode(SHOWN).decode()

    asked = native.generate(seeing.name, QUESTION, images=[image], options=GREEDY)
    raw = native.generate(seeing.name, "see [img-0] say", images=[image], raw=True, options=GREEDY)
    alone = native.generate(seeing.name, "", images=[image], options=GREEDY)

    assert asked.response == seeing.reply(SHOWN, QUESTION)
    assert asked.prompt_eval_count == seeing.count(SHOWN, QUESTION)
    assert asked.context is not None
    assert len(asked.context) < asked.prompt_eval_count + (asked.eval_count or 0)
    assert raw.prompt_eval_count == seeing.count("see ", SHOWN, " say") - seeing.count("")
    assert alone.response == seeing.reply(SHOWN)


async def test_asynchronous_clients_show_images(seeing: Seeing) -> None:
    message = {"role": "user", "content": QUESTION, "images": [SHOWN]}
    messages: Any = [{"role": "user", "content": oai_parts(SHOWN, QUESTION)}]

    async with ollama.AsyncClient(seeing.daemon.url) as native:
        told = await native.chat(seeing.name, [message], options=GREEDY)
    async with openai.AsyncOpenAI(base_url=f"{seeing.daemon.url}/v1", api_key="any") as oai:
        said = await oai.chat.completions.create(
            model=seeing.name, messages=messages, temperature=0, max_completion_tokens=NUM_PREDICT
        )

    assert told.message.content == said.choices[0].message.content
    assert told.message.content == seeing.reply(SHOWN, QUESTION)


def test_openais_client_shows_images_to_chat(oai: openai.OpenAI, seeing: Seeing) -> None:
    parts = ("first ", SHOWN, " then ", OTHER, " say")
    messages: Any = [{"role": "user", "content": oai_parts(*parts)}]
    asked: Any = {
        "model": seeing.name,
        "messages": messages,
        "temperature": 0,
        "max_completion_tokens": NUM_PREDICT,
    }

    whole = oai.chat.completions.create(**asked)
    stream = oai.chat.completions.create(**asked, stream=True)

    assert whole.choices[0].message.content == seeing.reply(*trimmed(seeing, parts))
    assert whole.usage.prompt_tokens == seeing.count(*trimmed(seeing, parts))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content


def trimmed(seeing: Seeing, parts: tuple[str | bytes, ...]) -> tuple[str | bytes, ...]:
    """The template of Gemma trims each text."""
    if seeing.name != "gemma3":
        return parts
    return tuple(part.strip() if isinstance(part, str) else part for part in parts)


def test_openais_client_shows_images_to_responses(oai: openai.OpenAI, seeing: Seeing) -> None:
    message: Any = {"role": "user", "content": response_parts(SHOWN, QUESTION)}
    asked: Any = {"model": seeing.name, "temperature": 0, "max_output_tokens": NUM_PREDICT}

    first = oai.responses.create(input=[message], **asked)
    second = oai.responses.create(input="and now?", previous_response_id=first.id, **asked)

    assert first.output_text == seeing.reply(SHOWN, QUESTION)
    assert first.usage is not None
    assert first.usage.input_tokens == seeing.count(SHOWN, QUESTION)
    assert second.usage is not None
    assert second.usage.input_tokens > seeing.count(SHOWN, QUESTION) + len("and now?")


def test_anthropics_client_shows_images(claude: anthropic.Anthropic, seeing: Seeing) -> None:
    parts = (QUESTION, SHOWN)
    messages: Any = [{"role": "user", "content": claude_parts(*parts)}]
    asked: Any = {
        "model": seeing.name,
        "max_tokens": NUM_PREDICT,
        "extra_body": {"temperature": 0},
    }

    whole = claude.messages.create(messages=messages, **asked)
    with claude.messages.stream(messages=messages, **asked) as stream:
        text = "".join(stream.text_stream)
    counted = claude.messages.count_tokens(model=seeing.name, messages=messages)

    assert whole.content[0].text == seeing.reply(*parts) == text
    used = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert used == counted.input_tokens == seeing.count(*parts)


CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}


def test_an_image_in_the_result_of_a_tool_is_shown(
    claude: anthropic.Anthropic, seeing: Seeing
) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": claude_parts("here", SHOWN)}
    messages: Any = [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
        },
        {"role": "user", "content": [result]},
    ]
    blank = json.loads(json.dumps(messages))
    blank[2]["content"][0]["content"].pop()

    counted, without = (
        claude.messages.count_tokens(model=seeing.name, messages=turns).input_tokens
        for turns in (messages, blank)
    )

    assert counted - without == seeing.count(SHOWN) - seeing.count("")


def test_only_the_same_image_is_found_in_the_cache(seeing: Seeing) -> None:
    def ask(image: bytes) -> Any:
        body = {**_in_ollamas(seeing, image), "options": GREEDY, "stream": False}
        return seeing.daemon.ask("POST", "/api/chat", body).json

    image, other = picture(40, 20, seed=11), picture(40, 20, seed=12)
    first, same, changed = ask(image), ask(image), ask(other)

    assert same["message"] == first["message"]
    assert same["prompt_cache_count"] > 16 > changed.get("prompt_cache_count", 0)


def test_old_images_go_with_their_messages(seeing: Seeing) -> None:
    """The window is what the model was trained for: 512 tokens, one for each byte."""
    old, new = (
        {"role": "user", "content": text, "images": [base64.b64encode(image).decode()]}
        for text, image in (("word " * 96, OTHER), (QUESTION, SHOWN))
    )

    reply = seeing.daemon.ask(
        "POST",
        "/api/chat",
        {
            "model": seeing.name,
            "messages": [old, new],
            "options": {**GREEDY, "num_ctx": 8},
            "stream": False,
        },
    ).json

    assert reply["message"]["content"] == seeing.reply(SHOWN, QUESTION)
    assert reply["prompt_truncated_count"] > 480


def test_a_prompt_with_images_that_does_not_fit_is_refused(seeing: Seeing) -> None:
    image = base64.b64encode(SHOWN).decode()
    message = {"role": "user", "content": "word " * 120, "images": [image]}

    answer = seeing.daemon.ask("POST", "/api/chat", {"model": seeing.name, "messages": [message]})

    assert answer.status == 400
    assert answer.error.startswith("the prompt is longer than the context length")
    assert answer.error.endswith("tokens in the prompt, 512 in the context)")


def _bomb() -> bytes:
    """400 gigapixels in some hundred bytes."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2**20, 400_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


NO_IMAGE = "images[0]: this is no image that can be read; send one of PNG, JPEG, WEBP, GIF, BMP"
BROKEN = {
    "no image": (b"no image", NO_IMAGE),
    "a bomb": (
        _bomb(),
        "images[0]: the image has 1048576 x 400000 pixels, more than 64000000; make it smaller",
    ),
    "nothing": (b"", "images[0]: the image is empty"),
}


def _in_ollamas(seeing: Seeing, image: bytes) -> dict[str, Any]:
    images = [base64.b64encode(image).decode()]
    return {"model": seeing.name, "messages": [{"role": "user", "images": images}]}


def _in_generate(seeing: Seeing, image: bytes) -> dict[str, Any]:
    return {"model": seeing.name, "prompt": "x", "images": [base64.b64encode(image).decode()]}


def _in_openais(seeing: Seeing, image: bytes) -> dict[str, Any]:
    return {"model": seeing.name, "messages": [{"role": "user", "content": oai_parts(image)}]}


def _in_responses(seeing: Seeing, image: bytes) -> dict[str, Any]:
    return {"model": seeing.name, "input": [{"role": "user", "content": response_parts(image)}]}


def _in_anthropics(seeing: Seeing, image: bytes) -> dict[str, Any]:
    turn = {"role": "user", "content": claude_parts(image)}
    return {"model": seeing.name, "max_tokens": 8, "messages": [turn]}


DIALECTS: dict[str, Callable[[Seeing, bytes], dict[str, Any]]] = {
    "/api/chat": _in_ollamas,
    "/api/generate": _in_generate,
    "/v1/chat/completions": _in_openais,
    "/v1/responses": _in_responses,
    "/v1/messages": _in_anthropics,
}


def error_of(path: str, body: Any) -> str:
    """The text of an error, out of the envelope of its dialect."""
    if path.startswith("/api"):
        return str(body["error"])
    if path == "/v1/messages":
        assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    else:
        assert body["error"]["type"] == "invalid_request_error"
    return str(body["error"]["message"])


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_image_is_refused_in_each_dialect(gemma3: Seeing, path: str, kind: str) -> None:
    data, text = BROKEN[kind]

    answer = gemma3.daemon.ask("POST", path, DIALECTS[path](gemma3, data))

    assert answer.status == 400
    assert error_of(path, answer.json) == text


NO_URL = "image URLs are not currently supported, please use base64 encoded data instead"
SENT = base64.b64encode(SHOWN).decode()


@pytest.mark.parametrize(
    ("path", "sent", "instead", "text"),
    [
        ("/api/chat", SENT, "?", "images[0]: illegal base64 data at input byte 0"),
        ("/api/generate", SENT, "?", "images[0]: illegal base64 data at input byte 0"),
        ("/v1/messages", SENT, "?", "invalid base64 image data: "),
        (
            "/v1/messages",
            '"type": "base64"',
            '"type": "url", "url": "https://127.0.0.1:9/a.png"',
            "invalid image source type: url. Only base64 images are supported.",
        ),
    ]
    + [
        (path, data_url(SHOWN), url, text)
        for path in ("/v1/chat/completions", "/v1/responses")
        for url, text in (
            ("https://127.0.0.1:9/a.png", NO_URL),
            ("http://127.0.0.1:9/a.png", NO_URL),
            ("data:image/png;base64,?", "invalid image input"),
            ("file:///etc/passwd", "invalid image input"),
        )
    ],
)
def test_what_is_not_sent_as_base64_is_refused(
    gemma3: Seeing, path: str, sent: str, instead: str, text: str
) -> None:
    body = json.dumps(DIALECTS[path](gemma3, SHOWN)).replace(sent, instead)

    answer = gemma3.daemon.ask("POST", path, body.encode())

    assert answer.status == 400
    assert error_of(path, answer.json).startswith(text)


@pytest.mark.parametrize("path", DIALECTS)
def test_more_images_than_a_request_may_have_are_refused(gemma3: Seeing, path: str) -> None:
    body = DIALECTS[path](gemma3, SHOWN)
    holder = body["messages"][0] if "messages" in body else body
    holder = body["input"][0] if "input" in body else holder
    key = "images" if "images" in holder else "content"
    holder[key] *= 101

    answer = gemma3.daemon.ask("POST", path, body)

    assert answer.status == 400
    assert error_of(path, answer.json) == "101 images are too many; a request may have 100"


def test_bad_images_cost_nobody_else(native: ollama.Client, gemma3: Seeing) -> None:
    before = gemma3.daemon.runner_pids()
    for data, _ in BROKEN.values():
        gemma3.daemon.ask("POST", "/api/chat", _in_ollamas(gemma3, data))

    reply = native.generate(gemma3.name, QUESTION, images=[SHOWN], options=GREEDY)

    assert reply.response == gemma3.reply(SHOWN, QUESTION)
    assert set(before) <= set(gemma3.daemon.runner_pids())


@pytest.mark.parametrize("path", DIALECTS)
def test_a_model_without_its_processor_does_not_see(
    gemma3: Seeing, tmp_path: Path, path: str
) -> None:
    for file in gemma3.folder.iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    create(gemma3.daemon, "blind", tmp_path)
    blind = Seeing(gemma3.daemon, "blind", tmp_path)

    answer = gemma3.daemon.ask("POST", path, DIALECTS[path](blind, SHOWN))
    gemma3.daemon.ask("DELETE", "/api/delete", {"model": "blind"})

    text = "registry.ollama.ai/library/blind:latest does not support vision"
    assert (answer.status, error_of(path, answer.json)) == (400, text)


def test_the_commands_show_that_it_sees_and_show_it_images(
    native: ollama.Client, seeing: Seeing, tmp_path: Path
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(SHOWN)

    shown = seeing.daemon.run("show", seeing.name)
    done = seeing.daemon.run("run", seeing.name, f"what is in {image}?", "--verbose")

    assert native.show(seeing.name).capabilities == ["completion", "vision"]
    assert "vision" in shown.stdout
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, f"Added image '{image}'")
    num_tokens = seeing.count(SHOWN, "what is in ?")
    assert f"prompt eval count:    {num_tokens} token(s)" in done.stderr
