"""The daemon: every route in one table, the wiring, and its life from socket to exit.

Invariant: nothing is accepted before the services are ready, and whatever runs when the daemon
is asked to stop has ended, by itself or with an error, before the process does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from olla import __version__
from olla.address import Address
from olla.errors import OllaError
from olla.keys import KeyRing
from olla.logs import configure_logging
from olla.server.access import KeyGuard, check_exposure
from olla.server.callers import name_caller, send_request_id
from olla.server.door import Door
from olla.server.errors import ErrorGuard
from olla.server.handlers import (
    about,
    anthropic,
    blobs,
    chat,
    embed,
    models,
    openai,
    responses,
    share,
    store,
    transfers,
)
from olla.server.limits import TimeGuard
from olla.server.logs import log_requests
from olla.server.origins import HostGuard, OriginGuard, is_loopback
from olla.server.recorder import Recorder
from olla.server.services import SERVICES, Services
from olla.server.streaming import BODY_TIMEOUT, MAX_BODY_BYTES
from olla.settings import Settings

DRAIN_S = 1.5
"""How long a request that was told to end may take for it, twice."""
EXIT_S = 6.0
"""A thread that hangs on a disk cannot be ended; the process can."""

LONGEST_IDLE_S = 1e8
"""Years, since aiohttp has no word for never."""

MAX_THREADS = 64
"""They wait for disks more than they compute, so that lists stay quick beside slow creates."""

ROUTES = (
    web.get("/", about.heartbeat),
    web.get("/healthz", about.healthz),
    web.get("/readyz", about.readyz),
    web.get("/metrics", about.metrics, allow_head=False),
    web.get("/api/version", about.version),
    web.get("/api/status", about.status, allow_head=False),
    web.get("/api/tags", models.tags),
    web.post("/api/show", models.show),
    web.get("/api/ps", models.ps, allow_head=False),
    web.post("/api/generate", chat.generate),
    web.post("/api/chat", chat.chat),
    web.post("/api/embed", embed.embed),
    web.post("/api/embeddings", embed.embeddings),
    web.post("/api/rerank", embed.rerank),
    web.post("/v1/embeddings", embed.openai_embeddings),
    web.post("/v1/rerank", embed.rerank),
    web.post("/api/create", transfers.create),
    web.post("/api/pull", transfers.pull),
    web.post("/api/push", transfers.push),
    web.head("/api/blobs/{digest}", blobs.head_blob),
    web.post("/api/blobs/{digest}", blobs.post_blob),
    web.get("/api/du", store.du, allow_head=False),
    web.post("/api/verify", store.verify),
    web.post("/api/gc", store.gc),
    web.get("/api/export", store.export, allow_head=False),
    web.post("/api/import", store.import_model),
    web.post("/api/copy", models.copy),
    web.delete("/api/delete", models.delete),
    web.post("/api/shutdown", about.shutdown),
    web.post("/api/me", about.account),
    web.post("/api/experimental/web_search", about.web_search),
    web.post("/api/experimental/web_fetch", about.web_fetch),
    web.post("/v1/chat/completions", openai.chat),
    web.post("/v1/completions", openai.completion),
    web.get("/v1/models", openai.list_models, allow_head=False),
    web.get("/v1/models/{model:.*[^/]}", openai.retrieve_model, allow_head=False),
    web.post("/v1/responses", responses.create),
    web.get("/v1/responses/{id}", responses.retrieve),
    web.delete("/v1/responses/{id}", responses.delete),
    web.post("/v1/messages", anthropic.messages),
    web.post("/v1/messages/count_tokens", anthropic.count_tokens),
    web.get("/v2/", share.base),
    web.get(share.MANIFEST_PATH, share.manifest),
    web.get(share.BLOB_PATH, share.blob),
)

ERROR_GUARD = web.AppKey("error_guard", ErrorGuard)
KEY_GUARD = web.AppKey("key_guard", KeyGuard)

_log = logging.getLogger(__name__)


def create_app(settings: Settings, services: Services | None = None) -> web.Application:
    """The application on these services, or on real ones; it closes their runners at its end."""
    guard = ErrorGuard()
    origins = OriginGuard(settings.origins)
    keys = KeyGuard(KeyRing(settings.keys_path), is_required=_needs_key(settings))
    services = services or Services.start(settings)
    app = web.Application(
        middlewares=[
            name_caller,
            log_requests,
            services.metrics.middleware,
            guard.middleware,
            origins.middleware,
            HostGuard(settings.address.host, settings.allowed_hosts).middleware,
            keys.middleware,
            TimeGuard(settings.request_timeout_s).middleware,
            *([Recorder().middleware] if settings.debug_log_requests else []),
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    app[SERVICES] = services
    app[BODY_TIMEOUT] = settings.body_timeout_s
    app[ERROR_GUARD], app[KEY_GUARD] = guard, keys
    app.add_routes(ROUTES)
    app.on_response_prepare.append(origins.name_origin)
    app.on_response_prepare.append(send_request_id)
    app.on_shutdown.append(guard.stop)
    app.on_cleanup.append(_close_runners)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGINT, SIGTERM or a request to shut down.

    Raises:
        OllaError: the address cannot be listened on, or not without a key, or the store or the
            keys cannot be read.
    """
    configure_logging(debug=settings.debug, log=settings.log)
    with _listen(settings.address) as listener:
        if not is_loopback(settings.address.host):
            keys = KeyRing(settings.keys_path)
            check_exposure(_name_of(listener), keys, insecure=settings.insecure)
        services = Services.start(settings)
        with services.store.claim() as is_alone:
            if not is_alone:
                _log.warning("another olla serves the models in %s as well", settings.models)
            asyncio.run(_serve(settings, services, listener))


