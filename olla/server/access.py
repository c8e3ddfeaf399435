"""Who may ask for what: keys, where there are any or where there have to be.

Without a key on file, a daemon that only this machine reaches lets everybody in, and one that
others reach does so only if the settings say it may. Otherwise each request needs a key whose
scopes allow what its route does; what is not known to be harmless needs `manage`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from aiohttp import hdrs, web

from olla.caller import CALLER
from olla.errors import KeyMissing, KeyRefused, OllaError, StoreError
from olla.keys import KeyRing, Scope
from olla.server.origins import Handler

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""What tells nothing but that the daemon is there, which health checks ask without a key."""
READ_PATHS = frozenset(
    {"/api/version", "/api/status", "/api/tags", "/api/show", "/api/ps", "/api/me", "/metrics"}
)
READ_PREFIXES = ("/v1/models", "/v2/")
"""What any key may ask."""
INFER_PATHS = frozenset(
    {"/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/rerank"}
)
_REFRESH_EVERY_S = 1.0

_log = logging.getLogger(__name__)


class KeyGuard:
    """`is_required`: keys are needed even when there is none, so that nobody gets in."""

    def __init__(self, keys: KeyRing, *, is_required: bool) -> None:
        self._keys = keys
        self._is_required = is_required
        self._refreshed = time.monotonic()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._refresh_now_and_then()
        if (self._keys or self._is_required) and request.path not in OPEN_PATHS:
            self._check(request)
        return await handler(request)

    def reload(self) -> None:
        """Read the keys again, whatever their file's date says."""
        self._refresh(always=True)

    def _check(self, request: web.Request) -> None:
        token = token_of(request)
        key = self._keys.find(token)
        if key is None and token:
            self._refresh()  # it may have been made just now
            key = self._keys.find(token)
        if key is None:
            raise KeyMissing
        scope = scope_of(request.path)
        if scope is not None and scope not in key.scopes:
            raise KeyRefused(key.name, scope)
        CALLER.set(replace(CALLER.get(), client=key.name))

    def _refresh_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._refreshed > _REFRESH_EVERY_S:
            self._refreshed = now
            self._refresh()

    def _refresh(self, *, always: bool = False) -> None:
        try:
            if self._keys.refresh(always=always):
                _log.info("read the keys again")
        except StoreError as error:
            _log.error("the keys stay as they were error=%r", str(error))


def scope_of(path: str) -> Scope | None:
    """What a key needs for a route; None where any key will do."""
    if path in READ_PATHS or path.startswith(READ_PREFIXES):
        return None
    is_use = path in INFER_PATHS or path.startswith("/v1/")
    return Scope.INFER if is_use else Scope.MANAGE


def token_of(request: web.Request) -> str:
    """As OpenAI's and Ollama's clients send it, or as Anthropic's do; "" for none."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key", "").strip()


def check_exposure(address: str, keys: KeyRing, *, insecure: bool) -> None:
    """
    Args:
        address: what other machines would reach the daemon by.

    Raises:
        OllaError: other machines can reach the daemon, and nothing would keep them out.
    """
    if keys:
        return
    if not insecure:
        raise OllaError(
            f"other machines can reach {address}, and there is no key: make one with "
            "`olla key create NAME`, or set OLLA_INSECURE=1 to let everybody in"
        )
    _log.warning("everybody who reaches %s is let in: OLLA_INSECURE is set", address)
