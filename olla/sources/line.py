"""Line: the way to one origin, such as a registry or a hub, for the time of one transfer.

Owns its connections, credentials, redirects, time-outs and the limit on its rate; knows nothing
of blobs and models. Invariants: credentials go to the origin and nowhere else; an origin out in
the world cannot send us to an address inside; no body is longer than its reader allows.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from socket import gaierror

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientProxyConnectionError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    InvalidURL,
    TCPConnector,
    hdrs,
)
from yarl import URL

from olla import __version__
from olla.errors import (
    SourceBroke,
    SourceError,
    SourceRefused,
    SourceUnauthorized,
    SourceUnreachable,
)
from olla.sources.addresses import GuardedResolver
from olla.sources.socket_body import SocketBody, take_body

CHUNK_BYTES = 256 * 1024
DIRECT_BYTES = 2**20
DOCUMENT_RETRIES = 2  # a person waits, and nothing has come yet that would be lost
MAX_ERROR_BYTES = 4096
MAX_REDIRECTS = 10
MAX_RETRY_AFTER_S = 60.0
STREAMS_INSIDE = 3
USER_AGENT = f"olla/{__version__}"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORTH_A_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_CONNECTION = (ClientConnectorError, ConnectionTimeoutError)
_UNLIMITED = 0

Body = bytes | AsyncIterator[bytes] | None


@dataclass(frozen=True, slots=True)
class Patience:
    """How many connections a blob may use, and how long to put up with a bad line.

    `push_part_bytes`: how much goes in one request of an upload.
    """

    num_streams: int = 8
    stall_s: float = 30.0
    retries: int = 6
    back_off_s: float = 1.0
    max_back_off_s: float = 32.0
    push_part_bytes: int = 100 * 10**6


class BackOff:
    """Longer and longer waits between tries, and an end to them."""

    def __init__(self, patience: Patience, retries: int | None = None) -> None:
        self._patience = patience
        self._retries = patience.retries if retries is None else retries
        self._failures = 0

    def reset(self) -> None:
        """Some progress was made."""
        self._failures = 0

    async def wait(self, error: SourceBroke) -> None:
        """Wait before the next try.

        Raises:
            SourceError: there were enough of them.
        """
        retries = self._retries
        if isinstance(error, SourceUnreachable):  # more likely to be for long than a bad line
            retries = min(retries, DOCUMENT_RETRIES)
        if self._failures >= retries:
            raise SourceError(f"max retries exceeded: {error}") from error
        delay = min(self._patience.back_off_s * 2**self._failures, self._patience.max_back_off_s)
        self._failures += 1
        await asyncio.sleep(max(delay, min(error.retry_after_s, MAX_RETRY_AFTER_S)))


class Rate:
    """At most so many bytes a second, for all who share it; 0 is no limit."""

    def __init__(self, bytes_per_s: int = _UNLIMITED) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    @property
    def is_limited(self) -> bool:
        return self._bytes_per_s != _UNLIMITED

    @property
    def chunk_bytes(self) -> int:
        """How much to read at once, so that a slow transfer flows evenly."""
        tenth = self._bytes_per_s // 10
        return min(CHUNK_BYTES, max(tenth, 1)) if self._bytes_per_s else CHUNK_BYTES

    async def take(self, num_bytes: int) -> None:
        if self._bytes_per_s:
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now) + num_bytes / self._bytes_per_s
            await asyncio.sleep(self._free_at - now)


class Line:
    """Made by `open_line`."""

    def __init__(
        self,
        session: ClientSession,
        origin: URL,
        resolver: GuardedResolver,
        patience: Patience,
        rate: Rate,
        headers: Mapping[str, str],
        renew: Renew | None,
    ) -> None:
        self._session = session
        self._origin = origin.origin()
        self._resolver = resolver
        self.rate = rate
        self._headers = headers
        self._renew = renew
        self._renewing = asyncio.Lock()
        self._has_answered = False
        self.patience = patience

    @property
    def num_streams(self) -> int:
        """How many connections a blob may use: few where one is as fast as the disk."""
        most = self.patience.num_streams
        return min(most, STREAMS_INSIDE) if self._resolver.is_inside else most

    @asynccontextmanager
    async def get(
        self, url: URL, headers: Mapping[str, str] | None = None, method: str = hdrs.METH_GET
    ) -> AsyncGenerator[ClientResponse, None]:
        """For `async with`: a good answer, wherever redirects lead; its `url` says where.

        Raises:
            SourceBroke: a later try may succeed; SourceUnreachable: nothing has answered yet.
            SourceRefused: the far end says no; SourceUnauthorized: it wants to know who asks.
            SourceError: it misbehaves.
        """
        response = await self._follow(method, url, headers or {})
        try:
            await _check(response)
            yield response
        finally:
            response.release()

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body = None
    ) -> ClientResponse:
        """One request, not redirected, and the head of its answer.

        Raises:
            As `get`; SourceBroke too where the credentials had to be renewed, as the body is gone.
        """
        response = await self._send(method, url, headers, body)
        try:
            await _check(response, are_redirects_fine=True)
        finally:
            response.release()
        return response

    async def ask(self, url: URL, headers: Mapping[str, str], max_bytes: int) -> bytes:
        """A small document, in one try and without the line's credentials: for who makes them."""
        response = await self._exchange(hdrs.METH_GET, url, headers, {})
        try:
            await _check(response)
            return await self._read_all(response, max_bytes)
        finally:
            response.release()

    async def read(self, response: ClientResponse, max_bytes: int) -> bytes:
        """The next bytes of a body as they come, b"" at its end; no faster than the rate allows.

        Raises:
            SourceBroke: the line was cut, or nothing came for too long.
        """
        try:
            chunk = await response.content.read(min(self.rate.chunk_bytes, max_bytes))
        except (ClientError, TimeoutError, OSError) as error:
            raise _broken(response.url, error) from error
        await self.rate.take(len(chunk))
        return chunk

    def take(self, response: ClientResponse, num_bytes: int) -> SocketBody | None:
        """A large body of so many bytes, to be read from its socket; the answer is then spent.

        None where that is not possible, or the body small, or the rate limited: `read` it.
        """
        if num_bytes < DIRECT_BYTES or self.rate.is_limited or response.content_length != num_bytes:
            return None
        return take_body(response, self.patience.stall_s)

    async def document(
        self, url: URL, max_bytes: int, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A small body of which nothing is known but that it is small; tries a few times.

        Raises:
            SourceError: as `get`; there is more of it than `max_bytes`; all tries failed.
        """
        back_off = BackOff(self.patience, min(self.patience.retries, DOCUMENT_RETRIES))
        while True:
            try:
                async with self.get(url, headers) as response:
                    return await self._read_all(response, max_bytes)
            except SourceBroke as error:
                await back_off.wait(error)

    def target(self, url: URL, location: str) -> URL:
        """Where an answer from `url` sends us, if that is a place to go to.

        Raises:
            SourceError: it is not.
        """
        try:
            target = url.join(URL(location, encoded=True))  # a signature may depend on its spelling
        except ValueError as error:
            raise SourceError(f"{url.host} redirects to something that is no address") from error
        allowed = {"http", "https"} if url.scheme == "http" else {"https"}
        if target.scheme not in allowed or target.host is None:
            raise SourceError(f"{url.host} redirects to an insecure address: {location:.200}")
        self._resolver.check_literal(target.host)
        return target

    async def _read_all(self, response: ClientResponse, max_bytes: int) -> bytes:
        data = bytearray()
        while chunk := await self.read(response, max_bytes + 1 - len(data)):
            data += chunk
            if len(data) > max_bytes:
                response.close()
                raise SourceError(f"{response.url.host} sent more than {max_bytes} bytes")
        return bytes(data)

    async def _follow(self, method: str, url: URL, headers: Mapping[str, str]) -> ClientResponse:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(method, url, headers)
            location = response.headers.get(hdrs.LOCATION)
            if response.status not in _REDIRECTS or location is None:
                return response
            response.release()
            url = self.target(url, location)
        raise SourceError(f"{self._origin.host} redirects in a loop")

    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body = None
    ) -> ClientResponse:
        is_home = url.origin() == self._origin
        used = self._headers if is_home else {}
        response = await self._exchange(method, url, headers, used, body)
        if response.status != 401 or not is_home or self._renew is None:
            return response
        challenge = response.headers.get(hdrs.WWW_AUTHENTICATE, "")
        response.release()
        await self._renew_headers(self._renew, used, challenge)
        if isinstance(body, AsyncIterator):
            raise SourceBroke(f"{url.host} wanted other credentials in the middle of a transfer")
        return await self._exchange(method, url, headers, self._headers, body)

    async def _renew_headers(self, renew: Renew, used: Mapping[str, str], challenge: str) -> None:
        async with self._renewing:
            if self._headers is used:  # of many who were refused, the first does it for all
                self._headers = {**used, **await renew(self, challenge)}

    async def _exchange(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        credentials: Mapping[str, str],
        body: Body = None,
    ) -> ClientResponse:
        try:
            response = await self._session.request(
                method, url, headers={**headers, **credentials}, data=body, allow_redirects=False
            )
        except ClientConnectorCertificateError as error:
            raise SourceError(
                f"cannot trust the certificate of {url.host}; SSL_CERT_FILE may name a file with "
                f"its authority's: {error}"
            ) from error
        except ssl.SSLError as error:
            raise SourceError(
                f"cannot speak TLS with {url.host}; plain HTTP needs --insecure: {error}"
            ) from error
        except InvalidURL as error:
            raise SourceError(f"cannot use the address {url}: {error}") from error
        except (ClientError, TimeoutError, OSError) as error:
            broken = _broken(url, error)
            if isinstance(error, _NO_CONNECTION) and not self._has_answered:
                broken = SourceUnreachable(str(broken))
            raise broken from error
        self._has_answered = True
        return response


Renew = Callable[[Line, str], Awaitable[Mapping[str, str]]]
"""Makes new credentials, as headers, of the challenge in a 401; raises SourceError."""


@asynccontextmanager
async def open_line(
    origin: URL,
    *,
    headers: Mapping[str, str] | None = None,
    renew: Renew | None = None,
    user_agent: str = USER_AGENT,
    patience: Patience | None = None,
    rate: Rate | None = None,
) -> AsyncGenerator[Line, None]:
    """For `async with`. Proxies come from the usual variables of the environment.

    Args:
        origin: scheme, host and port; the rest does not count.
        headers: credentials; sent to the origin only.
        renew: called with the challenge of a 401 from the origin.
    """
    patience = patience or Patience()
    resolver = GuardedResolver(origin.host or "")
    # aiohttp's own context is as old as the process, and knows only the certificates of then.
    context = await asyncio.to_thread(ssl.create_default_context)
    context.set_alpn_protocols(("http/1.1",))
    connector = TCPConnector(resolver=resolver, limit=2 * patience.num_streams, ssl=context)
    timeout = ClientTimeout(total=None, sock_connect=patience.stall_s, sock_read=patience.stall_s)
    session = ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=DummyCookieJar(),
        headers={hdrs.USER_AGENT: user_agent, hdrs.ACCEPT_ENCODING: "identity"},
        auto_decompress=False,
        trust_env=True,
        read_bufsize=CHUNK_BYTES,
    )
    async with session:
        yield Line(session, origin, resolver, patience, rate or Rate(), headers or {}, renew)


async def _check(response: ClientResponse, *, are_redirects_fine: bool = False) -> None:
    if response.status >= 400:
        try:
            body = await response.content.read(MAX_ERROR_BYTES)
        except (ClientError, TimeoutError, OSError) as error:
            raise _broken(response.url, error) from error
        raise _refusal(response, body.decode("utf-8", "replace").strip())
    if response.status >= 300 and not are_redirects_fine:
        raise SourceError(f"unexpected status code {response.status}")
    encoding = response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower()
    if encoding != "identity":
        raise SourceError(f"{response.url.host} sent a compressed body that nobody asked for")


def _refusal(response: ClientResponse, body: str) -> SourceError:
    if response.status in _WORTH_A_RETRY:
        wait = response.headers.get(hdrs.RETRY_AFTER, "")
        retry_after_s = float(wait) if wait.isascii() and wait.isdigit() else 0.0
        return SourceBroke(f"{response.status}: {body}", retry_after_s)
    if response.status == 401:
        return SourceUnauthorized()
    return SourceRefused(response.status, body)


def _broken(url: URL, error: Exception) -> SourceBroke:
    reason = "no data came for too long" if isinstance(error, TimeoutError) else str(error)
    if isinstance(error, ClientConnectorError):  # its own text tells of ssl:default
        cause, is_proxys = error.os_error, isinstance(error, ClientProxyConnectionError)
        number = None if isinstance(cause, gaierror) else cause.errno  # it has numbers of its own
        known = os.strerror(number) if number else cause.strerror
        place = f" to the proxy {error.host}:{error.port}" if is_proxys else ""
        reason = f"cannot connect{place}: {known or cause}"
    return SourceBroke(f"{url.host}: {reason or type(error).__name__}")
