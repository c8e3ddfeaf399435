"""Errors -> status codes, and bodies in the dialect of the route.

The only place in olla that knows both. Also ends what still runs when the daemon stops, since a
request cut off must answer something. Invariant: a client hears of every failure, by the status
or, in a stream that has begun, by the last words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import hdrs, web

from olla import errors
from olla.server.dialects import OLLAMA, dialect_of
from olla.server.origins import Handler
from olla.server.streaming import STREAM, json_reply

STATUSES: dict[type[errors.OllaError], HTTPStatus] = {
    errors.BadInput: HTTPStatus.BAD_REQUEST,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.CloudDisabled: HTTPStatus.FORBIDDEN,
    errors.SignInRequired: HTTPStatus.UNAUTHORIZED,
    errors.KeyMissing: HTTPStatus.UNAUTHORIZED,
    errors.KeyRefused: HTTPStatus.FORBIDDEN,
    errors.RequestTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.ServerBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NoRoom: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ServerStopping: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.OllaError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""An error has the status of the nearest of its classes that is named here."""

_HEADERS: Mapping[type[errors.OllaError], Mapping[str, str]] = {
    errors.KeyMissing: {hdrs.WWW_AUTHENTICATE: "Bearer"},
    errors.ServerBusy: {hdrs.RETRY_AFTER: "1"},
}
PROBES = frozenset({"/healthz", "/readyz"})

_log = logging.getLogger(__name__)


class ErrorGuard:
    """It knows which requests run, to wait for them at `drain` and to end them at `stop`."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()
        self._is_draining = False
        self._is_stopping = False

    async def drain(self) -> None:
        """Take no further requests, and wait until none runs."""
        self._is_draining = True
        while self._running:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self, app: web.Application) -> None:
        """Cancel what runs; each answers that the daemon stops."""
        self._is_stopping = True
        for task in self._running:
            task.cancel()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            if self._is_draining and request.path not in PROBES:
                return await _reply(request, errors.ServerStopping())
            return await handler(request)
        except web.HTTPException as error:
            return await _route_error(request, error)
        except errors.OllaError as error:
            return await _reply(request, error)
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
            task.uncancel()
            return await _reply(request, errors.ServerStopping())
        except Exception:  # noqa: BLE001 - the daemon outlives any handler
            _log.exception("request failed method=%s path=%s", request.method, request.path)
            return await _crash(request)
        finally:
            self._running.discard(task)


def status_of(error: errors.OllaError) -> HTTPStatus:
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


async def _reply(request: web.Request, error: errors.OllaError) -> web.StreamResponse:
    status = status_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("path=%s error=%r", request.path, str(error), exc_info=_cause(error))
    return await _tell(request, error, status)


def _cause(error: errors.OllaError) -> BaseException | None:
    """What the log tells beside the error. A network that is down is no fault of the code."""
    is_usual = isinstance(error, errors.SourceError) and not _log.isEnabledFor(logging.DEBUG)
    return None if is_usual else error.__cause__


async def _crash(request: web.Request) -> web.StreamResponse:
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    if dialect_of(request.path) is OLLAMA and STREAM not in request:
        return web.Response(status=status)
    return await _tell(request, errors.OllaError("internal server error"), status)


async def _tell(
    request: web.Request,
    error: errors.OllaError,
    status: HTTPStatus,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """The error as a reply, or as the last words of the stream that has begun."""
    dialect = dialect_of(request.path)
    if STREAM in request:
        stream = request[STREAM]
        await stream.write(dialect.error_to_event(error, status))
        await stream.write_eof()
        return stream
    reply = json_reply(dialect.error_to_json(error, status), status=status, charset=None)
    reply.headers.update(headers or _HEADERS.get(type(error), {}))
    return reply


async def _route_error(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """No route: Go's plain texts, or the way to the same path without its last slash."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers: dict[str, str] = {hdrs.ALLOW: error.headers[hdrs.ALLOW]}
        return await _no_route(request, "405 method not allowed", error.status, headers)
    if not isinstance(error, web.HTTPNotFound):
        raise error
    path = request.path.rstrip("/")
    if path != request.path and await _has_route(request, path):
        status = 301 if request.method == hdrs.METH_GET else 307
        location = str(request.rel_url.with_path(path, keep_query=True))
        return web.Response(status=status, headers={hdrs.LOCATION: location})
    return await _no_route(request, "404 page not found", error.status)


async def _no_route(
    request: web.Request, text: str, status: int, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    if dialect_of(request.path) is OLLAMA:
        return web.Response(status=status, text=text, headers=headers)
    return await _tell(request, errors.OllaError(text), HTTPStatus(status), headers)


async def _has_route(request: web.Request, path: str) -> bool:
    bare = request.clone(rel_url=request.rel_url.with_path(path))
    match = await request.app.router.resolve(bare)
    return match.http_exception is None
