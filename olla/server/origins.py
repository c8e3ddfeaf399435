"""Which hosts and web pages may talk to the daemon (spec/api.md section 1.1).

The Host guard stops pages that reach the daemon under a name of their own (DNS
rebinding); the origin guard is CORS. Both run before routing and know no route.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")
_SCHEMES = (
    "app",
    "file",
    "tauri",
    "vscode-webview",
    "vscode-file",
    "chrome-extension",
    "safari-extension",
    "moz-extension",
    "ms-browser-extension",
)
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")
_STAINLESS = (
    "arch,async,custom-poll-interval,helper-method,lang,os,package-version,poll-helper,"
    "retry-count,runtime,runtime-version,timeout"
)
_PREFLIGHT_HEADERS = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ",".join(
        [
            "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta",
            "X-Api-Key,X-Request-Id",
            *(f"x-stainless-{name}" for name in _STAINLESS.split(",")),
        ]
    ),
    hdrs.ACCESS_CONTROL_MAX_AGE: "43200",
}


class OriginGuard:
    """Answers preflights, refuses pages of other origins, and names the allowed one in replies."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        """`origins` come on top of the local ones; `*` in one stands for any text."""
        local = [
            f"{scheme}://{host}{port}"
            for scheme in ("http", "https")
            for host in _LOCAL_HOSTS
            for port in ("", ":*")
        ]
        patterns = (*local, *(f"{scheme}://*" for scheme in _SCHEMES), *origins)
        self._allows_all = "*" in origins
        self._allowed = re.compile("|".join(map(_pattern, patterns)), re.IGNORECASE)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = _foreign_origin(request)
        if not origin:
            return await handler(request)
        if not self._allowed.fullmatch(origin):
            return web.Response(status=403)
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204, headers=_PREFLIGHT_HEADERS)
        return await handler(request)

    async def name_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """The hook before any reply's headers are sent, streams' too."""
        origin = _foreign_origin(request)
        if origin and self._allowed.fullmatch(origin):
            allowed = "*" if self._allows_all else origin
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed
            response.headers[hdrs.VARY] = hdrs.ORIGIN


class HostGuard:
    """Refuses requests under a name that is neither this machine's nor allowed by the settings.

    An IP address is no name that a page could have made its own. A daemon on a loopback address
    takes those of this machine and of its networks only, as Ollama's does.
    """

    def __init__(self, listens_on: str, allowed: tuple[str, ...] = ()) -> None:
        """`allowed` holds names in lower case; `*` is any."""
        self._is_local = is_loopback(listens_on)
        self._names = {"", "localhost", socket.gethostname().lower(), listens_on.lower(), *allowed}

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _without_port(request.headers.get(hdrs.HOST, "")).lower()
        address = _address(host)
        if address is not None:
            is_fine = not self._is_local or bool(self._names & {host, "*"}) or _is_near(address)
            return await handler(request) if is_fine else web.Response(status=403)
        if not self._is_known_name(host):
            return web.Response(status=403)
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204)
        return await handler(request)

    def _is_known_name(self, host: str) -> bool:
        return "*" in self._names or host in self._names or host.endswith(_LOCAL_DOMAINS)


def _foreign_origin(request: web.Request) -> str:
    """The Origin of a request, "" when there is none or it is the daemon itself."""
    origin = request.headers.get(hdrs.ORIGIN, "")
    host = request.headers.get(hdrs.HOST, "")
    return "" if origin in {f"http://{host}", f"https://{host}"} else origin


def _pattern(origin: str) -> str:
    return ".*".join(map(re.escape, origin.split("*")))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_local(request: web.Request) -> bool:
    """Whether the request comes from this machine."""
    address = _address(request.remote or "")
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback  # how a dual-stack socket sees IPv4
    return address.is_loopback


def is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_near(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_loopback or address.is_private or address.is_unspecified or _is_own(address)


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Only an address of this machine can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
