"""Archives from anywhere: what is an image layout is read, everything else is refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olla.client import archive as archives
from olla.client.archive import open_archive
from olla.errors import BadInput
from olla.names import ModelName
from olla.registry.archive import archive_of
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType
from olla.registry.store import ModelStore
from tests.registry.models import GGUF, put_model

Files = dict[str, bytes]
WriteTar = Callable[..., Path]


def blob_name(data: bytes) -> str:
    return f"blobs/sha256/{Digest.of(data).hex}"


CONFIG = b"{}"


def layout(**changes: Any) -> Files:
    """The files of an archive by another program than ours. `changes` are of its manifest."""
    layers = [{"mediaType": "m", "digest": str(Digest.of(GGUF)), "size": len(GGUF)}]
    described = {"digest": str(Digest.of(CONFIG)), "size": len(CONFIG)}
    manifest = json.dumps({"config": described, "layers": layers, **changes}).encode()
    entry = {"digest": str(Digest.of(manifest)), "size": len(manifest)}
    return {
        "index.json": json.dumps({"manifests": [entry]}).encode(),
        "oci-layout": b"{}",
        **{blob_name(data): data for data in (manifest, CONFIG, GGUF)},
    }


@pytest.fixture
def write(tmp_path: Path) -> WriteTar:
    """Writes a tar: `write(files, *further entries)`."""

    def write_tar(files: Files, *more: tarfile.TarInfo, mode: str = "w") -> Path:
        path = tmp_path / "model.tar"
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            for entry in more:
                tar.addfile(entry)
        return path

    return write_tar


def entry_of(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught, open_archive(path) as archive:
        assert archive.blobs
    return str(caught.value)


def test_what_export_writes_is_read_back(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    put_model(store, "me/tiny:v1", (MediaType.MODEL, GGUF), (MediaType.SYSTEM, b"s"))
    name = ModelName.parse("me/tiny:v1")
    manifest = store.read_manifest(name)
    written = archive_of(name, manifest, store.blobs)
    path = tmp_path / "tiny.tar"
    path.write_bytes(b"".join(written.chunks()))

    assert path.stat().st_size == written.size_bytes
    with open_archive(path) as archive:
        assert (archive.name, archive.manifest.encode()) == ("me/tiny:v1", manifest)
        contents = {blob.digest: archive.open(blob).read() for blob in archive.blobs}
    assert all(str(Digest.of(data)) == digest for digest, data in contents.items())
    assert GGUF in contents.values()


def test_an_archive_by_another_program(write: WriteTar) -> None:
    folders = [entry_of(name, tarfile.DIRTYPE) for name in ("blobs", "blobs/sha256")]

    with open_archive(write(layout(), *folders)) as archive:
        assert archive.name == ""
        assert {archive.open(blob).read() for blob in archive.blobs} == {b"{}", GGUF}


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "blobs/../../evil", "blobs/sha256/short", "blobs/sha512/" + "a" * 64,
     "blobs/sha256/" + "A" * 64, "evil.sh", "blobs/sha256/" + "a" * 64 + "/x", "..", "a\0b"],
)  # fmt: skip
def test_a_file_that_no_archive_has(write: WriteTar, name: str) -> None:
    assert "which no archive of a model has" in refusal(write({**layout(), name: b"evil"}))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "index.json"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.GNUTYPE_SPARSE, ""),
    ],
)
def test_what_is_no_plain_file(write: WriteTar, kind: bytes, target: str) -> None:
    files = layout()
    weights = files.pop(blob_name(GGUF))
    path = write(files, entry_of(blob_name(weights), kind, target))

    assert "which no archive of a model has" in refusal(path)


def test_a_name_that_comes_twice(write: WriteTar) -> None:
    assert "holds index.json twice" in refusal(write(layout(), tarfile.TarInfo("index.json")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"index.json": b"no"}, "not JSON"),
        ({"index.json": b"[" * 10**5}, "not JSON"),
        ({"index.json": b"[]"}, "no object"),
        ({"index.json": b'{"manifests": 1}'}, "no list of manifests"),
        ({"index.json": b'{"manifests": []}'}, "holds 0 models"),
        ({"index.json": b'{"manifests": [1]}'}, "no object"),
        ({"index.json": b'{"manifests": [{}, {}]}'}, "holds 2 models"),
        ({"index.json": b'{"manifests": [{"digest": "../../x"}]}'}, "'../../x' is not in it"),
        ({"index.json": b'{"manifests": [{"digest": 7}]}'}, "'' is not in it"),
        ({"index.json": b'{"manifests": [{"annotations": [1]}]}'}, "no object"),
        ({"index.json": b"x" * (archives.MAX_DOCUMENT_BYTES + 1)}, "too many"),
    ],
)
def test_an_index_that_is_none(write: WriteTar, changes: Files, reason: str) -> None:
    assert reason in refusal(write({**layout(), **changes}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layers": None}, "no list of layers"),
        ({"layers": [None]}, "no object"),
        ({"config": None}, "no object"),
        ({"layers": [{"digest": f"sha256:{'a' * 64}", "size": 1}]}, "is not in it"),
        ({"layers": [{"digest": str(Digest.of(GGUF)), "size": 1}]}, "its manifest differs"),
        ({"layers": [{"digest": str(Digest.of(GGUF)), "size": "x"}]}, "its manifest differs"),
    ],
)
def test_a_manifest_that_does_not_fit(
    write: WriteTar, changes: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(write(layout(**changes)))


@pytest.mark.parametrize("missing", ["index.json", "oci-layout"])
def test_an_archive_of_something_else(write: WriteTar, missing: str) -> None:
    files = layout()
    del files[missing]

    assert "no oci-layout and index.json" in refusal(write(files))


@pytest.mark.parametrize("data", [b"", b"GGUF" * 1000, b"\x1f\x8b" + bytes(600)])
def test_a_file_that_is_no_tar(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)

    assert refusal(path).startswith("it")


def test_a_packed_archive_is_told_to_be_unpacked_first(write: WriteTar) -> None:
    assert "it is no archive of a model" in refusal(write(layout(), mode="w:gz"))


def test_a_header_that_claims_to_be_huge(write: WriteTar) -> None:
    path = write(layout())
    header = tarfile.TarInfo("evil")
    header.type, header.size = tarfile.XHDTYPE, 10**12
    path.write_bytes(header.tobuf() + path.read_bytes())

    assert "no archive of a model" in refusal(path)


@pytest.mark.parametrize("cut", range(0, 5_500, 250))
def test_an_archive_that_was_cut(write: WriteTar, cut: int) -> None:
    path = write(layout())
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(BadInput), open_archive(path) as archive:
        for blob in archive.blobs:
            data = archive.open(blob).read()
            if len(data) < blob.size_bytes:
                raise BadInput("shorter")


def test_more_files_than_any_model_has(write: WriteTar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 4)

    assert "more than 4 files" in refusal(write(layout()))
