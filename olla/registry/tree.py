"""ManifestTree: the manifests of one store, a file for each name.

Knows names and bytes, not what manifests say. Directories may vanish while we look; who changes
the tree has the store's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from olla.errors import InvalidName, ModelNotFound
from olla.names import ModelName
from olla.registry.disk import TEMPORARY_PREFIX

_NAME_PARTS = 4

_log = logging.getLogger(__name__)


class ManifestTree:
    def __init__(self, root: Path) -> None:
        """`root` is the store's; the manifests lie in `root/manifests`."""
        self.root = root
        self._directory = root / "manifests"

    def path(self, name: ModelName) -> Path:
        """Where the manifest of that name is, or would be."""
        return self._directory / name.path

    def has(self, name: ModelName) -> bool:
        return self.path(name).is_file()

    def read(self, name: ModelName) -> bytes:
        """
        Raises:
            ModelNotFound: there is none of exactly that name.
        """
        try:
            return self.path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ModelNotFound(name.short) from error

    def names(self) -> Iterator[ModelName]:
        for path in self.paths():
            try:
                yield ModelName.from_path(PurePosixPath(path.relative_to(self._directory)))
            except InvalidName:
                _log.warning("not a model name file=%s", path)

    def paths(self) -> tuple[Path, ...]:
        """Every file where a manifest may be."""
        paths: tuple[Path, ...] = (self._directory,)
        for _ in range(_NAME_PARTS):
            paths = tuple(entry for path in paths for entry in _entries(path))
        # A temporary file is a manifest that is being written, or a leftover.
        return tuple(
            path for path in paths if path.is_file() and not path.name.startswith(TEMPORARY_PREFIX)
        )

    def remove_leftovers(self) -> None:
        """Remove what a process that died while it wrote left among the manifests."""
        for path in sorted(self._directory.rglob("*"), reverse=True):
            if path.name.startswith(TEMPORARY_PREFIX):
                path.unlink()
            elif path.is_dir():
                self.remove_empty(path)

    def remove_empty(self, directory: Path) -> None:
        """Remove a directory and those it lies in, up to `manifests`, as far as they are empty."""
        with suppress(OSError):  # ENOTEMPTY: where this ends
            while directory != self._directory:
                directory.rmdir()
                directory = directory.parent


def _entries(directory: Path) -> tuple[Path, ...]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return tuple(sorted(directory.iterdir()))
    return ()
