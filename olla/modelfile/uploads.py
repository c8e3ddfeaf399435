"""Files that a client uploaded as blobs, by the names that a create request gives them.

Invariant: every name is a clean relative path, every digest that of a blob which stays in the
store while the hold lives. The daemon opens no other path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from olla.errors import BadInput, BlobNotFound
from olla.formats.gguf import MAGIC
from olla.modelfile.files import refuse_pickle
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import Hold
from olla.registry.layout import is_clean
from olla.registry.manifest import Layer


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob and the name of the file it was."""

    name: str
    digest: Digest
    size_bytes: int
    path: Path

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()

    def starts_with(self, magic: bytes) -> bool:
        with self.path.open("rb") as file:
            return file.read(len(magic)) == magic

    def layer(self, media_type: str, name: str = "") -> Layer:
        return Layer(media_type, self.digest, self.size_bytes, name)


def is_gguf(upload: Upload) -> bool:
    return upload.suffix == ".gguf" or upload.starts_with(MAGIC)


def is_safetensors(upload: Upload) -> bool:
    return upload.suffix == ".safetensors"


def find_uploads(digests: Mapping[str, str], blobs: BlobStore, hold: Hold) -> tuple[Upload, ...]:
    """The uploads that a request names, sorted by name.

    Raises:
        BadInput: a name is not a clean relative path, or is that of pickled weights.
        InvalidDigest: a digest is not one.
        BlobNotFound: nothing was uploaded under a digest.
    """
    named = [(_clean(name), Digest.parse(text)) for name, text in sorted(digests.items())]
    return tuple(_find(name, digest, blobs, hold) for name, digest in named)


def _find(name: str, digest: Digest, blobs: BlobStore, hold: Hold) -> Upload:
    refuse_pickle(name)
    hold.add(digest)
    if not blobs.has(digest):
        raise BlobNotFound(str(digest))
    return Upload(name, digest, blobs.size_bytes(digest), blobs.path(digest))


def _clean(name: str) -> str:
    if not is_clean(name):
        raise BadInput("file path must be relative")
    return name
