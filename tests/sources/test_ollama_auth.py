"""Who we say we are, to whom, and that nobody else hears it."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from yarl import URL

from olla.errors import SourceError, SourceUnauthorized
from olla.sources.line import Patience, open_line
from olla.sources.ollama_auth import Keyring, answer_challenges
from tests.sources.fault_server import Asked, Connection, FaultServer, Script, fault_server

QUICK = Patience(stall_s=0.5, retries=1, back_off_s=0.001)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "home", tmp_path / "user")


async def ask(server: FaultServer, keyring: Keyring) -> bytes:
    origin = URL(server.url)
    renew = answer_challenges(keyring, origin)
    async with open_line(origin, renew=renew, patience=QUICK) as line:
        return await line.document(origin / "thing", 100)


def guarded(challenge: str = "", token: object = "t0ken") -> Script:
    """Lets in who has the token, and gives it to whoever asks for it."""

    async def script(asked: Asked, connection: Connection) -> None:
        if asked.path.startswith("/token"):
            await connection.answer(200, json.dumps({"token": token}).encode())
        elif asked.headers.get("authorization") == f"Bearer {token}":
            await connection.answer(200, b"secret")
        else:
            said = challenge or (
                f'Bearer realm="http://{asked.headers["host"]}/token",'
                'service="registry",scope="repository:me/model:pull other"'
            )
            await connection.answer(401, b"", f"WWW-Authenticate: {said}")

    return script


async def test_a_challenge_is_signed_with_the_key(keyring: Keyring, tmp_path: Path) -> None:
    async with fault_server(guarded()) as server:
        assert await ask(server, keyring) == b"secret"

    url = server.url + server.asked[1].path
    query = parse_qs(urlsplit(url).query)
    assert query["service"] == ["registry"]
    assert query["scope"] == ["repository:me/model:pull", "other"]
    assert query["ts"][0].isdigit()
    assert len(base64.urlsafe_b64decode(query["nonce"][0] + "==")) == 16
    public, _, signature = server.asked[1].headers["authorization"].partition(":")
    written = (tmp_path / "home" / "id_ed25519.pub").read_text().split()
    assert public == written[1]
    key = serialization.load_ssh_public_key(" ".join(written).encode())
    assert isinstance(key, ed25519.Ed25519PublicKey)
    nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    key.verify(base64.b64decode(signature), f"GET,{url},{nothing}".encode())


def test_the_key_is_made_once_and_for_its_owner_only(keyring: Keyring, tmp_path: Path) -> None:
    assert keyring.sign("a") == keyring.sign("a")

    path = tmp_path / "home" / "id_ed25519"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")


def test_ollamas_own_key_is_used_where_there_is_one(tmp_path: Path) -> None:
    Keyring(tmp_path / "user" / ".ollama", tmp_path / "nobody").sign("x")

    signed = Keyring(tmp_path / "home", tmp_path / "user").sign("x")

    assert signed == Keyring(tmp_path / "user" / ".ollama", tmp_path / "nobody").sign("x")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("kind", ["rubbish", "rsa", "folder"])
def test_a_key_that_cannot_be_used_is_named(keyring: Keyring, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "user" / ".ollama" / "id_ed25519"
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(_rsa_key() if kind == "rsa" else b"rubbish")

    with pytest.raises(SourceError, match="id_ed25519"):
        keyring.sign("x")


def _rsa_key() -> bytes:
    return rsa.generate_private_key(65537, 1024).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "realm", ["http://evil.example/token", "http://127.0.0.1:1/token", "http://127.0.0.1/token"]
)
async def test_a_realm_at_another_host_gets_nothing(keyring: Keyring, realm: str) -> None:
    async with fault_server(guarded(f'Bearer realm="{realm}",service="x"')) as server:
        with pytest.raises(SourceError) as caught:
            await ask(server, keyring)

    host = urlsplit(realm).netloc
    expected = f'realm host "{host}" does not match original host "127.0.0.1:{server.port}"'
    assert str(caught.value) == expected
    assert len(server.asked) == 1


async def test_a_server_that_wants_a_token_of_its_own_gets_the_one_that_is_kept(
    keyring: Keyring, tmp_path: Path
) -> None:
    """As olla itself, whose keys come from no realm."""
    async with fault_server(guarded("Bearer")) as server:
        with pytest.raises(SourceUnauthorized):
            await ask(server, keyring)
        logins = {f"127.0.0.1:{server.port}": {"registrytoken": "t0ken"}}
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "home" / "auth.json").write_text(json.dumps({"auths": logins}))
        await ask(server, keyring)

    sent = [asked.headers.get("authorization") for asked in server.asked]
    assert sent == [None, None, "Bearer t0ken"]


@pytest.mark.parametrize("challenge", ['Bearer realm=""', 'Bearer realm="/token"'])
async def test_a_realm_that_is_no_address(keyring: Keyring, challenge: str) -> None:
    async with fault_server(guarded(challenge)) as server:
        with pytest.raises(SourceError, match="realm"):
            await ask(server, keyring)


async def test_a_token_that_does_not_help_is_not_asked_for_again(keyring: Keyring) -> None:
    async def script(asked: Asked, connection: Connection) -> None:
        if asked.path.startswith("/token"):
            await connection.answer(200, b'{"token": "useless"}')
        else:
            realm = f'Bearer realm="http://{asked.headers["host"]}/token"'
            await connection.answer(401, b"", f"WWW-Authenticate: {realm}")

    async with fault_server(script) as server:
        with pytest.raises(SourceUnauthorized):
            await ask(server, keyring)

    assert len(server.asked) == 3


@pytest.mark.parametrize("token", [None, 7, "", "two\r\nlines", "ünïcode"])
async def test_a_token_that_is_none(keyring: Keyring, token: object) -> None:
    async with fault_server(guarded(token=token)) as server:
        with pytest.raises(SourceError, match="sent no token"):
            await ask(server, keyring)


def write_logins(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


LOGIN = base64.b64encode(b"ada:sesame").decode()


@pytest.mark.parametrize("place", ["home/auth.json", "user/.docker/config.json"])
def test_a_login_is_its_hosts_alone(keyring: Keyring, tmp_path: Path, place: str) -> None:
    write_logins(tmp_path / place, {"auths": {"host:5000": {"auth": LOGIN}}})

    assert keyring.login("host:5000") == f"Basic {LOGIN}"
    assert keyring.login("host") is None
    assert keyring.login("other:5000") is None


def test_ollas_logins_come_before_dockers(keyring: Keyring, tmp_path: Path) -> None:
    write_logins(tmp_path / "home/auth.json", {"auths": {"h": {"registrytoken": "abc"}}})
    write_logins(tmp_path / "user/.docker/config.json", {"auths": {"h": {"auth": LOGIN}}})

    assert keyring.login("h") == "Bearer abc"


@pytest.mark.parametrize(
    "document", [[], {"auths": []}, {"auths": {"h": 7}}, {"auths": {"h": {"auth": "%"}}}]
)
def test_logins_that_cannot_be_read_are_named(
    keyring: Keyring, tmp_path: Path, document: object
) -> None:
    write_logins(tmp_path / "home/auth.json", document)

    with pytest.raises(SourceError, match=r"cannot read the logins in .*auth\.json"):
        keyring.login("h")


async def test_a_login_is_what_a_token_is_asked_for_with(keyring: Keyring, tmp_path: Path) -> None:
    async with fault_server(guarded()) as server:
        auths = {f"127.0.0.1:{server.port}": {"auth": LOGIN}}
        write_logins(tmp_path / "home/auth.json", {"auths": auths})
        assert await ask(server, keyring) == b"secret"

    assert server.asked[1].headers["authorization"] == f"Basic {LOGIN}"


async def test_the_usual_port_need_not_be_named(keyring: Keyring, tmp_path: Path) -> None:
    write_logins(tmp_path / "home/auth.json", {"auths": {"registry.example": {"auth": LOGIN}}})
    origin = URL("https://registry.example/v2/")

    async with open_line(origin, patience=QUICK) as line:
        renewed = await answer_challenges(keyring, origin)(line, 'Basic realm="x"')

    assert renewed == {"Authorization": f"Basic {LOGIN}"}


async def test_without_a_login_a_password_is_not_guessed(keyring: Keyring) -> None:
    async with fault_server(guarded('Basic realm="x"')) as server:
        with pytest.raises(SourceUnauthorized):
            await ask(server, keyring)

    assert len(server.asked) == 1
