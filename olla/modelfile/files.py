"""Which local files FROM and ADAPTER mean (spec/modelfile.md section 2).

For whoever uploads them: knows the file system, but neither the store nor the daemon, and opens
a file only to tell text from binary. Invariant: no name leads outside the directory that the
user gave, except into the blobs of the Hugging Face cache it lies in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from olla.errors import BadInput, FormatError
from olla.formats.gguf import read_gguf
from olla.formats.gguf_parts import PartName, group_parts
from olla.formats.safetensors import read_safetensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_TEXTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What trainers leave beside an adapter: its tokenizer, and its chat template."""

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
_WEIGHTS = (
    ("model*.safetensors", "*/model*.safetensors"),
    ("consolidated*.safetensors",),
    ("*.gguf",),
)
_PICKLED_WEIGHTS = tuple(f"*{suffix}" for suffix in sorted(_PICKLES))
_TEXTS = ("*.json", "*/*.json", "chat_template.jinja")
_TOKENIZERS = (("tokenizer.model",), ("*/tokenizer.model",))
# Bytes that plain text has no use for, as in the WHATWG rules that Ollama's check follows.
_BINARY_BYTES = frozenset({*range(0x00, 0x09), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)})
_NUM_SNIFFED_BYTES = 512
_LEFT_OUT = re.compile(r"\.|checkpoint-\d+$")
_ADAPTER_WEIGHTS = "adapter_model*.safetensors"
_SCALE = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_LFS_POINTER = b"version https://git-lfs"


def expand(argument: str, directory: Path) -> Path:
    """The path that FROM or ADAPTER means, given the directory of the Modelfile.

    Raises:
        BadInput: the home directory of `~` or `~user` is not known.
    """
    try:
        return directory / Path(argument).expanduser()
    except RuntimeError as error:
        raise BadInput(f"no home directory for {argument}") from error


def collect_files(path: Path) -> dict[str, Path]:
    """The files of a model: one file, or what a model needs of a directory; by relative name.

    A part of a split GGUF file means all its parts.

    Raises:
        BadInput: nothing there is a model, a file is not what its name says, or a part is missing.
    """
    if not path.is_dir():
        refuse_pickle(path.name)
        return _with_siblings(path)
    if (path / ADAPTER_CONFIG).is_file() and not _glob(path, "model*.safetensors"):
        raise BadInput(
            f"{path} is an adapter: name it with ADAPTER (--adapter), and its base with FROM "
            "(--from)"
        )
    weights = _weights(path)
    group_parts(file.relative_to(path).as_posix() for file in weights)
    texts = _glob(path, *_TEXTS)
    tokenizers = _first_group(path, _TOKENIZERS)
    _check_contents(path, binaries=[*weights, *tokenizers], texts=texts)
    return _by_name([*weights, *texts, *tokenizers])


def collect_adapter(path: Path) -> dict[str, Path]:
    """The files of an adapter that peft saved; or the one file, in GGUF, that `path` is.

    Raises:
        BadInput: there is no such path, or it is no adapter.
    """
    if path.is_file():
        refuse_pickle(path.name)
        return {path.name: path}
    config, weights = path / ADAPTER_CONFIG, _glob(path, _ADAPTER_WEIGHTS)
    if not (config.is_file() and weights):
        for pickled in _glob(path, *_PICKLED_WEIGHTS):
            refuse_pickle(pickled.name)
        raise BadInput(
            f"no adapter found in {path}: it needs {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
        )
    texts = _glob(path, *ADAPTER_TEXTS)
    _check_contents(path, binaries=weights, texts=[config, *texts])
    return {file.name: file for file in (config, *weights, *texts)}


def split_scale(argument: str, directory: Path) -> tuple[str, float]:
    """The path and the scale that ADAPTER means: `./x 0.5`, unless a file is called that."""
    head, _, tail = argument.rpartition(" ")
    if not head or not _SCALE.fullmatch(tail) or expand(argument, directory).exists():
        return argument, 1.0
    return head.rstrip(), float(tail)


