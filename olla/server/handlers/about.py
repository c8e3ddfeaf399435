"""What the daemon says about itself, its end, and the routes that only Ollama's cloud answers."""

from __future__ import annotations

from aiohttp import web

from olla import __version__
from olla.errors import CloudDisabled, SignInRequired
from olla.server.metrics import CONTENT_TYPE
from olla.server.origins import is_local
from olla.server.services import SERVICES
from olla.server.streaming import json_reply

OLLAMA_VERSION = "0.33.0"
"""The version of Ollama's API that this is; clients decide by it what they may ask for."""


async def heartbeat(request: web.Request) -> web.Response:
    """GET, HEAD /"""
    return web.Response(text="Ollama is running")


async def healthz(request: web.Request) -> web.Response:
    """GET, HEAD /healthz: the daemon is alive."""
    return json_reply({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET, HEAD /readyz: it takes requests, which it does until it is told to end."""
    if request.app[SERVICES].stopping.is_set():
        return json_reply({"status": "stopping"}, status=503)
    return json_reply({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: what Prometheus gathers."""
    text = request.app[SERVICES].metrics.text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


async def version(request: web.Request) -> web.Response:
    """GET, HEAD /api/version"""
    return json_reply({"version": OLLAMA_VERSION, "olla": __version__})


async def status(request: web.Request) -> web.Response:
    """GET /api/status: there is no cloud here."""
    return json_reply({"cloud": {"disabled": True, "source": "config"}})


async def account(request: web.Request) -> web.Response:
    """POST /api/me: nobody is ever signed in."""
    raise SignInRequired


async def web_search(request: web.Request) -> web.Response:
    """POST /api/experimental/web_search"""
    raise CloudDisabled("web search is unavailable")


async def web_fetch(request: web.Request) -> web.Response:
    """POST /api/experimental/web_fetch"""
    raise CloudDisabled("web fetch is unavailable")


async def shutdown(request: web.Request) -> web.Response:
    """POST /api/shutdown, olla's own: end the daemon, for callers on this machine."""
    if not is_local(request):
        return web.Response(status=403)
    request.app[SERVICES].stopping.set()
    return json_reply({})
