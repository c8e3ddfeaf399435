"""Settings: every variable, both prefixes, and what happens to values that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olla.address import Address
from olla.cli.settings_page import settings_text
from olla.durations import FOREVER
from olla.errors import InvalidSetting
from olla.settings import Settings

SETTINGS_PAGE = Path(__file__).parent.parent / "docs" / "settings.md"


class RecordingEnvironment(Mapping[str, str]):
    """An empty environment that remembers which variables were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> str:
        self.asked.append(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def variables() -> list[str]:
    environ = RecordingEnvironment()
    Settings.from_env(environ)
    return environ.asked


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:80", "http://1.2.3.4:80"),
        ("localhost:1234", "http://localhost:1234"),
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        ("1.2.3.4:x", "http://1.2.3.4:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("https://example.com:8443/ollama/", "https://example.com:8443/ollama"),
        ("example.com/ollama", "http://example.com:11434/ollama"),
        ("ollama.com", "https://ollama.com:443"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("[::]:1234", "http://[::1]:1234"),
    ],
)
def test_a_host_is_read_into_the_url_that_a_client_dials(text: str, url: str) -> None:
    assert Settings.from_env({"OLLAMA_HOST": text}).address.url == url


def test_a_bare_port_binds_every_address() -> None:
    address = Address.parse(":1234")

    assert (address.host, address.port) == ("", 1234)
    assert address.connect_host == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "localhost", "127.0.0.1", "127.9.9.9:1", "::1", ":80"])
def test_addresses_of_this_machine_are_loopback(text: str) -> None:
    assert Settings.from_env({"OLLA_HOST": text}).address.is_loopback


@pytest.mark.parametrize("text", ["1.2.3.4", "example.com", "127.example.com", "ollama.com"])
def test_other_addresses_are_not_loopback(text: str) -> None:
    assert not Settings.from_env({"OLLA_HOST": text}).address.is_loopback


@given(st.text(max_size=40))
def test_any_host_gives_a_port_that_can_be_dialled(text: str) -> None:
    assert 0 <= Address.parse(text).port <= 65535


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})

    home = Path("~/.olla").expanduser()
    assert settings == Settings(home=home, models=home / "models")


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("HOME", "/h", "home", Path("/h")),
        ("HOME", "/h", "models", Path("/h/models")),
        ("MODELS", "/m", "models", Path("/m")),
        ("MODELS", "m", "models", Path.cwd() / "m"),
        ("MODELS", "~/m", "models", Path("~/m").expanduser()),
        ("KEEP_ALIVE", "10m", "keep_alive_s", 600.0),
        ("KEEP_ALIVE", "60", "keep_alive_s", 60.0),
        ("KEEP_ALIVE", "0", "keep_alive_s", 0.0),
        ("KEEP_ALIVE", "-1", "keep_alive_s", FOREVER),
        ("KEEP_ALIVE", "-1s", "keep_alive_s", FOREVER),
        ("KEEP_ALIVE", "9" * 400, "keep_alive_s", FOREVER),
        ("LOAD_TIMEOUT", "30s", "load_timeout_s", 30.0),
        ("LOAD_TIMEOUT", "0", "load_timeout_s", FOREVER),
        ("LOAD_TIMEOUT", "-1", "load_timeout_s", FOREVER),
        ("CONTEXT_LENGTH", "8192", "context_length", 8192),
        ("MAX_LOADED_MODELS", "2", "max_loaded_models", 2),
        ("MAX_LOADED_MODELS", "0", "max_loaded_models", 0),
        ("MAX_QUEUE", "10", "max_queue", 10),
        ("NOPRUNE", "1", "prune", False),
        ("NOPRUNE", "0", "prune", True),
        ("NOHISTORY", "true", "history", False),
        ("AUTOSTART", "0", "autostart", False),
        ("AUTOSTART", "F", "autostart", False),
        ("DEBUG", "1", "debug", True),
        ("DEBUG", "2", "debug", True),
        ("DEBUG", "false", "debug", False),
        ("DTYPE", "float32", "dtype", "float32"),
        ("QUANTIZE", "int8", "quantize", "int8"),
        ("KV_CACHE_TYPE", "q8_0", "kv_cache_type", "q8_0"),
        ("PROFILE", "1", "profile", True),
        ("DEVICE", "cpu", "device", "cpu"),
        ("GO_TEMPLATE", "1", "go_template", True),
        ("GO_TEMPLATE", "false", "go_template", False),
        ("NUM_THREADS", "4", "num_threads", 4),
        ("NUM_PARALLEL", "2", "num_parallel", 2),
        ("ALLOWED_HOSTS", "Chat.example.com, b", "allowed_hosts", ("chat.example.com", "b")),
        ("INSECURE", "1", "insecure", True),
        ("API_KEY", "olla_x", "api_key", "olla_x"),
        ("MAX_CONNECTIONS", "5", "max_connections", 5),
        ("IDLE_TIMEOUT", "10s", "idle_timeout_s", 10.0),
        ("BODY_TIMEOUT", "0", "body_timeout_s", FOREVER),
        ("REQUEST_TIMEOUT", "1h", "request_timeout_s", 3600.0),
        ("SHUTDOWN_TIMEOUT", "0", "shutdown_timeout_s", 0.0),
        ("LOG", "json", "log", "json"),
        ("DEBUG_LOG_REQUESTS", "true", "debug_log_requests", True),
    ],
)
@pytest.mark.parametrize("prefix", ["OLLA_", "OLLAMA_"])
def test_each_variable_is_read_under_both_prefixes(
    prefix: str, name: str, text: str, field: str, value: object
) -> None:
    assert getattr(Settings.from_env({prefix + name: text}), field) == value


