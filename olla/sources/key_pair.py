"""Our key pair, in OpenSSH's format, and signatures by it as Ollama's registry reads them."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from olla.errors import SourceError


def sign(places: Sequence[Path], text: str) -> str:
    """`<public key>:<signature>` by the first key there is; without any, one is made in the last.

    Raises:
        SourceError: the key cannot be read or made.
    """
    key = _key(places)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    signature = base64.b64encode(key.sign(text.encode())).decode()
    return f"{public.split()[1].decode()}:{signature}"


def _key(places: Sequence[Path]) -> Ed25519PrivateKey:
    for path in places:
        with suppress(FileNotFoundError):
            return _read_key(path)
    return _make_key(places[-1])


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SourceError(f"cannot read the key {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SourceError(f"the key {path} is not of the kind ed25519")
    return key


def _make_key(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(private)
        path.with_suffix(".pub").write_bytes(public + b"\n")
    except FileExistsError:  # another request was faster
        return _read_key(path)
    except OSError as error:
        raise SourceError(f"cannot make the key {path}: {error}") from error
    return key
