"""Repository: what a hub says of one revision of a model's repository, as plain values.

A hub's own module makes them; everything else about hubs is shared. Knows nothing about the
network. Invariant: every file's name is a clean relative path, whatever the hub says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from olla.registry.digest import Digest


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    `digest` is None where the hub publishes none; `git_oid` then is what git calls the file.
    `cached`: where the hub's own client may have left these bytes on this machine.
    """

    name: str
    size_bytes: int
    url: str
    digest: Digest | None = None
    git_oid: str = ""
    cached: tuple[Path, ...] = ()

    @property
    def folder(self) -> str:
        """The directory it lies in, "" for the repository's own."""
        return self.name.rpartition("/")[0]

    @property
    def base_name(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Repository:
    """`headers` are the credentials for the hub, and only for it.

    `refusal` says what to do when the hub does not hand out the files. `commit` is the revision's,
    where the hub tells.
    """

    name: str
    files: tuple[RemoteFile, ...]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    refusal: str = ""
    commit: str = ""


Lookup = Callable[[str, str], Repository]
"""Finds `org/repo` at a revision, "" being the usual one. Blocks.

Raises SourceNotFound, RevisionNotFound, SourceBroke for what a later try may not meet, and
SourceError."""
