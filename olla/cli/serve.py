"""`olla serve` and `olla shutdown`: the daemon in this process, and its end."""

from __future__ import annotations

import time

import click

from olla.cli.cobra import command, exactly
from olla.cli.daemon import POLL_S
from olla.client import Client
from olla.errors import ClientError
from olla.quick_imports import quick_imports
from olla.settings import Settings

STOP_TIMEOUT_S = 15.0
_ENVIRONMENT = (
    "OLLA_HOST",
    "OLLA_HOME",
    "OLLA_MODELS",
    "OLLA_KEEP_ALIVE",
    "OLLA_LOAD_TIMEOUT",
    "OLLA_CONTEXT_LENGTH",
    "OLLA_MAX_LOADED_MODELS",
    "OLLA_NUM_PARALLEL",
    "OLLA_MAX_QUEUE",
    "OLLA_ORIGINS",
    "OLLA_ALLOWED_HOSTS",
    "OLLA_INSECURE",
    "OLLA_MAX_CONNECTIONS",
    "OLLA_IDLE_TIMEOUT",
    "OLLA_BODY_TIMEOUT",
    "OLLA_REQUEST_TIMEOUT",
    "OLLA_SHUTDOWN_TIMEOUT",
    "OLLA_NOPRUNE",
    "OLLA_MODELS_EXTRA",
    "OLLA_SOURCES",
    "OLLA_SHARE",
    "OLLA_DTYPE",
    "OLLA_QUANTIZE",
    "OLLA_DEVICE",
    "OLLA_NUM_THREADS",
    "OLLA_KV_CACHE",
    "OLLA_KV_CACHE_TYPE",
    "OLLA_PROFILE",
    "OLLA_LOG",
    "OLLA_DEBUG",
    "OLLA_DEBUG_LOG_REQUESTS",
)


@command("serve", exactly(0), _ENVIRONMENT)
@click.pass_obj
def serve(settings: Settings) -> None:
    """Start the server.

    It listens on OLLA_HOST until Ctrl-C or `olla shutdown`, and logs to stderr. An address that
    other machines can reach needs a key: see `olla key`.
    """
    with quick_imports():
        from olla.server.app import serve as serve_forever  # noqa: PLC0415 - aiohttp

    serve_forever(settings)


@command("shutdown", exactly(0), ("OLLA_HOST", "OLLA_API_KEY"))
@click.pass_obj
def shutdown(settings: Settings) -> None:
    """Stop the server.

    Replies that run have OLLA_SHUTDOWN_TIMEOUT to end, then end with an error. Returns when the
    address is free again.
    """
    client = Client(settings.address, settings.api_key)
    if not client.is_reachable():
        click.echo("olla is not running")
        return
    client.shutdown()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not _is_free(client):
        if time.monotonic() > deadline:
            raise ClientError(f"olla still answers {STOP_TIMEOUT_S:.0f} seconds after the shutdown")
        time.sleep(POLL_S)


def _is_free(client: Client) -> bool:
    try:
        return not client.is_reachable()
    except ClientError:  # it closed the connection in our face: it is on its way out
        return False
