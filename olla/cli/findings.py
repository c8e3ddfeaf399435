"""What `olla doctor` looks at: each check gives findings, and hints at what would be faster.

Knows nothing about how they are shown.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from olla import __version__
from olla.cli.text import format_size
from olla.client import Client
from olla.errors import ClientError, ServerUnreachable
from olla.settings import Settings

SURVEY_TIMEOUT_S = 120.0
HUB_TIMEOUT_S = 4.0
LITTLE_DISK_BYTES = 5_000_000_000
LITTLE_MEMORY_BYTES = 2_000_000_000

Survey = Mapping[str, Any]
"""What olla/engine/survey.py tells."""


class Health(StrEnum):
    """`NOTE`: olla works, and not as well as it could."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "BROKEN"


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    health: Health
    text: str


def find_olla(settings: Settings) -> Iterator[Finding]:
    python = f"Python {platform.python_version()}"
    yield Finding("olla", Health.OK, f"{__version__}, {python}, home {settings.home}")


def take_survey() -> Survey | Finding:
    """What torch and the engine find; a finding if they cannot be started."""
    try:
        return _told_by("olla.engine.survey")
    except _Mute as error:
        return Finding("torch", Health.BROKEN, f"{error}; install olla again")


def hub_addresses(sources: tuple[str, ...]) -> Mapping[str, str] | Finding:
    """Where each source looks, as its own client is set up."""
    try:
        told = _told_by("olla.sources.endpoints", *sources)
    except _Mute as error:
        return Finding("hubs", Health.BROKEN, f"{error}; install olla again")
    return {name: _without_login(url) for name, url in told.items()}


class _Mute(Exception):
    """A process that was to tell us something failed; the text says why."""


def _told_by(module: str, *arguments: str) -> Mapping[str, Any]:
    """The JSON that a module of ours prints last, in a process of its own."""
    # -P: the folder that the command runs in may hold a "torch" of its own.
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SURVEY_TIMEOUT_S
        )
        told: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise _Mute(reason) from error
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise _Mute(str(error)) from error
    return told


