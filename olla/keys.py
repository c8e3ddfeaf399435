"""Keys: what a client shows to be let in, and which of them there are.

A key is a random token of 256 bits, so its plain SHA-256 says nothing of it; only that is kept,
in a file that is the owner's alone. Each key may do what its scopes say.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from olla.errors import BadInput, NotFound, StoreError

PREFIX = "olla_"
_TOKEN_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(StrEnum):
    """`infer` uses models, `manage` changes which there are and ends the daemon."""

    INFER = "infer"
    MANAGE = "manage"


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_at: str


class KeyFile:
    """The keys on disk, read anew whenever they are asked for; see `KeyRing` for serving."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Key, ...]:
        """The keys, none without a file.

        Raises:
            StoreError: the file cannot be read, or is none of ours.
        """
        try:
            entries = json.loads(self._path.read_bytes())["keys"]
            return tuple(_key(entry) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self._path} holds no keys of olla: mend it, or delete it to have no keys"
            ) from error

    def create(self, name: str, scopes: Sequence[Scope]) -> str:
        """Make a key and return its token, which nothing can tell again.

        Raises:
            BadInput: the name is taken, or cannot be one.
        """
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"invalid key name {name!r}: expected up to 64 letters, digits, '.', '_' and '-'"
            )
        keys = self.read()
        if any(key.name == name for key in keys):
            raise BadInput(f"a key '{name}' exists: revoke it first, or use another name")
        token = PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write((*keys, Key(name, tuple(scopes), _digest(token), now)))
        return token

    def revoke(self, name: str) -> None:
        """
        Raises:
            NotFound: there is no such key.
        """
        keys = self.read()
        left = tuple(key for key in keys if key.name != name)
        if left == keys:
            raise NotFound(f"key '{name}' not found")
        self._write(left)

    def _write(self, keys: Sequence[Key]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=1)
        number, name = tempfile.mkstemp(dir=self._path.parent, prefix=".keys-")  # mode 0600
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class KeyRing:
    """The keys as a daemon uses them: kept in memory, and read anew when the file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = KeyFile(path)
        self._state = _state(path)
        self._keys = self._file.read()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, token: str) -> Key | None:
        """The key that a token is of. Every key is compared, in constant time."""
        digest = _digest(token)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def refresh(self, *, always: bool = False) -> bool:
        """Read the file again if it is another than it was; whether it was read.

        Raises:
            StoreError: it is broken; the keys stay as they were.
        """
        state = _state(self._path)
        if state == self._state and not always:
            return False
        self._state = state
        self._keys = self._file.read()
        return True


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _key(entry: dict[str, Any]) -> Key:
    scopes = tuple(Scope(scope) for scope in entry["scopes"])
    return Key(str(entry["name"]), scopes, str(entry["sha256"]), str(entry["created_at"]))
