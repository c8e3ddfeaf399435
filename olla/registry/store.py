"""ModelStore: names on disk, in Ollama's layout (spec/registry.md section 2).

Reading takes no lock: manifests are replaced whole, and a reader whose blobs were removed
under it looks again. Changes are made one at a time, across threads and processes (see `disk`).
Invariant: a manifest is written after its blobs, and a blob is removed only when no manifest
names it and nobody holds it. All methods block and raise StoreError when the disk refuses.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from olla.errors import BlobNotFound, ModelNotFound, StoreError
from olla.names import ModelName
from olla.registry.blobs import STALE_S, BlobStore, Leftover
from olla.registry.digest import Digest
from olla.registry.disk import (
    Hold,
    StoreLocks,
    disk_errors,
    sync_directory,
    write_atomically,
)
from olla.registry.manifest import parse_manifest
from olla.registry.model import Model, read_model
from olla.registry.tree import ManifestTree
from olla.registry.weights import WeightsHeaders

_DIGESTS = re.compile(rb"sha256[:-]([0-9a-fA-F]{64})")

_log = logging.getLogger(__name__)


class ModelStore:
    def __init__(
        self,
        root: Path,
        prune: bool = True,
        go_template: bool | None = None,
        extra: tuple[Path, ...] = (),
    ) -> None:
        """`root` need not exist. Without `prune`, blobs go only when a model is deleted.

        Args:
            go_template: what Models are told of their templates.
            extra: stores that are only read, for what `root` has not got.
        """
        self.blobs = BlobStore(root, extra)
        self._own = ManifestTree(root)
        self._trees = (self._own, *(ManifestTree(path) for path in extra))
        self._locks = StoreLocks(root)
        self._headers = WeightsHeaders()
        self._prune = prune
        self._go_template = go_template

    def resolve(self, name: ModelName) -> Model:
        """Find a model, whatever case its name is in.

        Raises:
            ModelNotFound: there is none of that name.
            StoreError: its manifest or one of its small layers is broken or missing.
        """
        with disk_errors(f"cannot read model {name}"):
            return self._read(self._find(name))

    def find(self, name: ModelName) -> ModelName:
        """`name` in the spelling of the store, as far as something there differs only in case."""
        with disk_errors("cannot read the model store"):
            return self._find(name)

    def list(self) -> tuple[Model, ...]:
        """Every model that can be read, the newest first."""
        with disk_errors("cannot read the model store"):
            models = [model for name in self._names() if (model := self._read_or_warn(name))]
        return tuple(sorted(models, key=lambda model: -int(model.modified_at.timestamp())))

    def read_manifest(self, name: ModelName) -> bytes:
        """The bytes of a model's manifest, whose SHA-256 is the model's digest.

        Raises:
            ModelNotFound: there is none of that name.
        """
        with disk_errors(f"cannot read model {name}"):
            found = self._find(name)
            return self._tree_of(found).read(found)

    def names(self) -> tuple[ModelName, ...]:
        """The name of every model, whether it can be read or not."""
        with disk_errors("cannot read the model store"):
            return tuple(self._names())

    def put(self, name: ModelName, manifest: bytes) -> int:
        """Make `name` stand for this manifest, whose blobs are all in the store.

        Returns:
            How many blobs of what `name` stood for before went, as nothing else needs them.

        Raises:
            StoreError: it is no manifest, or one of its blobs is not there.
        """
        with self._changing(f"cannot write model {name}"):
            return self._put(self._find(name), manifest)

    def copy(self, source: ModelName, destination: ModelName) -> None:
        """Let `destination` stand for what `source` does.

        Raises:
            ModelNotFound: there is no `source`.
        """
        with self._changing(f"cannot copy model {source}"):
            found = self._find(source)
            manifest = self._tree_of(found).read(found)
            target = self._find(destination)
            if target != found:
                self._put(target, manifest)

    def delete(self, name: ModelName) -> None:
        """Remove a model, and the blobs that nothing else needs.

        Raises:
            ModelNotFound: there is none of that name.
        """
        with self._changing(f"cannot delete model {name}"):
            found = self._find(name)
            path = self._own.path(found)
            removed = _digests(self._own_manifest(found, name))
            needed = self._needed(besides=path)
            path.unlink()
            sync_directory(path.parent)
            self._own.remove_empty(path.parent)
            self._remove_blobs(removed - needed)

    def prune(self) -> int:
        """Clean up as the server does at its start; return how many blob files were removed.

        With a broken manifest in the store nothing is removed, as nobody knows what it needs.
        """
        with self._changing("cannot prune the model store"):
            self.blobs.rename_old_names()
            if not self._prune or self._broken_manifest():
                return 0
            self._own.remove_leftovers()
            return len(self.blobs.remove_stale(self._needed()))

    def collect(self, min_age_s: float = STALE_S, dry_run: bool = False) -> tuple[Leftover, ...]:
        """Remove the files of the blobs' directory that nothing needs; what they were.

        Raises:
            StoreError: a manifest is broken, so that nobody knows what it needs.
        """
        with self._changing("cannot clean up the model store"):
            broken = self._broken_manifest()
            if broken:
                raise StoreError(
                    f"nothing was removed, since the manifest of {broken} is broken and nobody "
                    f"knows which blobs it needs: olla rm {broken} removes it"
                )
            return self.blobs.remove_stale(self._needed(), min_age_s, dry_run)

    def discard(self, digests: Iterable[Digest]) -> None:
        """Remove those of these blobs that nothing needs, as what was only on its way is."""
        with self._changing("cannot clean up the model store"):
            if self._prune:
                self._remove_blobs(frozenset(digests) - self._needed())

    def hold(self) -> AbstractContextManager[Hold]:
        """For `with`: blobs added to the hold stay, whoever deletes or prunes meanwhile."""
        return self._locks.hold()

    def claim(self) -> AbstractContextManager[bool]:
        """For `with`: whether this daemon is the only one on the store. Several get on well, but
        each has memory of its own for the models that it runs."""
        return self._locks.claim()

    @contextmanager
    def _changing(self, action: str) -> Iterator[None]:
        with disk_errors(action), self._locks.exclusive():
            yield

    def _find(self, name: ModelName) -> ModelName:
        if any(tree.has(name) for tree in self._trees):
            return name
        closest = max(self._names(), key=lambda stored: _likeness(stored, name), default=name)
        same, _ = _likeness(closest, name)
        parts = closest.path.parts[:same] + name.path.parts[same:]
        return replace(ModelName.from_path(PurePosixPath(*parts)), scheme=name.scheme)

    def _names(self) -> Iterator[ModelName]:
        yield from dict.fromkeys(name for tree in self._trees for name in tree.names())

    def _tree_of(self, name: ModelName) -> ManifestTree:
        return next((tree for tree in self._trees if tree.has(name)), self._own)

    def _read(self, name: ModelName) -> Model:
        while True:
            tree = self._tree_of(name)
            data = tree.read(name)
            try:
                modified = tree.path(name).stat().st_mtime
                changed = datetime.fromtimestamp(modified, UTC).astimezone()
                return read_model(name, data, changed, self.blobs, self._headers, self._go_template)
            except FileNotFoundError:
                continue  # deleted since we read it: the next look says so
            except BlobNotFound as error:
                if tree.read(name) == data:
                    raise StoreError(f"model {name} is broken: {error}") from error

    def _read_or_warn(self, name: ModelName) -> Model | None:
        try:
            return self._read(name)
        except ModelNotFound:
            return None
        except (StoreError, OSError) as error:
            _log.warning("skipped model name=%s error=%s", name.full, error)
            return None

    def _own_manifest(self, found: ModelName, name: ModelName) -> bytes:
        """The manifest of a model that may be changed here, `found` for `name`."""
        tree = self._tree_of(found)
        if tree is not self._own:
            raise StoreError(f"{found} lies in {tree.root}, where models are only read")
        try:
            return tree.read(found)
        except ModelNotFound as error:
            raise ModelNotFound(name.short) from error

    def _put(self, name: ModelName, manifest: bytes) -> int:
        for layer in parse_manifest(manifest).blobs:
            self._check_blob(layer.digest, layer.size_bytes)
        path = self._own.path(name)
        unused: frozenset[Digest] = frozenset()
        if self._prune and path.is_file():
            unused = _digests(path.read_bytes()) - self._needed(besides=path) - _digests(manifest)
        write_atomically(path, manifest)
        self._remove_blobs(unused)
        return len(unused)

    def _check_blob(self, digest: Digest, size_bytes: int) -> None:
        try:
            stored_bytes = self.blobs.size_bytes(digest)
        except BlobNotFound as error:
            raise StoreError(f"cannot write manifest: {error}") from error
        if stored_bytes != size_bytes:
            raise StoreError(
                f"cannot write manifest: blob {digest} has {stored_bytes} bytes, not {size_bytes}"
            )

    def _needed(self, besides: Path | None = None) -> frozenset[Digest]:
        """Blobs that a manifest names, broken ones too as far as they go, or that are held."""
        needed: set[Digest] = set(self._locks.held())
        for path in self._own.paths():
            if path != besides:
                needed |= _digests(path.read_bytes())
        return frozenset(needed)

    def _remove_blobs(self, digests: frozenset[Digest]) -> None:
        for digest in digests:
            self.blobs.remove(digest)

    def _broken_manifest(self) -> str:
        """The name of a manifest that cannot be read, "" if all can be."""
        for name in self._own.names():
            try:
                parse_manifest(self._own.read(name))
            except (StoreError, ModelNotFound) as error:
                _log.warning("nothing is pruned name=%s error=%s", name.full, error)
                return name.short
        return ""


def _likeness(stored: ModelName, name: ModelName) -> tuple[int, int]:
    """How many parts of two names agree from the left when case is ignored, and when it is not."""
    pairs = list(zip(stored.path.parts, name.path.parts, strict=True))
    folded = [left.lower() == right.lower() for left, right in pairs]
    same = folded.index(False) if False in folded else len(folded)
    return same, sum(left == right for left, right in pairs[:same])


def _digests(manifest: bytes) -> frozenset[Digest]:
    """Every digest in a manifest, even one that is broken elsewhere."""
    return frozenset(Digest(match.decode().lower()) for match in _DIGESTS.findall(manifest))
