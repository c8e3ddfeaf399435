"""Environment and config.toml -> one frozen Settings. Nothing else in olla reads either.

`OLLA_X` wins over `OLLAMA_X`, and both over `x` in config.toml. A value that cannot be used is
refused with its name and the accepted form, never replaced in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from olla.address import Address
from olla.durations import FOREVER
from olla.errors import InvalidSetting
from olla.variables import DEFAULT_SOURCES, VARIABLES, Variable

CONFIG_NAME = "config.toml"
_DEFAULT_ADDRESS = Address()


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, with the default that holds when nothing else is said; 0 is automatic."""

    home: Path
    models: Path
    models_extra: tuple[Path, ...] = ()
    address: Address = _DEFAULT_ADDRESS
    keep_alive_s: float = 300.0
    load_timeout_s: float = 300.0
    context_length: int = 0
    max_loaded_models: int = 0
    num_parallel: int = 0
    max_queue: int = 512
    origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    insecure: bool = False
    api_key: str = ""
    max_connections: int = 1000
    idle_timeout_s: float = 75.0
    body_timeout_s: float = 120.0
    request_timeout_s: float = FOREVER
    shutdown_timeout_s: float = 5.0
    prune: bool = True
    share: bool = False
    sources: tuple[str, ...] = DEFAULT_SOURCES
    history: bool = True
    editor: str = "vi"
    autostart: bool = True
    colour: bool = True
    log: str = "text"
    debug: bool = False
    debug_log_requests: bool = False
    dtype: str = "auto"
    quantize: str = "auto"
    device: str = "auto"
    num_threads: int = 0
    kv_cache_bytes: int = 0
    kv_cache_type: str = "auto"
    speculate: str = "auto"
    profile: bool = False
    go_template: bool | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment, and `config.toml` in the home for what it does not say.

        Raises:
            InvalidSetting: a value that cannot be used, or a file that cannot be read.
        """
        fields: dict[str, Any] = {"home": Path("~/.olla").expanduser()}
        config: Mapping[str, Any] = {}
        for variable in VARIABLES:
            read = _from_variable(variable, environ) or _from_config(variable, config)
            if read is not None:
                fields[variable.field] = _parsed(variable, *read)
            if variable.field == "home":
                config = _read_config(fields["home"] / CONFIG_NAME)
        fields.setdefault("models", fields["home"] / "models")
        return cls(**fields)

    @property
    def keys_path(self) -> Path:
        """Where the hashes of the keys lie."""
        return self.home / "keys.json"


_Read = tuple[str, str]
"""Where a value stands, for errors, and its text."""


def _from_variable(variable: Variable, environ: Mapping[str, str]) -> _Read | None:
    for name in variable.names:
        text = environ.get(name, "").strip().strip("\"'").strip()
        if text:
            return name, text
    return None


def _from_config(variable: Variable, config: Mapping[str, Any]) -> _Read | None:
    if not variable.key or variable.key not in config:
        return None
    place, value = f"{CONFIG_NAME}: {variable.key}", config[variable.key]
    if isinstance(value, bool):
        return place, "1" if value else "0"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return place, ",".join(value)
    if isinstance(value, int | float | str):
        return place, str(value)
    raise InvalidSetting(f"{place}: expected a text, a number, true, false or a list of texts")


def _parsed(variable: Variable, place: str, text: str) -> Any:
    try:
        return variable.parse(text)
    except ValueError as error:
        raise InvalidSetting(f"{place}={text!r}: {error}") from error


def _read_config(path: Path) -> Mapping[str, Any]:
    """The file's settings; none if there is no file."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}") from error
    import tomllib  # noqa: PLC0415 - most have no such file, and commands start without it

    try:
        config = tomllib.loads(data.decode())
    except ValueError as error:
        raise InvalidSetting(f"{path}: not TOML: {error}") from error
    known = {variable.key for variable in VARIABLES if variable.key}
    unknown = sorted(config.keys() - known)
    if unknown:
        raise InvalidSetting(
            f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    return config
