"""Address: where the daemon listens and where clients find it, as OLLA_HOST has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

DEFAULT_PORT = 11434

_LOOPBACK = re.compile(r"localhost|::1|127(\.[0-9]+){3}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the daemon listens, and where the command line finds it."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    scheme: str = "http"
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[scheme://]host[:port][/path]`; a bad port becomes the default, as in Ollama."""
        if text == "ollama.com":
            text = "https://ollama.com"
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "http", text
        default = {"http": 80, "https": 443}.get(scheme) if separator else DEFAULT_PORT
        hostport, _, path = rest.partition("/")
        host, port = _split_port(hostport)
        number = int(port) if port.isascii() and port.isdigit() else -1
        return cls(
            host=host if host or port else "127.0.0.1",
            port=number if 0 <= number <= 65535 else (default or DEFAULT_PORT),
            scheme=scheme,
            path=f"/{path}".rstrip("/"),
        )

    @property
    def is_loopback(self) -> bool:
        return _LOOPBACK.fullmatch(self.connect_host) is not None

    @property
    def connect_host(self) -> str:
        """The host a client dials: the wildcard addresses become loopback."""
        wildcards = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
        return wildcards.get(self.host, self.host)

    @property
    def url(self) -> str:
        host = f"[{self.connect_host}]" if ":" in self.connect_host else self.connect_host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def _split_port(hostport: str) -> tuple[str, str]:
    """`[::1]:1`, `::1`, `host:1`, `:1` or `host` -> host, port text ("" when there is none)."""
    if hostport.startswith("["):
        host, _, rest = hostport[1:].partition("]")
        return host, rest.removeprefix(":")
    if hostport.count(":") > 1:
        return hostport, ""
    host, _, port = hostport.partition(":")
    return host, port
