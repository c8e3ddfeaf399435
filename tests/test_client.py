"""The client against real HTTP: values out of JSON, errors, broken connections, uploads."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from olla.address import Address
from olla.client import Client
from olla.client.replies import ReplySettings, Tensor
from olla.errors import ApiError, ClientError, ServerUnreachable
from olla.messages import Message, ToolCall
from olla.requests import ChatChunk, CreateRequest, DoneReason, Progress, Timings, TransferOptions
from tests.cli.fake_daemon import (
    SHOW,
    FakeDaemon,
    Reply,
    chatted,
    failed,
    generated,
    running_daemon,
)

UNREACHABLE = "could not connect to olla server, run 'olla serve' to start it"


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(Address.parse(daemon.address))


@pytest.fixture
def nobody() -> Client:
    """A client of an address where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    return Client(Address(port=port))


def test_a_daemon_that_answers_is_reachable(client: Client) -> None:
    assert client.is_reachable()


def test_an_address_where_nothing_listens_is_not_reachable(nobody: Client) -> None:
    assert not nobody.is_reachable()


def test_a_daemon_that_refuses_the_heartbeat_is_an_error(
    daemon: FakeDaemon, client: Client
) -> None:
    daemon.script("HEAD /", Reply(status=403))

    with pytest.raises(ApiError, match="Forbidden"):
        client.is_reachable()


def test_a_call_says_when_nothing_listens(nobody: Client) -> None:
    with pytest.raises(ServerUnreachable, match=UNREACHABLE):
        nobody.list()


def test_an_address_with_a_path_is_asked_below_it(daemon: FakeDaemon) -> None:
    daemon.script("GET /olla/api/tags", Reply([{"models": []}]))

    assert Client(Address.parse(f"{daemon.address}/olla/")).list() == ()


def test_versions(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("GET /api/version", Reply([{"version": "0.33.0", "olla": "0.1.0"}]))

    versions = client.versions()

    assert (versions.api, versions.olla) == ("0.33.0", "0.1.0")


def test_list_reads_names_sizes_and_times(client: Client) -> None:
    (model,) = client.list()

    assert (model.name, model.digest, model.size_bytes) == ("smollm2:135m", "a" * 64, 98_000_000)
    assert model.modified_at == datetime(
        2020, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2))
    )
    assert not model.is_remote


def test_running_reads_memory_and_expiry(daemon: FakeDaemon, client: Client) -> None:
    entry = {
        "name": "m:latest",
        "digest": "b" * 64,
        "size": 100,
        "size_vram": 40,
        "context_length": 4096,
        "expires_at": "2318-01-01T00:00:00.5Z",
    }
    daemon.script("GET /api/ps", Reply([{"models": [entry]}]))

    (model,) = client.running()

    assert (model.vram_bytes, model.context_length) == (40, 4096)
    assert model.expires_at == datetime(2318, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)


def test_show_reads_everything_the_daemon_tells(daemon: FakeDaemon, client: Client) -> None:
    more = {
        "messages": [{"role": "user", "content": "hi"}],
        "tensors": [{"name": "t", "type": "F16", "shape": [2, 3]}],
        "requires": "0.1.0",
    }
    daemon.script("POST /api/show", Reply([{**SHOW, **more}]))

    shown = client.show("m", verbose=True)

    assert daemon.requests[-1].json == {"model": "m", "verbose": True}
    assert (shown.system, shown.requires, shown.quantization) == ("Be brief.", "0.1.0", "Q4_1")
    assert shown.messages == (Message("user", "hi"),)
    assert shown.tensors == (Tensor("t", "F16", (2, 3)),)
    assert shown.capabilities == ("completion",)


def test_a_plain_call_raises_the_bare_error(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/show", failed(404, "model 'x:latest' not found"))

    with pytest.raises(ApiError) as caught:
        client.show("x")

    assert str(caught.value) == "model 'x:latest' not found"
    assert caught.value.status == 404


def test_a_web_page_in_place_of_an_error_is_told_in_a_line(
    daemon: FakeDaemon, client: Client
) -> None:
    page = b"<!DOCTYPE HTML>\n<html><body>Not here.</body></html>\n"
    daemon.script("GET /api/tags", Reply(raw=page, status=404))

    with pytest.raises(ApiError, match=r"^a web page came back: the server at this address"):
        client.list()


def test_an_error_that_is_not_json_is_shown_as_it_is(client: Client) -> None:
    with pytest.raises(ApiError, match="404 page not found"):
        client.running()


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"<html>", "a reply that is not JSON"), (b"[1]", "a reply that is not a JSON object")],
)
def test_a_reply_that_cannot_be_read_is_an_error(
    daemon: FakeDaemon, client: Client, raw: bytes, text: str
) -> None:
    daemon.script("GET /api/tags", Reply(raw=raw))

    with pytest.raises(ClientError, match=text):
        client.list()


