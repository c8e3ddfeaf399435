"""The daemon: every route in one table, the wiring, and its life from socket to exit.

Invariant: nothing is accepted before the services are ready, and whatever runs when the daemon
is asked to stop has ended, with an answer, before the process does.
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
from olla.errors import OllaError
from olla.logs import configure_logging
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
from olla.server.logs import log_requests
from olla.server.origins import HostGuard, OriginGuard
from olla.server.services import SERVICES, Services
from olla.server.streaming import MAX_BODY_BYTES
from olla.settings import Address, Settings

DRAIN_S = 1.5
"""How long a request that was told to end may take for it, twice."""
EXIT_S = 6.0
"""A thread that hangs on a disk cannot be ended; the process can."""

MAX_THREADS = 64
"""They wait for disks more than they compute, so that lists stay quick beside slow creates."""

ROUTES = (
    web.get("/", about.heartbeat),
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

_log = logging.getLogger(__name__)


def create_app(settings: Settings, services: Services | None = None) -> web.Application:
    """The application on these services, or on real ones; it closes their runners at its end."""
    guard = ErrorGuard()
    origins = OriginGuard(settings.origins)
    hosts = HostGuard(settings.address.host)
    app = web.Application(
        middlewares=[log_requests, guard.middleware, origins.middleware, hosts.middleware],
        client_max_size=MAX_BODY_BYTES,
    )
    app[SERVICES] = services or Services.start(settings)
    app.add_routes(ROUTES)
    app.on_response_prepare.append(origins.name_origin)
    app.on_shutdown.append(guard.stop)
    app.on_cleanup.append(_close_runners)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGINT, SIGTERM or a request to shut down.

    Raises:
        OllaError: the address cannot be listened on, or the store cannot be read.
    """
    configure_logging(settings.debug)
    services = Services.start(settings)
    with _listen(settings.address) as listener, services.store.claim() as is_alone:
        if not is_alone:
            _log.warning("another olla serves the models in %s as well", settings.models)
        asyncio.run(_serve(settings, services, listener))


async def _serve(settings: Settings, services: Services, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, services.stopping.set)
    if settings.prune:
        await asyncio.to_thread(services.store.prune)
    runner = web.AppRunner(
        create_app(settings, services),
        handler_cancellation=True,
        shutdown_timeout=DRAIN_S,
        access_log=None,
        auto_decompress=False,  # server/compression.py does, with limits
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    _log.info("Listening on %s (version %s)", _name_of(listener), __version__)
    await services.stopping.wait()
    _log.info("stopping")
    _exit_if_stuck()
    await runner.cleanup()


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
