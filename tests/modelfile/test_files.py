"""Which files FROM and ADAPTER mean, on real directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from olla.errors import BadInput
from olla.modelfile.files import collect_adapter, collect_files, expand

BINARY = b"\x08\0\0\0\0\0\0\0{}"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def fill(directory: Path, *names: str) -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_text = path.suffix in {".json", ".jinja", ".md", ".txt"}
        path.write_bytes(b"{}" if is_text else BINARY)
    return directory


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (
            ["model.safetensors", "config.json", "README.md", "model.gguf", "pytorch_model.bin"],
            ["config.json", "model.safetensors"],
        ),
        (
            ["model-1.safetensors", "sub/model.safetensors", "sub/config.json", "a/b/c.json"],
            ["model-1.safetensors", "sub/config.json", "sub/model.safetensors"],
        ),
        (["consolidated.safetensors", "params.json", "x.gguf"],
         ["consolidated.safetensors", "params.json"]),
        (["t-00001-of-00002.gguf", "t-00002-of-00002.gguf", "mmproj.gguf"],
         ["mmproj.gguf", "t-00001-of-00002.gguf", "t-00002-of-00002.gguf"]),
        (["b.gguf", "mmproj.gguf", "a.bin"], ["b.gguf", "mmproj.gguf"]),
        (
            ["model.safetensors", "chat_template.jinja", "tokenizer.model", "x/tokenizer.model"],
            ["chat_template.jinja", "model.safetensors", "tokenizer.model"],
        ),
        (["model.safetensors", "x/tokenizer.model"], ["model.safetensors", "x/tokenizer.model"]),
        (["model.safetensors", ".cache/a.json", ".b.json"], ["model.safetensors"]),
        (["sub/model.safetensors", "sub/config.json"], ["config.json", "model.safetensors"]),
    ],
)  # fmt: skip
def test_selection(tmp_path: Path, present: list[str], chosen: list[str]) -> None:
    fill(tmp_path, *present)

    files = collect_files(tmp_path)

    assert sorted(files) == chosen
    assert all(path.is_relative_to(tmp_path) for path in files.values())


def test_a_file_is_itself(tmp_path: Path) -> None:
    path = fill(tmp_path, "a.gguf") / "a.gguf"

    assert collect_files(path) == {"a.gguf": path}
    assert collect_adapter(path) == {"a.gguf": path}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "a.pt", "b.CKPT"])
def test_a_pickled_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    path = fill(tmp_path, name) / name

    for collect in (collect_files, collect_adapter):
        with pytest.raises(BadInput, match=f"{name} holds pickled .* convert .* to safetensors"):
            collect(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "a.pt", "b.ckpt"])
def test_a_directory_of_pickles_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    fill(tmp_path, name, "config.json")

    with pytest.raises(BadInput, match=f"{name} holds pickled"):
        collect_files(tmp_path)


@pytest.mark.parametrize("number", [1, 2])
def test_a_part_of_a_split_file_is_all_parts(tmp_path: Path, number: int) -> None:
    names = ["t-00001-of-00002.gguf", "t-00002-of-00002.gguf"]
    fill(tmp_path, *names, "u-00001-of-00002.gguf", "t.gguf")

    files = collect_files(tmp_path / names[number - 1])

    assert files == {name: tmp_path / name for name in names}


@pytest.mark.parametrize("place", ["", "t-00001-of-00003.gguf"])
def test_a_missing_part_is_named_before_anything_is_uploaded(tmp_path: Path, place: str) -> None:
    fill(tmp_path, "t-00001-of-00003.gguf", "t-00003-of-00003.gguf")

    with pytest.raises(BadInput, match=r"t-00002-of-00003.gguf is missing"):
        collect_files(tmp_path / place)


def test_a_part_that_links_outside_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "secret.gguf", "m/t-00001-of-00002.gguf")
    (tmp_path / "m" / "t-00002-of-00002.gguf").symlink_to(tmp_path / "secret.gguf")

    with pytest.raises(BadInput, match=r"^insecure path: .*t-00002-of-00002.gguf"):
        collect_files(tmp_path / "m" / "t-00001-of-00002.gguf")


def test_parts_in_a_folder_of_a_hugging_face_cache(tmp_path: Path) -> None:
    names = ["t-00001-of-00002.gguf", "t-00002-of-00002.gguf"]
    folder = fill(tmp_path / "models--o--m", "blobs/1", "snapshots/abc/Q4_0/README.md")
    for name in names:
        (folder / "snapshots" / "abc" / "Q4_0" / name).symlink_to("../../../blobs/1")

    assert [*collect_files(folder / "snapshots" / "abc" / "Q4_0" / names[0])] == names


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    fill(tmp_path, "config.json")

    with pytest.raises(BadInput) as caught:
        collect_files(tmp_path)

    assert str(caught.value) == "no Modelfile or safetensors files found"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("config.json", BINARY, "expected text/plain for config.json"),
        ("sub/x.json", BINARY, "expected text/plain for sub/x.json"),
        ("model.safetensors", b"{}", "expected application/octet-stream for model.safetensors"),
        ("tokenizer.model", POINTER, "expected application/octet-stream for tokenizer.model (it "
         "is a Git LFS pointer: run git lfs pull)"),
    ],
)  # fmt: skip
def test_contents_must_be_what_the_name_says(
    tmp_path: Path, name: str, content: bytes, error: str
) -> None:
    fill(tmp_path, "model.safetensors", name)
    (tmp_path / name).write_bytes(content)

    with pytest.raises(BadInput) as caught:
        collect_files(tmp_path)

    assert str(caught.value) == f"invalid content type: {error}"


def test_a_link_inside_the_directory_is_followed(tmp_path: Path) -> None:
    fill(tmp_path, "model.safetensors", "real/x.json")
    (tmp_path / "config.json").symlink_to("real/x.json")

    assert "config.json" in collect_files(tmp_path)


def test_a_link_outside_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "model/model.safetensors", "secret.json")
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "secret.json")

    with pytest.raises(BadInput, match=r"^insecure path: .*config\.json .*--local-dir"):
        collect_files(tmp_path / "model")


def test_links_into_the_blobs_of_a_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    repository = fill(tmp_path / "models--o--m", "blobs/1", "snapshots/abc/config.json")
    snapshot = repository / "snapshots" / "abc"
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")

    assert set(collect_files(snapshot)) == {"config.json", "model.safetensors"}


def test_only_the_blobs_of_the_same_cache_count(tmp_path: Path) -> None:
    fill(tmp_path, "other/blobs/1", "m/snapshots/abc/config.json")
    snapshot = tmp_path / "m" / "snapshots" / "abc"
    (snapshot / "model.safetensors").symlink_to(tmp_path / "other" / "blobs" / "1")

    with pytest.raises(BadInput, match=r"^insecure path: "):
        collect_files(snapshot)


def test_an_adapter_is_two_files_and_the_tokenizer_beside_them(tmp_path: Path) -> None:
    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    fill(tmp_path, *names, "trainer_state.json", "README.md")

    assert collect_adapter(tmp_path) == {name: tmp_path / name for name in names}


@pytest.mark.parametrize("names", [[], ["adapter_config.json"], ["adapter_model.safetensors"]])
def test_an_adapter_needs_both(tmp_path: Path, names: list[str]) -> None:
    fill(tmp_path, *names)

    with pytest.raises(BadInput) as caught:
        collect_adapter(tmp_path)

    assert str(caught.value) == (
        f"no adapter found in {tmp_path}: it needs adapter_config.json and "
        "adapter_model.safetensors"
    )


def test_an_adapter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no adapter found in .*/missing: "):
        collect_adapter(tmp_path / "missing")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    """Though a trainer's pickles, and an exported base in a folder of its own, lie beside it."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "training_args.bin"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"\0")

    with pytest.raises(
        BadInput, match=r"is an adapter: name it with ADAPTER \(--adapter\), and its"
    ):
        collect_files(tmp_path)


def test_a_pickled_adapter_is_refused_with_the_reason(tmp_path: Path) -> None:
    fill(tmp_path, "adapter_config.json", "adapter_model.bin")

    with pytest.raises(BadInput, match=r"adapter_model\.bin holds pickled"):
        collect_adapter(tmp_path)


def test_an_adapter_may_not_link_outside(tmp_path: Path) -> None:
    fill(tmp_path, "a/adapter_config.json", "weights")
    (tmp_path / "a" / "adapter_model.safetensors").symlink_to(tmp_path / "weights")

    with pytest.raises(BadInput, match=r"^insecure path: "):
        collect_adapter(tmp_path / "a")


def test_paths_are_relative_to_the_modelfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert expand("./a b", tmp_path) == tmp_path / "a b"
    assert expand("/abs", tmp_path) == Path("/abs")
    assert expand("~/m", tmp_path) == Path("/home/me/m")


def test_a_home_that_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no home directory for ~nobody-has-this-name/x"):
        expand("~nobody-has-this-name/x", tmp_path)
