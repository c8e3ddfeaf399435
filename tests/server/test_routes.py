"""Routing, errors of routing, and what the daemon says about itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import make_mocked_request

from olla import __version__
from olla.server.app import create_app
from olla.server.handlers import about
from olla.server.services import Services
from olla.server.streaming import MAX_BODY_BYTES
from olla.settings import Settings
from tests.server.conftest import Client, error_of, open_connection, openai_error_of

TOO_LARGE = "request body is larger than 256 MiB"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_heartbeat(client: Client, method: str) -> None:
    response = await client.request(method, "/")

    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert await response.text() == ("Ollama is running" if method == "GET" else "")


async def test_version_and_status(client: Client) -> None:
    version = await client.get("/api/version")
    status = await client.get("/api/status")

    assert await version.json() == {"version": "0.33.0", "olla": __version__}
    assert await status.json() == {"cloud": {"disabled": True, "source": "config"}}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/me", (401, "unauthorized")),
        (
            "/api/experimental/web_search",
            (403, "ollama cloud is disabled: web search is unavailable"),
        ),
        (
            "/api/experimental/web_fetch",
            (403, "ollama cloud is disabled: web fetch is unavailable"),
        ),
    ],
)
async def test_what_only_the_cloud_answers(
    client: Client, path: str, expected: tuple[int, str]
) -> None:
    assert await error_of(await client.post(path, json={})) == expected


@pytest.mark.parametrize(
    "path", ["/nothing", "/nothing/", "/api/embedded", "/v1nothing", "/nothing//"]
)
async def test_an_unknown_path(client: Client, path: str) -> None:
    response = await client.get(path)

    assert response.status == 404
    assert response.content_type == "text/plain"
    assert await response.text() == "404 page not found"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/show"), ("POST", "/api/tags"), ("HEAD", "/api/ps"), ("OPTIONS", "/api/chat")],
)
async def test_a_method_that_a_path_does_not_have(client: Client, method: str, path: str) -> None:
    response = await client.request(method, path)

    assert response.status == 405
    assert response.content_type == "text/plain"
    assert response.headers["Allow"]
    if method != "HEAD":
        assert await response.text() == "405 method not allowed"


async def test_an_unknown_path_of_openais(client: Client) -> None:
    answer = await openai_error_of(await client.get("/v1/nothing"))

    assert answer == (404, "not_found_error", "404 page not found")


async def test_an_unknown_path_of_anthropics(client: Client) -> None:
    response = await client.get("/v1/messages/nothing")

    body = await response.json()
    assert response.status == 404
    assert body["error"] == {"type": "not_found_error", "message": "404 page not found"}


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("GET", "/api/tags/?a=b", 301, "/api/tags?a=b"),
        ("POST", "/api/chat/", 307, "/api/chat"),
        ("HEAD", "/api/tags/", 307, "/api/tags"),
    ],
)
async def test_a_slash_at_the_end_is_redirected(
    client: Client, method: str, path: str, status: int, location: str
) -> None:
    response = await client.request(method, path, allow_redirects=False)

    assert (response.status, response.headers["Location"]) == (status, location)


async def test_a_slash_behind_a_route_of_another_method_is_not(client: Client) -> None:
    response = await client.get("/api/chat/", allow_redirects=False)

    assert response.status == 404


async def test_a_path_that_looks_like_a_host_is_not_redirected_to(client: Client) -> None:
    reader, writer = await open_connection(client)
    writer.write(b"GET //example.com/ HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert b" 404 " in await reader.readline()
    writer.close()


async def test_a_body_that_will_be_too_large_is_refused_at_once(client: Client) -> None:
    reader, writer = await open_connection(client)
    head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
    writer.write(f"{head}Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())

    assert b" 413 " in await reader.readline()
    assert TOO_LARGE.encode() in await reader.readuntil(b"}")
    writer.close()


async def test_a_body_that_turns_out_too_large_is_refused(client: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 2**22 + 1):
            yield bytes(2**22)

    response = await client.post("/api/chat", data=endless())

    assert await error_of(response) == (413, TOO_LARGE)


async def test_a_chunked_body_that_breaks_off_is_bad_input(client: Client) -> None:
    reader, writer = await open_connection(client)
    head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(f"{head}zz\r\n".encode())

    assert b" 400 " in await reader.readline()
    writer.close()


async def test_shutdown_stops_the_daemon(client: Client, services: Services) -> None:
    response = await client.post("/api/shutdown")

    assert (response.status, await response.json()) == (200, {})
    assert services.stopping.is_set()


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("192.0.2.7", 403),
        ("::ffff:192.0.2.7", 403),
        ("", 403),
    ],
)
async def test_only_this_machine_may_shut_down(
    settings: Settings, services: Services, peer: str, status: int
) -> None:
    app = create_app(settings, services)
    request = make_mocked_request("POST", "/api/shutdown", app=app).clone(remote=peer)

    response = await about.shutdown(request)

    assert response.status == status
    assert services.stopping.is_set() is (status == 200)
