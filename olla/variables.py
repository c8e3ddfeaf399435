"""The table of settings: what each is called, which field of Settings it fills, how it is read.

`docs/settings.md` is written from it. A parser raises ValueError with the form that it accepts.
The table of Ollama's variables is spec/cli.md section 8.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olla.address import Address
from olla.durations import FOREVER, keep_alive, parse_duration
from olla.errors import InvalidDuration
from olla.options import QUANTIZATIONS

DEFAULT_SOURCES = ("package", "ollama", "hf", "modelscope")
"""Where names without a host are looked for, in this order."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
KV_CACHE_TYPES = ("auto", "f16", "q8_0")
LOG_FORMATS = ("text", "json")
SPECULATE = ("auto", "on", "off")

_FALSE = frozenset({"0", "f", "false"})
_INTEGER = re.compile(r"[+-]?[0-9]+")
_SIZE = re.compile(r"(\d{1,12})(|KiB|MiB|GiB)", re.ASCII)
_SIZE_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Variable:
    """`names` are its variables, the first of which wins; `default` and `meaning` are for people.

    `also` are variables of the system that count where ours are not set. `key` is its name in
    config.toml, "" where it cannot be set there.
    """

    name: str
    field: str
    parse: Callable[[str], Any]
    default: str
    meaning: str
    is_ours: bool = True
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        own = (f"OLLA_{self.name}", f"OLLAMA_{self.name}") if self.is_ours else (self.name,)
        return (*own, *self.also)

    @property
    def key(self) -> str:
        return "" if self.name == "HOME" else self.name.lower()


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(_path(part) for part in text.split(os.pathsep) if part)


def _sources(text: str) -> tuple[str, ...]:
    names = _words(text)
    if not names or not set(names) <= set(DEFAULT_SOURCES):
        raise ValueError(f"expected some of {', '.join(DEFAULT_SOURCES)}, with commas between")
    return tuple(dict.fromkeys(names))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("expected a whole number, 0 or more")
    return int(text)


