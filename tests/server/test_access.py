"""Who is let in: keys, their scopes, and what each dialect says to those without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from olla.address import Address
from olla.errors import OllaError
from olla.keys import KeyFile, KeyRing, Scope
from olla.requests import ChatChunk, DoneReason
from olla.server.access import check_exposure, scope_of
from olla.server.app import KEY_GUARD, create_app
from olla.server.services import Services
from olla.settings import Settings
from tests.server.conftest import Client, FakeInference, StartClient

DONE = ChatChunk(done_reason=DoneReason.STOP)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}

MakeClient = Callable[[Settings], Awaitable[Client]]


@pytest.fixture
def keys(settings: Settings) -> KeyFile:
    return KeyFile(settings.keys_path)


@pytest.fixture
def start(aiohttp_client: StartClient, services: Services) -> MakeClient:
    async def start(settings: Settings) -> Client:
        return await aiohttp_client(create_app(settings, services))

    return start


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_without_any_key_this_machine_may_do_all(
    start: MakeClient, settings: Settings
) -> None:
    client = await start(settings)

    assert (await client.get("/api/tags")).status == 200


async def test_with_a_key_on_file_every_request_needs_one(
    start: MakeClient, settings: Settings, keys: KeyFile
) -> None:
    token = keys.create("me", [Scope.INFER])
    client = await start(settings)

    assert (await client.get("/api/tags")).status == 401
    assert (await client.get("/api/tags", headers=bearer("olla_wrong"))).status == 401
    assert (await client.get("/api/tags", headers={"Authorization": token})).status == 401
    assert (await client.get("/api/tags", headers=bearer(token))).status == 200
    assert (await client.get("/api/tags", headers={"x-api-key": token})).status == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
async def test_health_checks_need_no_key(
    start: MakeClient, settings: Settings, keys: KeyFile, path: str
) -> None:
    keys.create("me", [Scope.INFER])

    assert (await (await start(settings)).get(path)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/api/generate", Scope.INFER),
        ("POST", "/v1/chat/completions", Scope.INFER),
        ("POST", "/v1/messages", Scope.INFER),
        ("POST", "/api/embed", Scope.INFER),
        ("DELETE", "/api/delete", Scope.MANAGE),
        ("POST", "/api/pull", Scope.MANAGE),
        ("POST", "/api/create", Scope.MANAGE),
        ("POST", "/api/copy", Scope.MANAGE),
        ("POST", "/api/blobs/sha256:0", Scope.MANAGE),
        ("POST", "/api/shutdown", Scope.MANAGE),
        ("POST", "/api/what/is/new", Scope.MANAGE),
    ],
)
async def test_a_key_may_do_what_its_scopes_say(
    start: MakeClient, settings: Settings, keys: KeyFile, method: str, path: str, scope: Scope
) -> None:
    tokens = {scope: keys.create(scope.value, [scope]) for scope in Scope}
    client = await start(settings)
    statuses = {
        scope: (await client.request(method, path, headers=bearer(token))).status
        for scope, token in tokens.items()
    }

    assert scope_of(path) is scope
    assert {scope for scope, status in statuses.items() if status == 403} == set(Scope) - {scope}


@pytest.mark.parametrize("scope", list(Scope))
async def test_any_key_may_pull_from_a_daemon_that_shares(
    aiohttp_client: StartClient, services: Services, keys: KeyFile, scope: Scope
) -> None:
    token = keys.create("others", [scope])
    sharing = replace(services, settings=replace(services.settings, share=True))
    client = await aiohttp_client(create_app(sharing.settings, sharing))

    assert (await client.get("/v2/")).status == 401
    assert (await client.get("/v2/", headers=bearer(token))).status == 200


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/api/chat", None), ("/v1/chat/completions", "error"), ("/v1/messages", "error")],
)
@pytest.mark.parametrize("status", [401, 403])
async def test_each_dialect_tells_of_it_in_its_words(
    start: MakeClient, settings: Settings, keys: KeyFile, path: str, kind: str | None, status: int
) -> None:
    token = keys.create("boss", [Scope.MANAGE])
    client = await start(settings)
    headers = bearer(token) if status == 403 else {}
    response = await client.post(path, json=CHAT, headers=headers)
    body = await response.json()

    assert response.status == status
    error = body["error"] if kind is None else body["error"]["message"]
    expected = "the key 'boss' has not the scope 'infer'" if status == 403 else "a valid key"
    assert error.startswith(expected)
    if kind is not None:
        names = {401: "authentication_error", 403: "permission_error"}
        assert body["error"]["type"] == names[status]
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


async def test_a_page_of_an_allowed_origin_may_ask_for_leave_without_a_key(
    start: MakeClient, settings: Settings, keys: KeyFile
) -> None:
    keys.create("me", [Scope.INFER])
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    response = await (await start(settings)).options("/api/chat", headers=headers)

    assert response.status == 204
    assert "Authorization" in response.headers["Access-Control-Allow-Headers"]


async def test_a_key_is_good_as_soon_as_it_is_made(
    start: MakeClient, settings: Settings, keys: KeyFile
) -> None:
    old = keys.create("old", [Scope.INFER])
    client = await start(settings)
    assert (await client.get("/api/tags", headers=bearer(old))).status == 200

    new = keys.create("new", [Scope.INFER])

    assert (await client.get("/api/tags", headers=bearer(new))).status == 200


async def test_new_and_revoked_keys_are_noticed_when_told_to(
    start: MakeClient, settings: Settings, keys: KeyFile
) -> None:
    old = keys.create("old", [Scope.INFER])
    client = await start(settings)
    new = keys.create("new", [Scope.INFER])
    keys.revoke("old")
    client.app[KEY_GUARD].reload()

    assert (await client.get("/api/tags", headers=bearer(old))).status == 401
    assert (await client.get("/api/tags", headers=bearer(new))).status == 200


async def test_a_daemon_that_others_reach_lets_nobody_in_when_the_last_key_is_gone(
    start: MakeClient, settings: Settings, keys: KeyFile
) -> None:
    keys.create("me", [Scope.INFER])
    client = await start(replace(settings, address=Address("0.0.0.0", 0)))
    keys.revoke("me")
    client.app[KEY_GUARD].reload()

    assert (await client.get("/api/tags")).status == 401


async def test_a_broken_key_file_leaves_the_keys_as_they_were(
    start: MakeClient, settings: Settings, keys: KeyFile
) -> None:
    token = keys.create("me", [Scope.INFER])
    client = await start(settings)
    settings.keys_path.write_text("{")
    client.app[KEY_GUARD].reload()

    assert (await client.get("/api/tags")).status == 401
    assert (await client.get("/api/tags", headers=bearer(token))).status == 200


def test_what_others_reach_needs_a_key_or_leave(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.json")
    with pytest.raises(OllaError, match=r"olla key create NAME.*OLLA_INSECURE=1"):
        check_exposure("0.0.0.0:11434", ring, insecure=False)
    check_exposure("0.0.0.0:11434", ring, insecure=True)

    KeyFile(tmp_path / "keys.json").create("me", [Scope.INFER])
    check_exposure("0.0.0.0:11434", KeyRing(tmp_path / "keys.json"), insecure=False)


async def test_the_client_of_a_request_is_its_key(
    start: MakeClient, settings: Settings, keys: KeyFile, inference: FakeInference
) -> None:
    token = keys.create("me", [Scope.INFER])
    inference.script = [DONE]
    client = await start(settings)
    await client.post("/api/chat", json={**CHAT, "stream": False}, headers=bearer(token))

    assert [caller.client for caller in inference.callers] == ["me"]


def test_the_file_is_the_owner_s_alone(keys: KeyFile, settings: Settings) -> None:
    token = keys.create("me", [Scope.INFER])

    assert settings.keys_path.stat().st_mode & 0o777 == 0o600
    assert token not in settings.keys_path.read_text()
