"""ModelName: what users type, parsed and completed with defaults (spec/registry.md section 1).

Knows nothing about the store or the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Self

from olla.errors import InvalidName

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, slots=True)
class ModelName:
    """`host/namespace/model:tag`, every part filled in. Equal by spelling, not by case."""

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = "https"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[scheme://][host/][namespace/]model[:tag]`.

        Raises:
            InvalidName: a part is missing, too long or has a character that is not allowed.
        """
        scheme, separator, rest = text.strip().partition("://")
        if not separator:
            scheme, rest = "https", scheme
        colon = rest.rfind(":")
        tag = DEFAULT_TAG
        if colon > rest.rfind("/"):
            rest, tag = rest[:colon], rest[colon + 1 :]
        parts = rest.rsplit("/", 2)
        model = parts[-1]
        namespace = parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE
        host = parts[-3] if len(parts) > 2 else DEFAULT_HOST
        name = cls(host=host, namespace=namespace, model=model, tag=tag, scheme=scheme)
        if not name._is_valid() or (separator and len(parts) < 3):
            raise InvalidName(text, _advice(parts))
        return name

    @classmethod
    def from_path(cls, path: PurePosixPath) -> Self:
        """Read `host/namespace/model/tag`, as it stands under `manifests/`."""
        if len(path.parts) != 4:
            raise InvalidName(str(path))
        name = cls(*path.parts)
        if not name._is_valid():
            raise InvalidName(str(path))
        return name

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """The shortest text that parses back to this name; the tag always shows."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    def folded(self) -> ModelName:
        """This name with every part in lower case, for comparisons that ignore case."""
        return replace(
            self,
            host=self.host.lower(),
            namespace=self.namespace.lower(),
            model=self.model.lower(),
            tag=self.tag.lower(),
            scheme="https",
        )

    def _is_valid(self) -> bool:
        return bool(
            self.scheme in {"http", "https"}
            and _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _PART.fullmatch(self.model)
            and _PART.fullmatch(self.tag)
        )

    def __str__(self) -> str:
        return self.short


def _advice(parts: list[str]) -> str:
    """What to write instead, if that shows."""
    host = parts[0]
    if len(parts) == 2 and "." in host and _HOST.fullmatch(host):
        return f"a name on {host} has an owner and a model: {host}/OWNER/MODEL"
    return ""