def _some(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError("expected a whole number, 1 or more")
    return int(text)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError('expected a size such as "512MiB" or "4GiB"')
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _on(text: str) -> bool:
    """Go's bools; any other text is true, as in Ollama."""
    return text.lower() not in _FALSE


def _off(text: str) -> bool:
    return not _on(text)


def _never(text: str) -> bool:
    """Any text at all turns it off (https://no-color.org)."""
    return False


def _origins(text: str) -> tuple[str, ...]:
    entries = _words(text)
    if not all("://" in entry or "*" in entry for entry in entries):
        raise ValueError('expected origins such as "http://host:port", with "*" for any text')
    return entries


def _words(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _hosts(text: str) -> tuple[str, ...]:
    entries = tuple(entry.lower() for entry in _words(text))
    if any(set(entry) & set("/: ") for entry in entries):
        raise ValueError('expected host names such as "chat.example.com", without port or scheme')
    return entries


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def _keep_alive(text: str) -> float:
    return keep_alive(_seconds(text))


def _timeout(text: str) -> float:
    seconds = _seconds(text)
    return seconds if seconds > 0 else FOREVER


def _patience(text: str) -> float:
    return max(_seconds(text), 0.0)


def _seconds(text: str) -> float:
    if _INTEGER.fullmatch(text):
        return float(text)
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise ValueError('expected seconds or a duration such as "5m"') from error


VARIABLES = (
    Variable("HOME", "home", _path, "`~/.olla`",
             "the directory for the store, the keys, the history and the log; not in `config.toml`, which lies in it"),
    Variable("HOST", "address", Address.parse, "`127.0.0.1:11434`",
             "where the daemon listens and where commands find it: `[scheme://]host[:port][/path]`. `:1234` listens on "
             "every address. What other machines can reach needs [keys](operation.md#keys)"),
    Variable("MODELS", "models", _path, "`models` in the home", "the store; may be an existing Ollama store"),
    Variable("MODELS_EXTRA", "models_extra", _paths, "none",
             "more stores, with `:` between, that are [only read](sources.md#the-store): a disk that machines share, "
             "an Ollama store"),
    Variable("KEEP_ALIVE", "keep_alive_s", _keep_alive, "`5m`",
             "how long a model stays loaded after its last request: seconds or a duration such as `1h30m`; `0` unloads "
             "at once, a negative value never"),
    Variable("LOAD_TIMEOUT", "load_timeout_s", _timeout, "`5m`",
             "how long a load may stand still before it is given up, and how long it may wait for models that are in "
             "use; `0` or less waits for ever"),
    Variable("CONTEXT_LENGTH", "context_length", _count, "automatic",
             "the context window, in tokens, of requests that do not set `num_ctx`"),
    Variable("MAX_LOADED_MODELS", "max_loaded_models", _count, "automatic",
             "how many models may be loaded at once, if they fit; automatic is 3 for each GPU, or 3"),
    Variable("NUM_PARALLEL", "num_parallel", _count, "automatic",
             "how many requests a model answers at once; further ones wait, and clients take turns. Automatic is 64"),
    Variable("MAX_QUEUE", "max_queue", _count, "512",
             "how many requests may wait for a model to be loaded before further ones are turned away"),
    Variable("ORIGINS", "origins", _origins, "none",
             "web pages that may call the daemon besides those on this machine: origins such as "
             "`https://chat.example.com`, with commas between; `*` stands for any text"),
    Variable("ALLOWED_HOSTS", "allowed_hosts", _hosts, "none",
             "names by which the daemon may be called besides those of this machine and IP addresses: "
             "`chat.example.com`, with commas between; `*` is any"),
    Variable("INSECURE", "insecure", _on, "off",
             "serve other machines though there is no key: whoever reaches the address may do everything"),
    Variable("API_KEY", "api_key", str, "none", "the [key](operation.md#keys) that commands send"),
    Variable("MAX_CONNECTIONS", "max_connections", _some, "1000",
             "how many connections may be open at once; further ones are answered with status 503"),
    Variable("IDLE_TIMEOUT", "idle_timeout_s", _timeout, "`75s`",
             "how long a connection may say nothing, or take to send the head of a request; `0` waits for ever"),
    Variable("BODY_TIMEOUT", "body_timeout_s", _timeout, "`2m`",
             "how long the body of a request may take, other than an uploaded file's; `0` waits for ever"),
    Variable("REQUEST_TIMEOUT", "request_timeout_s", _timeout, "none",
             "how long a reply may take from the request to its end, with all waiting; `0` is no limit"),
    Variable("SHUTDOWN_TIMEOUT", "shutdown_timeout_s", _patience, "`5s`",
             "how long the daemon waits for running requests when it is told to end; a second signal ends it at once"),
    Variable("NOPRUNE", "prune", _off, "off", "keep blobs that no model uses"),
    Variable("SHARE", "share", _on, "off",
             "let other machines [pull the models here](sources.md#from-one-olla-to-another)"),
    Variable("SOURCES", "sources", _sources, "`package,ollama,hf,modelscope`",
             "where names without a host are looked for, and [in which order](sources.md#well-known-names)"),
    Variable("NOHISTORY", "history", _off, "off", "do not keep a history of the interactive prompt"),
    Variable("EDITOR", "editor", str, "`vi`", "the editor that Ctrl-G opens at the prompt",
             also=("VISUAL", "EDITOR")),
    Variable("AUTOSTART", "autostart", _on, "on",
             "start the daemon when a command finds none on a loopback address"),
    Variable("NO_COLOR", "colour", _never, "not set", "any text: print without colours", is_ours=False),
    Variable("LOG", "log", _one_of(LOG_FORMATS), "`text`",
             "how the log is written: `text` is one line of `key=value` for each event, `json` one object"),
    Variable("DEBUG", "debug", _on, "off", "log more; `1` and `2` are the same"),
    Variable("DEBUG_LOG_REQUESTS", "debug_log_requests", _on, "off",
             "keep the body of every request for a reply in a new temporary folder that the log names, with a script "
             "that sends it again. They hold what users wrote"),
    Variable("DTYPE", "dtype", _one_of(DTYPES), "`auto`",
             "the number format that models compute in: `auto`, `float32`, `bfloat16` or `float16`; `auto` is what "
             "the hardware is fast at: bfloat16 where torch computes and has it, and the file's weights as they are, with float32 "
             "beside them, where the compiled core does"),
    Variable("QUANTIZE", "quantize", _one_of(QUANTIZATIONS), "`auto`",
             "the precision that weights have in memory: `auto` as the file has them, `none` as floats, `int8` or "
             "`int4` on a CPU, `int8` or `nf4` on a GPU (these need `pip install 'olla[cuda]'`). A model's or a "
             "request's [`quantize`](modelfile.md#parameters) wins. Models that run through transformers keep their "
             "files' precision on a GPU"),
    Variable("DEVICE", "device", str, "`auto`", "the device that models run on: `auto`, `cpu`, `cuda` or `cuda:1`"),
    Variable("NUM_THREADS", "num_threads", _count, "automatic",
             "CPU threads for each runner: one for each physical core that affinity and control groups leave it. A "
             "model's or a request's [`num_thread`](modelfile.md#parameters) wins"),
    Variable("KV_CACHE", "kv_cache_bytes", _size, "automatic",
             "memory of each runner for keys and values, such as `512MiB` or `4GiB`; automatic is a quarter of the "
             "memory that is free, or four fifths on a GPU"),
    Variable("KV_CACHE_TYPE", "kv_cache_type", _one_of(KV_CACHE_TYPES), "`auto`",
             "how keys and values are kept. `q8_0`: in 8 bits with a scale for each 32 of them, where the compiled core "
             "computes the model; the same memory holds almost twice the tokens, and long contexts are faster. Elsewhere, "
             "which the log says, and with `auto` or `f16` as floats: of 16 bits in the core, else as the model computes. "
             "See [the cache in 8 bits](engine.md#the-cache-in-8-bits)"),
    Variable("SPECULATE", "speculate", _one_of(SPECULATE), "`auto`",
             "draft tokens ahead and verify several in one step: `auto` in the compiled core, where that changes no reply, "
             "and wherever a model brings a [`DRAFT`](modelfile.md); `on` for every model; `off` never. "
             "See [speculative decoding](engine.md#speculative-decoding)"),
    Variable("PROFILE", "profile", _on, "off",
             "log where the engine's steps spend their time; see [the engine](engine.md)"),
    Variable("GO_TEMPLATE", "go_template", _on, "automatic",
             "of a model's `TEMPLATE` in Go's language and the Jinja template in its files, the one to use: on is Go, "
             "off is Jinja; automatic is Go, unless the Jinja template can do more (tools, thinking)"),
)  # fmt: skip

NOT_READ = (
    ("OLLAMA_MAX_TRANSFER_STREAMS", "transfers have no such setting"),
    ("OLLAMA_FLASH_ATTENTION", "attention is chosen by the device"),
    ("OLLAMA_GPU_OVERHEAD", "`OLLA_KV_CACHE` bounds what a runner takes beside the weights"),
    ("OLLAMA_SCHED_SPREAD", "a model that does not fit on one GPU is spread over all"),
    ("OLLAMA_LLM_LIBRARY", "there is one engine; `OLLA_DEVICE` chooses where it runs"),
    ("OLLAMA_IGPU_ENABLE, OLLAMA_VULKAN", "the GPUs are those that torch finds"),
    ("GGML_VK_VISIBLE_DEVICES, GPU_DEVICE_ORDINAL", "torch has no use for them"),
    ("OLLAMA_NO_CLOUD, OLLAMA_REMOTES, OLLAMA_AUTH, OLLAMA_CLOUD_BASE_URL", "there is no cloud"),
    ("OLLAMA_EXPERIMENT, OLLAMA_TEST_*", "internal to Ollama"),
    ("LLAMA_ARG_FIT, LLAMA_ARG_FIT_TARGET", "internal to llama.cpp"),
)
"""Ollama's variables that mean nothing here, and why."""

READ_ELSEWHERE = (
    ("CUDA_VISIBLE_DEVICES", "the GPUs that torch may use"),
    ("HIP_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES, HSA_OVERRIDE_GFX_VERSION", "the same for AMD's"),
    (
        "HTTP_PROXY, HTTPS_PROXY, NO_PROXY",
        "the way to the network, for pulls and pushes; lower case too",
    ),
    ("SSL_CERT_FILE", "the certificates that pulls and pushes trust"),
)
"""Variables that libraries read."""