def _needs_key(settings: Settings) -> bool:
    """Whether other machines reach the daemon and are not to be let in just so."""
    return not (is_loopback(settings.address.host) or settings.insecure)


async def _serve(settings: Settings, services: Services, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS))
    if settings.prune:
        await asyncio.to_thread(services.store.prune)
    app = create_app(settings, services)
    at_once = _on_signals(services.stopping, app[KEY_GUARD])
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        shutdown_timeout=DRAIN_S,
        access_log=None,
        keepalive_timeout=min(settings.idle_timeout_s, LONGEST_IDLE_S),
        auto_decompress=False,  # server/compression.py does, with limits
    )
    await runner.setup()
    assert runner.server is not None
    door = Door(runner.server, settings.max_connections)
    server = await loop.create_server(door, sock=listener)
    _log.info("Listening on %s (version %s)", _name_of(listener), __version__)
    await services.stopping.wait()
    server.close()
    await _drain(app[ERROR_GUARD], settings.shutdown_timeout_s, at_once)
    _exit_if_stuck()
    await runner.cleanup()


def _on_signals(stopping: asyncio.Event, keys: KeyGuard) -> asyncio.Event:
    """Have signals end the daemon, or its keys read again; an event for a second one to end it."""
    at_once = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            at_once.set()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, keys.reload)
    return at_once


async def _drain(guard: ErrorGuard, limit_s: float, at_once: asyncio.Event) -> None:
    """Let what runs end by itself, for a while."""
    _log.info("stopping: waiting up to %g s for requests that run", limit_s)
    waits = [asyncio.ensure_future(guard.drain()), asyncio.ensure_future(at_once.wait())]
    await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _close_runners(app: web.Application) -> None:
    await app[SERVICES].pool.close()


def _exit_if_stuck() -> None:
    def leave() -> None:
        _log.warning("something did not end within %.0f s", EXIT_S)
        os._exit(0)  # every write to the store is atomic: nothing is left half done

    timer = threading.Timer(EXIT_S, leave)
    timer.daemon = True
    timer.start()


def _listen(address: Address) -> socket.socket:
    """Bind now, so that a taken address is known before anything else is touched."""
    place = f"listen tcp {address.host}:{address.port}"
    try:
        family, _, _, _, target = socket.getaddrinfo(
            address.host or "::", address.port, type=socket.SOCK_STREAM
        )[0]
    except socket.gaierror as error:
        raise OllaError(f"{place}: lookup {address.host}: no such host") from error
    both = not address.host and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(target[:2], family=family, dualstack_ipv6=both, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise OllaError(f"{place}: bind: {reason}") from error


def _name_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
