"""Digest: the address of a blob. Knows nothing about where blobs lie."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from olla.errors import InvalidDigest

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Digest:
    """The SHA-256 of some bytes, as 64 lower-case hex digits."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<hex>`, or `sha256-<hex>` as it stands in a file name.

        Raises:
            InvalidDigest: it is neither.
        """
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise InvalidDigest(text)
        return cls(match[1].lower())

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(hashlib.sha256(data).hexdigest())

    @property
    def file_name(self) -> str:
        return f"sha256-{self.hex}"

    @property
    def short(self) -> str:
        return self.hex[:12]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
