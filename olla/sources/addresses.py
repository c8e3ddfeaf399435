"""Which addresses a transfer may reach: an origin out in the world does not lead to one inside.

Without this a server could send us, with a redirect, to a router, to a cloud's metadata service
or to a port of this machine. Knows nothing of HTTP.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from olla.errors import SourceError


class GuardedResolver(AbstractResolver):
    """Looks names up for one transfer.

    The user names the origin and the proxies, so those may be anywhere. Other hosts must be out
    in the world, unless the origin itself is not.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._proxies = {urlsplit(proxy).hostname for proxy in getproxies().values()}
        self.is_inside = _is_private(origin)
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        is_private = any(_is_private(result["host"]) for result in found)
        if host == self._origin:
            self.is_inside = is_private
        elif is_private and host not in self._proxies and not self.is_inside:
            raise self._refusal(host)
        return found

    def check_literal(self, host: str) -> None:
        """Refuse an address of a redirect that stands there in digits, and is not looked up.

        Raises:
            SourceError: it is a private one.
        """
        if _is_private(host) and not self.is_inside:
            raise self._refusal(host)

    async def close(self) -> None:
        await self._resolver.close()

    def _refusal(self, host: str) -> SourceError:
        return SourceError(
            f"{self._origin} redirects to the private address {host}, which only a registry in "
            "the same network may do"
        )


def _is_private(host: str) -> bool:
    """Whether this is the address, in digits, of something that is not out in the world."""
    with suppress(ValueError):
        return not ip_address(host.partition("%")[0]).is_global
    return False