def check_header(path: Path) -> None:
    """Read what a weights' file says of itself, which is soon done, before all of it is hashed.

    Raises:
        FormatError: it is broken.
    """
    read = {".safetensors": read_safetensors, ".gguf": read_gguf}.get(path.suffix.lower())
    if read is None:
        return
    try:
        read(path)
    except FormatError as error:
        raise FormatError(f"{path.name}: {error}") from error


def refuse_pickle(name: str) -> None:
    """Raise BadInput if the name is that of pickled weights."""
    if PurePosixPath(name).suffix.lower() in _PICKLES:
        raise BadInput(
            f"{name} holds pickled objects, which can run any code when they are loaded: convert "
            "the weights to safetensors first (load them with transformers or peft where you "
            "trust them, then save_pretrained)"
        )


def _with_siblings(path: Path) -> dict[str, Path]:
    part = PartName.parse(path.name)
    if part is None:
        return {path.name: path}
    numbers = range(1, part.count + 1)
    siblings = [path.with_name(name) for name in map(part.sibling, numbers)]
    found = [path, *(file for file in siblings if file != path and file.is_file())]
    group_parts(file.name for file in found)
    _check_contents(path.parent, binaries=found, texts=[])
    return {file.name: file for file in sorted(found)}


def _weights(directory: Path) -> list[Path]:
    weights = _first_group(directory, _WEIGHTS)
    if not weights:
        for pickled in _glob(directory, *_PICKLED_WEIGHTS):
            refuse_pickle(pickled.name)
        raise BadInput("no Modelfile or safetensors files found")
    return weights


def _first_group(directory: Path, groups: tuple[tuple[str, ...], ...]) -> list[Path]:
    found = (_glob(directory, *patterns) for patterns in groups)
    return next((paths for paths in found if paths), [])


def _glob(directory: Path, *patterns: str) -> list[Path]:
    """The files that match, but what is hidden and what a trainer's checkpoints hold."""
    return [
        path
        for pattern in patterns
        for path in sorted(directory.glob(pattern))
        if path.is_file() and not any(_LEFT_OUT.match(part) for part in _parts(path, directory))
    ]


def _parts(path: Path, directory: Path) -> tuple[str, ...]:
    return path.relative_to(directory).parts


def _check_contents(directory: Path, *, binaries: list[Path], texts: list[Path]) -> None:
    roots = tuple(_roots(directory.resolve()))
    for path in (*binaries, *texts):
        if not any(path.resolve().is_relative_to(root) for root in roots):
            raise BadInput(
                f"insecure path: {path} links outside {directory} "
                "(hf download --local-dir makes a directory of real files)"
            )
    for path in binaries:
        _check_type(path, directory, is_text=False)
    for path in texts:
        _check_type(path, directory, is_text=True)


def _roots(directory: Path) -> Iterator[Path]:
    """Where files of the directory may really lie.

    A Hugging Face cache has links in `<repository>/snapshots/<commit>` to `<repository>/blobs`.
    """
    yield directory
    for folder in directory.parents[:2]:  # of the commit, or of a folder in it
        if folder.name == "snapshots":
            yield folder.parent / "blobs"


def _check_type(path: Path, directory: Path, *, is_text: bool) -> None:
    with path.open("rb") as file:
        head = file.read(_NUM_SNIFFED_BYTES)
    if is_text != _BINARY_BYTES.isdisjoint(head):
        expected = "text/plain" if is_text else "application/octet-stream"
        hint = " (it is a Git LFS pointer: run git lfs pull)" if _is_pointer(head) else ""
        name = path.relative_to(directory).as_posix()
        raise BadInput(f"invalid content type: expected {expected} for {name}{hint}")


def _is_pointer(head: bytes) -> bool:
    return head.startswith(_LFS_POINTER)


def _by_name(paths: list[Path]) -> dict[str, Path]:
    """Names relative to the directory that all files have in common."""
    root = paths[0].parent
    while not all(path.is_relative_to(root) for path in paths):
        root = root.parent
    return {path.relative_to(root).as_posix(): path for path in paths}