def _without_login(url: str) -> str:
    """The address of an index may have a password in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def find_engine(survey: Survey) -> Iterator[Finding]:
    """The build of torch, the devices, the compiled core and the memory."""
    build = survey["platform"] or "for CPUs only"
    yield Finding("torch", Health.OK, f"{survey['torch']}, {build}")
    yield Finding("device", Health.OK, f"cpu: {survey['cpu']}, {survey['threads']} threads")
    for index, gpu in enumerate(survey["gpus"]):
        memory = f"{format_size(gpu['free_bytes'])} of {format_size(gpu['total_bytes'])} free"
        yield Finding("device", Health.OK, f"cuda:{index}: {gpu['name']}, {memory}")
    if survey["core_error"]:
        used = survey["core"] or "torch"
        error = f"{survey['core_error']}; {used} is used instead; install olla again"
        yield Finding("core", Health.NOTE, error)
    elif survey["core"]:
        yield Finding("core", Health.OK, f"compiled, {survey['core']}")
    else:
        yield Finding("core", Health.NOTE, "not compiled: torch's own kernels do the work")
    free_bytes = survey["available_bytes"]
    health = Health.OK if free_bytes >= LITTLE_MEMORY_BYTES else Health.NOTE
    yield Finding("memory", health, f"{format_size(free_bytes)} available")


def find_disk(models: Path) -> Iterator[Finding]:
    """Room for models, in the folder or in what there is of its parents."""
    folder = next(path for path in (models, *models.parents) if path.exists())
    if not os.access(folder, os.W_OK) or not folder.is_dir():
        text = f"{folder} cannot be written to; set OLLA_MODELS to a folder that can"
        yield Finding("disk", Health.BROKEN, text)
        return
    free_bytes = shutil.disk_usage(folder).free
    health = Health.OK if free_bytes >= LITTLE_DISK_BYTES else Health.NOTE
    yield Finding("disk", health, f"{format_size(free_bytes)} free for {models}")


def find_server(settings: Settings) -> Iterator[Finding]:
    address = settings.address
    client = Client(address, settings.api_key)
    try:
        versions = client.versions()
    except ServerUnreachable:
        yield _without_server(settings)
    except ClientError as error:
        text = f"what answers at {address.url} is not olla: {error}; set OLLA_HOST to another port"
        yield Finding("server", Health.BROKEN, text)
    else:
        yield _answering(address.url, versions.olla, versions.api)


def _answering(url: str, olla: str, api: str) -> Finding:
    if not olla:
        text = f"another server, with version {api} of the API, answers at {url}"
        return Finding("server", Health.NOTE, text)
    if olla != __version__:
        text = f"olla {olla} answers at {url}; `olla shutdown` makes room for {__version__}"
        return Finding("server", Health.NOTE, text)
    return Finding("server", Health.OK, f"olla {olla} answers at {url}")


def _without_server(settings: Settings) -> Finding:
    address = settings.address
    if not address.is_loopback:
        text = f"nothing answers at {address.url}; start olla there, or correct OLLA_HOST"
        return Finding("server", Health.BROKEN, text)
    try:
        with socket.create_server((address.connect_host, address.port), reuse_port=False):
            pass
    except OSError as error:
        text = f"port {address.port} cannot be used: {error.strerror}; set OLLA_HOST to another"
        return Finding("server", Health.BROKEN, text)
    how = "commands start it" if settings.autostart else "`olla serve` starts it"
    return Finding("server", Health.OK, f"not running, port {address.port} is free; {how}")


def find_hubs(hubs: Mapping[str, str] | Finding) -> Iterator[Finding]:
    """Ask all at once, if we know where they are.

    One that is out of reach is a note: models that are here still run.
    """
    if isinstance(hubs, Finding):
        yield hubs
        return
    answers: dict[str, str] = {}

    def ask(name: str, url: str) -> None:
        answers[name] = _complaint(url)

    threads = [threading.Thread(target=ask, args=hub, daemon=True) for hub in hubs.items()]
    for thread in threads:
        thread.start()
    for thread, (name, url) in zip(threads, hubs.items(), strict=True):
        # Looking up a name knows no time-out: such a thread is left behind.
        thread.join(HUB_TIMEOUT_S + 1)
        complaint = answers.get(name, "no answer")
        text = f"{url} is out of reach: {complaint}" if complaint else f"{url} answers"
        yield Finding(f"hub {name}", Health.NOTE if complaint else Health.OK, text)


def _complaint(url: str) -> str:
    """Why nothing answers; "" if something does, whatever it says."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "olla"})
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


def hints(survey: Survey, settings: Settings, devices: Path = Path("/dev")) -> Iterator[str]:
    """What would make replies faster."""
    has_nvidia = any(devices.glob("nvidia[0-9]*"))
    if has_nvidia and not survey["gpus"]:
        yield "there is an NVIDIA GPU that torch cannot use: install torch built for CUDA"
    elif survey["gpus"] and settings.device == "cpu":
        yield "OLLA_DEVICE=cpu leaves the GPU idle: take it away"
    if survey["gpus"] and not survey["has_bitsandbytes"]:
        yield "8 and 4 bit weights on the GPU need bitsandbytes: pip install 'olla[cuda]'"
    if not survey["core"] and not survey["gpus"]:
        yield "the compiled core is missing: install a C++ compiler, then olla again"
    if settings.num_threads and settings.num_threads < survey["threads"]:
        yield f"OLLA_NUM_THREADS={settings.num_threads} leaves cores idle"
    if not survey["gpus"] and settings.quantize in {"auto", "none"}:
        yield "OLLA_QUANTIZE=int8 or int4 makes models of floats smaller and faster, and less exact"
