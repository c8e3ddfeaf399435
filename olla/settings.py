"""Environment -> one frozen Settings. Nothing else in olla reads the environment.

`OLLA_X` wins over `OLLAMA_X`. A value that cannot be used is refused with its name and the
accepted form, never replaced in silence. The table is spec/cli.md section 8.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from olla.durations import FOREVER, keep_alive, parse_duration
from olla.errors import InvalidDuration, InvalidSetting
from olla.options import QUANTIZATIONS

DEFAULT_PORT = 11434
DEFAULT_SOURCES = ("package", "ollama", "hf", "modelscope")
"""Where names without a host are looked for, in this order."""
DTYPES = ("auto", "float32", "bfloat16", "float16")

_FALSE = frozenset({"0", "f", "false"})
_INTEGER = re.compile(r"[+-]?[0-9]+")
_LOOPBACK = re.compile(r"localhost|::1|127(\.[0-9]+){3}")
_SIZE = re.compile(r"(\d{1,12})(|KiB|MiB|GiB)", re.ASCII)
_SIZE_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_T = TypeVar("_T")


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


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, with the default that holds when the environment says nothing."""

    home: Path
    models: Path
    models_extra: tuple[Path, ...] = ()
    address: Address = Address()
    keep_alive_s: float = 300.0
    load_timeout_s: float = 300.0
    context_length: int = 0
    max_loaded_models: int = 3
    max_queue: int = 512
    origins: tuple[str, ...] = ()
    prune: bool = True
    share: bool = False
    sources: tuple[str, ...] = DEFAULT_SOURCES
    history: bool = True
    autostart: bool = True
    colour: bool = True
    debug: bool = False
    dtype: str = "auto"
    quantize: str = "auto"
    device: str = "auto"
    num_threads: int = 0
    kv_cache_bytes: int = 0
    profile: bool = False
    go_template: bool | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment.

        Raises:
            InvalidSetting: a variable whose value cannot be used.
        """
        env = _Environment(environ)
        home = env.read("HOME", _path, Path("~/.olla").expanduser())
        return cls(
            address=env.read("HOST", Address.parse, Address()),
            home=home,
            models=env.read("MODELS", _path, home / "models"),
            models_extra=env.read("MODELS_EXTRA", _paths, ()),
            keep_alive_s=env.read("KEEP_ALIVE", _keep_alive, 300.0),
            load_timeout_s=env.read("LOAD_TIMEOUT", _timeout, 300.0),
            context_length=env.read("CONTEXT_LENGTH", _count, 0),
            max_loaded_models=env.read("MAX_LOADED_MODELS", _count, 0) or 3,
            max_queue=env.read("MAX_QUEUE", _count, 512),
            origins=env.read("ORIGINS", _origins, ()),
            prune=not env.read("NOPRUNE", _flag, False),
            share=env.read("SHARE", _flag, False),
            sources=env.read("SOURCES", _sources, DEFAULT_SOURCES),
            history=not env.read("NOHISTORY", _flag, False),
            autostart=env.read("AUTOSTART", _flag, True),
            colour=not environ.get("NO_COLOR"),  # https://no-color.org
            debug=env.read("DEBUG", _flag, False),
            dtype=env.read("DTYPE", _dtype, "auto"),
            quantize=env.read("QUANTIZE", _quantize, "auto"),
            device=env.read("DEVICE", str, "auto"),
            num_threads=env.read("NUM_THREADS", _count, 0),
            kv_cache_bytes=env.read("KV_CACHE", _size, 0),
            profile=env.read("PROFILE", _flag, False),
            go_template=env.read("GO_TEMPLATE", _flag, None),
        )


class _Environment:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def read(self, name: str, parse: Callable[[str], _T], default: _T) -> _T:
        for variable in (f"OLLA_{name}", f"OLLAMA_{name}"):
            text = self._environ.get(variable, "").strip().strip("\"'").strip()
            if text:
                try:
                    return parse(text)
                except ValueError as error:
                    raise InvalidSetting(f"{variable}={text!r}: {error}") from error
        return default


def _split_port(hostport: str) -> tuple[str, str]:
    """`[::1]:1`, `::1`, `host:1`, `:1` or `host` -> host, port text ("" when there is none)."""
    if hostport.startswith("["):
        host, _, rest = hostport[1:].partition("]")
        return host, rest.removeprefix(":")
    if hostport.count(":") > 1:
        return hostport, ""
    host, _, port = hostport.partition(":")
    return host, port


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(_path(part) for part in text.split(os.pathsep) if part)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("expected a whole number, 0 or more")
    return int(text)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError('expected a size such as "512MiB" or "4GiB"')
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _flag(text: str) -> bool:
    """Go's bools; any other text is true, as in Ollama."""
    return text.lower() not in _FALSE


def _origins(text: str) -> tuple[str, ...]:
    entries = tuple(entry.strip() for entry in text.split(",") if entry.strip())
    if not all("://" in entry or "*" in entry for entry in entries):
        raise ValueError('expected origins such as "http://host:port", with "*" for any text')
    return entries


def _sources(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not set(names) <= set(DEFAULT_SOURCES):
        raise ValueError(f"expected some of {', '.join(DEFAULT_SOURCES)}, with commas between")
    return tuple(dict.fromkeys(names))


def _dtype(text: str) -> str:
    return _one_of(DTYPES, text)


def _quantize(text: str) -> str:
    return _one_of(QUANTIZATIONS, text)


def _one_of(choices: tuple[str, ...], text: str) -> str:
    if text not in choices:
        raise ValueError(f"expected one of {', '.join(choices)}")
    return text


def _keep_alive(text: str) -> float:
    return keep_alive(_seconds(text))


def _timeout(text: str) -> float:
    seconds = _seconds(text)
    return seconds if seconds > 0 else FOREVER


def _seconds(text: str) -> float:
    if _INTEGER.fullmatch(text):
        return float(text)
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise ValueError('expected seconds or a duration such as "5m"') from error
