"""Which hosts and pages get in (spec/api.md section 1.1)."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from olla.address import Address
from olla.requests import ChatChunk, DoneReason
from olla.server.app import create_app
from olla.server.services import Services
from olla.settings import Settings
from tests.server.conftest import Client, FakeInference, StartClient

DONE = ChatChunk(done_reason=DoneReason.STOP)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:11434",
        socket.gethostname(),
        "my.localhost",
        "box.local:80",
        "api.internal",
        "127.0.0.1:11434",
        "127.9.9.9",
        "0.0.0.0",
        "192.168.1.2",
        "10.0.0.1:80",
        "[::1]:11434",
        "[::]",
        "",
    ],
)
async def test_hosts_of_this_machine_get_in(client: Client, host: str) -> None:
    assert (await client.get("/api/version", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    ["example.com", "example.com:11434", "localhost.example.com", "8.8.8.8", "[2001:4860::1]"],
)
async def test_other_hosts_do_not(client: Client, host: str) -> None:
    response = await client.get("/api/version", headers={"Host": host})

    assert (response.status, await response.read()) == (403, b"")


@pytest.mark.parametrize(
    ("host", "allowed", "status"),
    [
        ("8.8.8.8", (), 200),
        ("localhost:80", (), 200),
        ("chat.example.com", (), 403),
        ("Chat.Example.com:443", ("chat.example.com",), 200),
        ("other.example.com", ("chat.example.com",), 403),
        ("example.com", ("*",), 200),
    ],
)
async def test_on_the_network_addresses_get_in_and_names_that_are_allowed(
    aiohttp_client: StartClient,
    settings: Settings,
    services: Services,
    host: str,
    allowed: tuple[str, ...],
    status: int,
) -> None:
    on_network = replace(settings, address=Address(host="0.0.0.0"), allowed_hosts=allowed)
    client = await aiohttp_client(create_app(on_network, services))

    assert (await client.get("/", headers={"Host": host})).status == status


@pytest.mark.parametrize(("host", "status"), [("localhost", 204), ("127.0.0.1", 405)])
async def test_options_without_an_origin(client: Client, host: str, status: int) -> None:
    response = await client.options("/api/version", headers={"Host": host})

    assert response.status == status


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:8080",
        "https://0.0.0.0",
        "app://obsidian.md",
        "file://x",
        "tauri://localhost",
        "vscode-webview://abc",
        "vscode-file://vscode-app",
        "chrome-extension://abc",
        "safari-extension://abc",
        "moz-extension://abc",
        "ms-browser-extension://abc",
    ],
)
async def test_local_pages_get_in_and_are_named(client: Client, origin: str) -> None:
    response = await client.get("/api/version", headers={"Origin": origin})

    assert response.status == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert response.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize(
    "origin", ["http://example.com", "https://localhost.example.com", "null", "http://localhostx"]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_other_pages_do_not(client: Client, origin: str, method: str) -> None:
    response = await client.request(method, "/api/version", headers={"Origin": origin})

    assert (response.status, await response.read()) == (403, b"")
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_preflight_says_what_is_allowed(client: Client) -> None:
    response = await client.options("/api/chat", headers={"Origin": "http://localhost:3000"})

    assert (response.status, await response.read()) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert response.headers["Access-Control-Allow-Methods"] == (
        "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    )
    allowed = response.headers["Access-Control-Allow-Headers"].split(",")
    assert {"Authorization", "Content-Type", "x-stainless-timeout"} <= set(allowed)
    assert response.headers["Access-Control-Max-Age"] == "43200"


async def test_a_page_of_the_daemon_itself_is_not_foreign(client: Client) -> None:
    host = f"127.0.0.1:{client.port}"

    response = await client.get("/api/version", headers={"Origin": f"http://{host}"})

    assert response.status == 200
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("setting", "origin", "status"),
    [
        ("https://*.example.com", "https://a.example.com", 200),
        ("https://*.example.com", "https://example.org", 403),
        ("https://a.example.com", "https://aXexample.com", 403),
    ],
)
async def test_further_origins_can_be_allowed(
    aiohttp_client: StartClient,
    settings: Settings,
    services: Services,
    setting: str,
    origin: str,
    status: int,
) -> None:
    app = create_app(replace(settings, origins=(setting,)), services)
    client = await aiohttp_client(app)

    assert (await client.get("/", headers={"Origin": origin})).status == status


async def test_a_star_allows_every_page(
    aiohttp_client: StartClient, settings: Settings, services: Services
) -> None:
    client = await aiohttp_client(create_app(replace(settings, origins=("*",)), services))

    response = await client.get("/", headers={"Origin": "http://example.com"})

    assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_streams_name_the_origin_too(client: Client, inference: FakeInference) -> None:
    inference.script = [ChatChunk(content="a"), DONE]

    response = await client.post(
        "/api/chat", json={"model": "m"}, headers={"Origin": "http://localhost"}
    )

    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost"