def test_copy_and_delete_send_names(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/copy", Reply())
    daemon.script("DELETE /api/delete", Reply())

    client.copy("a", "b")
    client.delete("b")

    assert [request.json for request in daemon.requests] == [
        {"source": "a", "destination": "b"},
        {"model": "b"},
    ]


def test_generate_yields_chunks_up_to_the_last(daemon: FakeDaemon, client: Client) -> None:
    daemon.script(
        "POST /api/generate",
        generated("Hi", total_duration=7, load_duration=1, eval_count=2, eval_duration=3),
    )

    chunks = list(client.generate(ReplySettings("m"), "hello"))

    assert daemon.requests[-1].json == {"model": "m", "prompt": "hello"}
    assert chunks == [
        ChatChunk("Hi"),
        ChatChunk(
            done_reason=DoneReason.STOP,
            timings=Timings(total_ns=7, load_ns=1, num_tokens=2, generation_ns=3),
        ),
    ]


def test_what_is_set_travels_with_the_request(daemon: FakeDaemon, client: Client) -> None:
    settings = ReplySettings("m", options={"seed": 1}, format="json", think=False, keep_alive="5m")

    list(client.generate(settings, "hello"))

    assert daemon.requests[-1].json == {
        "model": "m",
        "prompt": "hello",
        "options": {"seed": 1},
        "format": "json",
        "think": False,
        "keep_alive": "5m",
    }


def test_chat_sends_the_conversation(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/chat", chatted("Hi"))

    chunks = list(client.chat(ReplySettings("m"), (Message("user", "hello"),)))

    assert chunks[0] == ChatChunk("Hi")
    assert daemon.requests[-1].json["messages"] == [{"role": "user", "content": "hello"}]


def test_thinking_and_tool_calls_are_read(daemon: FakeDaemon, client: Client) -> None:
    call = {"function": {"index": 0, "name": "f", "arguments": {"x": 1}}}
    message = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}
    daemon.script("POST /api/chat", Reply([{"message": message, "done": True}]))

    (chunk,) = client.chat(ReplySettings("m"), ())

    assert chunk.thinking == "hm"
    assert chunk.tool_calls == (ToolCall("f", {"x": 1}),)


def test_an_error_before_a_stream_carries_its_status(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/generate", failed(404, "model 'x' not found"))

    with pytest.raises(ApiError) as caught:
        list(client.generate(ReplySettings("x"), "hello"))

    assert str(caught.value) == "404 Not Found: model 'x' not found"
    assert caught.value.status == 404


def test_an_error_inside_a_stream_is_bare(daemon: FakeDaemon, client: Client) -> None:
    daemon.script(
        "POST /api/pull",
        Reply([{"status": "pulling manifest"}, {"error": "pull model manifest: broken"}]),
    )
    seen = []

    with pytest.raises(ApiError) as caught:
        for progress in client.pull("x"):
            seen.append(progress)

    assert seen == [Progress("pulling manifest")]
    assert (str(caught.value), caught.value.status) == ("pull model manifest: broken", 200)


def test_a_reply_without_an_end_is_an_error(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/generate", Reply([{"response": "Hi", "done": False}]))

    with pytest.raises(ClientError, match="ended the reply early"):
        list(client.generate(ReplySettings("m"), "hello"))


def test_a_stream_that_breaks_off_is_an_error(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/generate", Reply([{"response": "Hi"}], breaks_off=True))

    with pytest.raises(ClientError, match="ended the reply early"):
        list(client.generate(ReplySettings("m"), "hello"))


def test_a_server_that_hangs_up_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        client = Client(Address(port=server.getsockname()[1]))

        with pytest.raises(ClientError, match="lost the connection to the olla server: "):
            client.list()
        thread.join()


def test_leaving_a_stream_closes_the_connection(daemon: FakeDaemon, client: Client) -> None:
    gone = threading.Event()
    words = [{"response": "x" * 1000, "done": False}] * 10_000
    daemon.script(
        "POST /api/generate",
        Reply(words, before_line=lambda index: None if index < 1 else _wait(gone)),
    )
    chunks = client.generate(ReplySettings("m"), "hello")
    next(chunks)

    chunks.close()
    gone.set()

    assert daemon.client_left.wait(timeout=10)


def _wait(event: threading.Event) -> None:
    assert event.wait(timeout=10)


def test_load_sends_no_prompt(daemon: FakeDaemon, client: Client) -> None:
    client.load(ReplySettings("m", keep_alive="1h"))

    assert daemon.requests[-1].json == {"model": "m", "keep_alive": "1h"}


def test_unload_sends_a_keep_alive_of_zero(daemon: FakeDaemon, client: Client) -> None:
    client.unload("m")

    assert daemon.requests[-1].json == {"model": "m", "keep_alive": 0}


def test_pull_yields_progress(daemon: FakeDaemon, client: Client) -> None:
    layer = {"status": "pulling abc", "digest": "sha256:abc", "total": 10, "completed": 4}
    daemon.script("POST /api/pull", Reply([layer, {"status": "success"}]))

    reports = list(client.pull("m", TransferOptions(insecure=True)))

    assert reports == [Progress("pulling abc", "sha256:abc", 10, 4), Progress("success")]
    assert daemon.requests[-1].json == {"model": "m", "insecure": True}


def test_push_yields_progress(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/push", Reply([{"status": "success"}]))

    assert list(client.push("m", TransferOptions(limit_rate=7))) == [Progress("success")]
    assert daemon.requests[-1].json == {"model": "m", "limit_rate": 7}


def test_a_transfer_that_ends_without_success_is_an_error(
    daemon: FakeDaemon, client: Client
) -> None:
    daemon.script("POST /api/pull", Reply([{"status": "pulling manifest"}]))

    with pytest.raises(ClientError, match="ended the transfer early"):
        list(client.pull("m"))


def test_create_sends_only_what_is_given(daemon: FakeDaemon, client: Client) -> None:
    daemon.script("POST /api/create", Reply([{"status": "success"}]))
    request = CreateRequest(
        "m",
        base="b",
        adapters={"adapter_config.json": "sha256:1"},
        licenses=("MIT",),
        parameters={"stop": ["x"]},
        messages=(Message("user", "hi"),),
    )

    list(client.create(request))

    assert daemon.requests[-1].json == {
        "model": "m",
        "from": "b",
        "adapters": {"adapter_config.json": "sha256:1"},
        "license": ["MIT"],
        "parameters": {"stop": ["x"]},
        "messages": [{"role": "user", "content": "hi"}],
    }


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 10_000)
    return path, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_blob_is_uploaded_with_progress(
    daemon: FakeDaemon, client: Client, weights: tuple[Path, str]
) -> None:
    path, digest = weights
    daemon.script(f"POST /api/blobs/{digest}", Reply(status=201))
    reports: list[int] = []

    client.upload_blob(digest, path, reports.append)

    assert daemon.requests[-1].body == path.read_bytes()
    assert reports == [1 << 20, 2 << 20, 2_560_000]


def test_a_blob_that_the_daemon_has_is_not_uploaded(
    daemon: FakeDaemon, client: Client, weights: tuple[Path, str]
) -> None:
    path, digest = weights
    daemon.script(f"HEAD /api/blobs/{digest}", Reply())

    client.upload_blob(digest, path, lambda _sent: None)

    assert [request.method for request in daemon.requests] == ["HEAD"]


def test_a_refused_blob_is_an_error(
    daemon: FakeDaemon, client: Client, weights: tuple[Path, str]
) -> None:
    path, digest = weights
    daemon.script(f"POST /api/blobs/{digest}", failed(400, "digest mismatch"))

    with pytest.raises(ApiError, match=r"^digest mismatch$"):
        client.upload_blob(digest, path, lambda _sent: None)


def test_a_file_that_shrinks_while_it_is_uploaded_is_an_error(
    daemon: FakeDaemon, client: Client, weights: tuple[Path, str]
) -> None:
    path, digest = weights
    daemon.script(f"POST /api/blobs/{digest}", Reply(status=201))

    def shrink(_sent: int) -> None:
        with path.open("r+b") as file:
            file.truncate(0)

    with pytest.raises(ClientError, match="became shorter while it was uploaded"):
        client.upload_blob(digest, path, shrink)