@pytest.mark.parametrize(("text", "colour"), [("1", False), ("0", False), ("", True)])
def test_any_text_in_no_color_means_no_colour(text: str, colour: bool) -> None:
    assert Settings.from_env({"NO_COLOR": text}).colour is colour


def test_our_own_prefix_wins() -> None:
    environ = {"OLLA_MAX_QUEUE": "1", "OLLAMA_MAX_QUEUE": "2"}

    assert Settings.from_env(environ).max_queue == 1


@pytest.mark.parametrize("text", [" 7 ", '"7"', "'7'", '" 7 "'])
def test_blanks_and_quotes_round_a_value_are_dropped(text: str) -> None:
    assert Settings.from_env({"OLLA_MAX_QUEUE": text}).max_queue == 7


@pytest.mark.parametrize("text", ["", "  ", '""'])
def test_an_empty_value_is_no_value(text: str) -> None:
    assert Settings.from_env({"OLLA_MAX_QUEUE": text, "OLLAMA_MAX_QUEUE": "9"}).max_queue == 9


@pytest.mark.parametrize(
    ("variable", "text", "error"),
    [
        ("OLLA_MAX_QUEUE", "many", "expected a whole number, 0 or more"),
        ("OLLAMA_MAX_QUEUE", "-1", "expected a whole number, 0 or more"),
        ("OLLA_CONTEXT_LENGTH", "4k", "expected a whole number, 0 or more"),
        ("OLLA_KEEP_ALIVE", "soon", 'expected seconds or a duration such as "5m"'),
        ("OLLA_LOAD_TIMEOUT", "5x", 'expected seconds or a duration such as "5m"'),
        ("OLLA_DTYPE", "int8", "expected one of auto, float32, bfloat16, float16"),
        ("OLLA_QUANTIZE", "int5", "expected one of auto, none, int8, int4, nf4"),
        ("OLLAMA_KV_CACHE_TYPE", "q4_0", "expected one of auto, f16, q8_0"),
        ("OLLA_MAX_CONNECTIONS", "0", "expected a whole number, 1 or more"),
        ("OLLA_LOG", "xml", "expected one of text, json"),
        (
            "OLLA_ALLOWED_HOSTS",
            "https://x",
            'expected host names such as "chat.example.com", without port or scheme',
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(
    variable: str, text: str, error: str
) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({variable: text})

    assert str(caught.value) == f"{variable}={text!r}: {error}"


def test_the_table_of_the_settings_page_is_what_is_read() -> None:
    page = SETTINGS_PAGE.read_text("utf-8")
    cells = re.findall(r"^\| (`.+?`) \| .+ \| .+ \|$", page, re.MULTILINE)

    assert [name for cell in cells for name in re.findall(r"\w+", cell)] == variables()


def test_the_settings_page_is_not_stale() -> None:
    assert SETTINGS_PAGE.read_text("utf-8") == settings_text(), (
        "run: python -m olla.cli.settings_page docs/settings.md"
    )


OF_OLLAMA = """
HOST MODELS KEEP_ALIVE LOAD_TIMEOUT CONTEXT_LENGTH NUM_PARALLEL MAX_LOADED_MODELS MAX_QUEUE
MAX_TRANSFER_STREAMS ORIGINS NOPRUNE NOHISTORY EDITOR DEBUG DEBUG_LOG_REQUESTS FLASH_ATTENTION
KV_CACHE_TYPE GPU_OVERHEAD SCHED_SPREAD LLM_LIBRARY IGPU_ENABLE VULKAN GO_TEMPLATE NO_CLOUD REMOTES
AUTH EXPERIMENT CLOUD_BASE_URL TEST_*
"""


@pytest.mark.parametrize("name", OF_OLLAMA.split())
def test_every_variable_of_ollama_is_read_or_said_not_to_be(name: str) -> None:
    assert f"`OLLAMA_{name}`" in SETTINGS_PAGE.read_text("utf-8")


CONFIG = """
keep_alive = "1h"
max_queue = 7
noprune = true
load_timeout = 150
origins = ["https://a.example", "https://b.example"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_the_file_in_the_home_says_what_the_environment_does_not(config: Path) -> None:
    config.write_text(CONFIG)
    settings = Settings.from_env({"OLLA_HOME": str(config.parent), "OLLAMA_MAX_QUEUE": "9"})

    assert settings.keep_alive_s == 3600
    assert settings.max_queue == 9
    assert not settings.prune
    assert settings.origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_queue = -1", "config.toml: max_queue='-1': expected a whole number, 0 or more"),
        ('dtype = "int8"', "config.toml: dtype='int8': expected one of auto, float32,"),
        ("max_queue = {}", "config.toml: max_queue: expected a text, a number, true, false or a"),
        ("max_que = 1", "unknown setting 'max_que'; known are allowed_hosts, api_key,"),
        ('home = "/x"', "unknown setting 'home'"),
        ("max_queue", "config.toml: not TOML: "),
        ("\udcff", "config.toml: not TOML: "),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(config: Path, text: str, error: str) -> None:
    config.write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({"OLLA_HOME": str(config.parent)})

    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("3KiB", 3072), ("512MiB", 2**29), ("4GiB", 2**32)],
)
def test_the_cache_takes_a_size(text: str, size: int) -> None:
    assert Settings.from_env({"OLLA_KV_CACHE": text}).kv_cache_bytes == size


@pytest.mark.parametrize("text", ["4 GB", "-1", "GiB", "1.5GiB", "4gib", "\u0663"])
def test_a_size_that_is_none_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidSetting, match="expected a size such as"):
        Settings.from_env({"OLLA_KV_CACHE": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("package", "ollama", "hf", "modelscope")),
        ("modelscope, hf", ("modelscope", "hf")),
        ("hf,hf", ("hf",)),
    ],
)
def test_sources_are_an_order(text: str, expected: tuple[str, ...]) -> None:
    assert Settings.from_env({"OLLA_SOURCES": text}).sources == expected


@pytest.mark.parametrize("text", ["gitlab", "hf;ollama", ","])
def test_sources_that_nobody_knows(text: str) -> None:
    with pytest.raises(InvalidSetting, match="expected some of package, ollama, hf, modelscope"):
        Settings.from_env({"OLLA_SOURCES": text})


@pytest.mark.parametrize(
    ("environ", "editor"),
    [
        ({}, "vi"),
        ({"EDITOR": "ed"}, "ed"),
        ({"EDITOR": "ed", "VISUAL": "code -w"}, "code -w"),
        ({"VISUAL": "code -w", "OLLAMA_EDITOR": "nano"}, "nano"),
    ],
)
def test_the_editor_is_the_first_that_is_named(environ: dict[str, str], editor: str) -> None:
    assert Settings.from_env(environ).editor == editor
