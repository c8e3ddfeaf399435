"""What a far end may do to us: redirects, credentials, sizes, proxies."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from socket import gaierror

import pytest
from yarl import URL

from olla.errors import SourceBroke, SourceError, SourceUnreachable
from olla.sources.addresses import GuardedResolver
from olla.sources.line import DOCUMENT_RETRIES, BackOff, Line, Patience, open_line
from tests.sources.fault_server import Asked, Connection, FaultServer, fault_server

QUICK = Patience(stall_s=0.5, retries=2, back_off_s=0.001, max_back_off_s=0.01)
SECRET = {"Authorization": "Bearer secret"}


async def hello(asked: Asked, connection: Connection) -> None:
    await connection.answer(200, b"hello")


async def document(server: FaultServer, path: str = "/", max_bytes: int = 100) -> bytes:
    origin = URL(server.url)
    async with open_line(origin, patience=QUICK, headers=SECRET) as line:
        return await line.document(origin.with_path(path), max_bytes)


async def test_redirects_are_followed_and_credentials_stay_behind() -> None:
    async with fault_server(hello) as other:

        async def script(asked: Asked, connection: Connection) -> None:
            if asked.path == "/":
                await connection.answer(307, b"", "Location: /next")
            else:
                await connection.answer(302, b"", f"Location: {other.url}/far?sig=a%2Fb")

        async with fault_server(script) as server:
            assert await document(server) == b"hello"

        assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer secret"] * 2
        (asked,) = other.asked
        assert asked.path == "/far?sig=a%2Fb"
        assert "authorization" not in asked.headers


@pytest.mark.parametrize("location", ["/", "/again"])
async def test_a_redirect_loop_ends(location: str) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(301, b"", f"Location: {location}")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match="redirects in a loop"):
            await document(server)

    assert len(server.asked) == 11


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x/", "http://[::1"],
)
async def test_a_redirect_leads_to_http_only(location: str) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(302, b"", f"Location: {location}")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match=r"redirects to|cannot use the address"):
            await document(server)


async def test_a_larger_document_than_expected_is_refused() -> None:
    async with fault_server(hello) as server:
        assert await document(server, max_bytes=5) == b"hello"
        with pytest.raises(SourceError, match="sent more than 4 bytes"):
            await document(server, max_bytes=4)


async def test_a_document_is_asked_for_again() -> None:
    answers = iter([500, 429])

    async def script(asked: Asked, connection: Connection) -> None:
        if status := next(answers, 0):
            await connection.answer(status, b"")
        else:
            await connection.answer(200, b"hello")

    async with fault_server(script) as server:
        assert await document(server) == b"hello"


async def test_a_challenge_is_answered_once() -> None:
    challenges: list[str] = []

    async def script(asked: Asked, connection: Connection) -> None:
        if asked.headers.get("authorization") == "Bearer new":
            await connection.answer(200, b"hello")
        else:
            await connection.answer(401, b"", 'WWW-Authenticate: Bearer realm="x"')

    async def renew(line: Line, challenge: str) -> dict[str, str]:
        challenges.append(challenge)
        return {"Authorization": "Bearer new"}

    async with fault_server(script) as server:
        origin = URL(server.url)
        async with open_line(origin, patience=QUICK, headers=SECRET, renew=renew) as line:
            assert await line.document(origin, 100) == b"hello"
            assert await line.document(origin, 100) == b"hello"

    assert challenges == ['Bearer realm="x"']


async def test_a_401_without_more_is_access_denied() -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(401, b"who are you?")

    async with fault_server(script) as server:
        with pytest.raises(SourceError, match=r"^unauthorized: access denied$"):
            await document(server)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fd00::1", "0.0.0.0"]
)
async def test_an_origin_outside_does_not_lead_inside(host: str) -> None:
    resolver = GuardedResolver("registry.example")

    with pytest.raises(SourceError, match="redirects to the private address"):
        resolver.check_literal(host)


async def test_nor_by_a_name_that_means_an_address_inside() -> None:
    resolver = GuardedResolver("8.8.8.8")

    with pytest.raises(SourceError, match="redirects to the private address localhost"):
        await resolver.resolve("localhost")


async def test_an_origin_inside_may_lead_inside() -> None:
    by_name, by_address = GuardedResolver("localhost"), GuardedResolver("127.0.0.1")
    await by_name.resolve("localhost")

    for resolver in (by_name, by_address):
        resolver.check_literal("10.1.2.3")
        await resolver.resolve("localhost")


async def test_a_redirect_inside_is_refused_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The origin, out in the world by its name, answers through a proxy."""

    async def script(asked: Asked, connection: Connection) -> None:
        await connection.answer(302, b"", "Location: http://169.254.169.254/latest/meta-data")

    async with fault_server(script) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        origin = URL("http://registry.example/")
        async with open_line(origin, patience=QUICK) as line:
            with pytest.raises(SourceError, match=r"private address 169\.254\.169\.254"):
                await line.document(origin, 100)

    assert [asked.path for asked in proxy.asked] == ["http://registry.example/"]


async def test_a_proxy_is_used_unless_the_host_is_excepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fault_server(hello) as proxy, fault_server(hello) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await document(server) == b"hello"
        origin = URL("http://registry.example")
        async with open_line(origin, patience=QUICK) as line:
            assert await line.document(origin / "x", 100) == b"hello"

    assert len(server.asked) == 1
    assert [asked.path for asked in proxy.asked] == ["http://registry.example/x"]


async def test_a_proxy_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fault_server(hello) as proxy:
        pass
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    origin = URL("http://registry.example")
    words = f"registry.example: cannot connect to the proxy {URL(proxy.url).authority}: Connection"
    async with open_line(origin, patience=QUICK) as line:
        with pytest.raises(SourceUnreachable, match=f"{words} refused"):
            await line.ask(origin, {}, 100)


async def test_a_resolver_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors have numbers of their own, which are those of other errors on macOS."""

    def refuse(*_: object, **__: object) -> None:
        raise gaierror(8, "nodename nor servname provided, or not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    origin = URL("http://registry.example")
    async with open_line(origin, patience=QUICK) as line:
        with pytest.raises(SourceUnreachable, match="cannot connect: nodename nor servname"):
            await line.ask(origin, {}, 100)


async def test_who_never_answered_is_given_up_sooner_than_who_did() -> None:
    async def once(asked: Asked, connection: Connection) -> None:
        await connection.answer(200, b"hello")
        raise ConnectionError

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(fault_server(once))
        origin = URL(server.url)
        async with open_line(origin, patience=QUICK) as line:
            assert await line.document(origin, 100) == b"hello"
            await stack.aclose()
            with pytest.raises(SourceBroke, match="cannot connect: Connection refused") as broke:
                await line.ask(origin, {}, 100)
    async with open_line(origin, patience=QUICK) as line:
        with pytest.raises(SourceUnreachable, match="cannot connect: Connection refused") as never:
            await line.ask(origin, {}, 100)

    assert type(broke.value) is SourceBroke
    patience = Patience(back_off_s=0)
    assert await num_waits(patience, broke.value) == patience.retries
    assert await num_waits(patience, never.value) == DOCUMENT_RETRIES


async def num_waits(patience: Patience, error: SourceBroke) -> int:
    back_off, number = BackOff(patience), 0
    with pytest.raises(SourceError, match="max retries exceeded"):
        while True:
            await back_off.wait(error)
            number += 1
    return number
