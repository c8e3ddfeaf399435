"""Keyring: who we are to registries, and the answer to a registry's challenge.

A registry gets the login that the user keeps for its host, in a file of Docker's format; else a
signature by our key pair, as Ollama's own registry wants it (spec/registry.md section 6).
Invariant: neither goes to any host but the one that was asked.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from yarl import URL

from olla.errors import SourceError, SourceUnauthorized
from olla.registry.threads import run_to_end
from olla.sources.line import Line, Renew

KEY_NAME = "id_ed25519"
LOGINS_NAME = "auth.json"

_MAX_TOKEN_BYTES = 2**20
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_HASH_OF_NOTHING = base64.b64encode(sha256(b"").hexdigest().encode()).decode()


class Keyring:
    def __init__(self, home: Path, user_home: Path) -> None:
        """`home` is olla's, where a key pair is made if Ollama has none in `user_home`."""
        self._keys = (user_home / ".ollama" / KEY_NAME, home / KEY_NAME)
        self._logins = (home / LOGINS_NAME, user_home / ".docker" / "config.json")

    def login(self, host: str) -> str | None:
        """The value of an Authorization header that the user keeps for this host.

        Raises:
            SourceError: a file of logins cannot be read.
        """
        for path in self._logins:
            entry = _entry(path, host)
            if token := entry.get("registrytoken"):
                return f"Bearer {token}"
            if login := entry.get("auth"):
                return f"Basic {login}"
        return None

    def sign(self, text: str) -> str:
        """`<public key>:<signature>`, as Ollama's registry reads it.

        Raises:
            SourceError: the key cannot be read or made.
        """
        # Imported when a registry asks for it: the daemon starts without it.
        from olla.sources.key_pair import sign  # noqa: PLC0415

        return sign(self._keys, text)


def answer_challenges(keyring: Keyring, origin: URL) -> Renew:
    """What a line to `origin` does about a 401."""

    async def renew(line: Line, challenge: str) -> Mapping[str, str]:
        login = await run_to_end(keyring.login, _place(origin))
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        if scheme.lower() == "bearer" and "realm" in parameters:
            token = await _token(line, keyring, origin, parameters, login)
            return {"Authorization": f"Bearer {token}"}
        if login is None:
            raise SourceUnauthorized
        return {"Authorization": login}

    return renew


async def _token(
    line: Line, keyring: Keyring, origin: URL, challenge: Mapping[str, str], login: str | None
) -> str:
    if login and login.startswith("Bearer "):
        return login.removeprefix("Bearer ")
    url = _realm(origin, challenge)
    if login is None:
        login = await run_to_end(keyring.sign, f"GET,{url},{_HASH_OF_NOTHING}")
    reply = await line.ask(url, {"Authorization": login}, _MAX_TOKEN_BYTES)
    with suppress(ValueError, AttributeError):
        document = json.loads(reply)
        token = document.get("token") or document.get("access_token")
        if isinstance(token, str) and token.isascii() and token.isprintable():
            return token
    raise SourceError(f"{origin.host} sent no token")


def _realm(origin: URL, challenge: Mapping[str, str]) -> URL:
    """Where the token is, with what the challenge says it is for."""
    text = challenge.get("realm", "")
    try:
        realm = URL(text)
    except ValueError as error:
        raise SourceError(f"{origin.host} sent a realm that is no address") from error
    if _place(realm) != _place(origin):
        raise SourceError(
            f'realm host "{_place(realm)}" does not match original host "{_place(origin)}"'
        )
    if realm.scheme != origin.scheme:
        raise SourceError(f"{origin.host} wants credentials sent by {realm.scheme}")
    pairs = [("service", challenge.get("service", ""))]
    pairs += [("scope", scope) for scope in challenge.get("scope", "").split()]
    pairs += [("ts", str(int(time.time()))), ("nonce", secrets.token_urlsafe(16))]
    separator = "&" if realm.raw_query_string else "?"
    return URL(f"{realm}{separator}{urlencode(pairs)}", encoded=True)


def _place(url: URL) -> str:
    """Host and port; without the port where it is the scheme's own."""
    return url.host_port_subcomponent or ""


def _entry(path: Path, host: str) -> Mapping[str, str]:
    try:
        document: Any = json.loads(path.read_bytes())
        entry = document.get("auths", {}).get(host, {})
        login = base64.b64decode(entry.get("auth", ""), validate=True)
        is_good = login.isascii() or login.decode()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, binascii.Error) as error:
        raise SourceError(f"cannot read the logins in {path}: {error}") from error
    return {key: entry[key] for key in ("registrytoken", "auth") if is_good and entry.get(key)}
