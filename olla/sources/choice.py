"""Which files of a hub's repository are a model, told from their names alone.

Pure. Takes safetensors before GGUF where a repository has both, unless the tag names a GGUF
file; never pickles, and no second copy of weights in another format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatchcase

from olla.errors import SourceError
from olla.formats.gguf_parts import PartName, group_parts
from olla.modelfile.files import ADAPTER_CONFIG, ADAPTER_TEXTS, ADAPTER_WEIGHTS, refuse_pickle
from olla.names import DEFAULT_TAG
from olla.sources.repository import RemoteFile

PREFERRED_QUANTIZATIONS = (
    *("Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1"),
    *("Q6_K", "Q8_0", "BF16", "F16", "F32"),
)
"""Which GGUF file a name without a tag means: the first of these that is there."""

_INDEX = "model.safetensors.index.json"
_SHARDS = "model-?????-of-?????.safetensors"
_ADAPTER_SHARDS = "adapter_model-?????-of-?????.safetensors"
_MODULES = "[0-9]*_*"  # folders of sentence-transformers' pooling and dense layers
_TEXTS = (
    *("config.json", "generation_config.json", "*token*.json", "vocab.json", "vocab.txt"),
    *("merges.txt", "*.tiktoken", "*.model", "tekken.json", "chat_template.*", "*processor*.json"),
    *("modules.json", "*sentence*.json", _INDEX),
)
_LICENSES = ("licen[sc]e*", "notice*", "use_policy*")
_OVERLAYS = ("template", "system", "params")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NO_MODELS = ("mmproj", "imatrix")
_QUANTIZATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d|TQ\d|BF16|F16|F32|FP16|FP32|MXFP4)(?:_[0-9A-Z]+)*)(?=[-._/]|$)",
    re.IGNORECASE,
)
_MAX_NAMED = 12


class Kind(Enum):
    GGUF = auto()
    SAFETENSORS = auto()
    ADAPTER = auto()


@dataclass(frozen=True, slots=True)
class Choice:
    """`files` are the model's, of an adapter the configuration first; `overlays` are what Ollama
    reads beside the weights."""

    kind: Kind
    files: tuple[RemoteFile, ...]
    licenses: tuple[RemoteFile, ...] = ()
    overlays: tuple[RemoteFile, ...] = ()

    @property
    def texts(self) -> tuple[RemoteFile, ...]:
        return (*self.licenses, *self.overlays)

    @property
    def all_files(self) -> tuple[RemoteFile, ...]:
        return (*self.files, *self.texts)

    @property
    def is_split(self) -> bool:
        """Whether the files are the parts of one."""
        return self.kind is Kind.GGUF and len(self.files) > 1


def choose_files(files: tuple[RemoteFile, ...], tag: str = DEFAULT_TAG) -> Choice | None:
    """The files that a tag means; None if it names none of them, so that it may be a revision.

    Raises:
        SourceError: nothing here is a model that olla loads.
        FormatError: a part of a split file is missing.
        BadInput: all there is are pickles.
    """
    ggufs = _by_label(files)
    if tag != DEFAULT_TAG:
        named = ggufs.get(tag.lower()) or _by_file_name(files, tag)
        return _gguf(files, named) if named else None
    if weights := _safetensors(files):
        needed = [file for file in files if _is_needed(file)]
        return _choice(Kind.SAFETENSORS, _unique([*weights, *needed]), files)
    if adapter := _adapter(files):
        return _choice(Kind.ADAPTER, adapter, files)
    if ggufs:
        return _gguf(files, _preferred(ggufs))
    for file in _matching(files, *_PICKLES):
        refuse_pickle(file.base_name)
    raise SourceError("it has no safetensors or GGUF files, which is what olla loads")


def labels(files: tuple[RemoteFile, ...]) -> str:
    """The tags that mean a GGUF file, for an error; "" if there are none."""
    names = sorted(label.upper() for label in _by_label(files))
    return ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")


def quantization_of(name: str) -> str:
    """What the name of a GGUF file says about its precision, in upper case, else ""."""
    found = _QUANTIZATION.findall(_stem(name))
    return found[-1].upper().replace("FP16", "F16").replace("FP32", "F32") if found else ""


def _by_label(files: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """Tag -> the file it means, or the parts of a split one. A whole file wins over parts."""
    found: dict[str, list[RemoteFile]] = {}
    for file in _models(files):
        label = (quantization_of(file.name) or _stem(file.base_name)).lower()
        known = found.setdefault(label, [])
        if not known or (_split(file) and _split(file) == _split(known[0])):
            known.append(file)
    return found


def _models(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The GGUF files that may be models, whole ones before parts."""
    ggufs = (file for file in files if file.name.lower().endswith(".gguf"))
    models = (f for f in ggufs if not any(word in f.base_name.lower() for word in _NO_MODELS))
    return sorted(models, key=lambda file: (_split(file) is not None, file.name))


def _by_file_name(files: Iterable[RemoteFile], tag: str) -> list[RemoteFile]:
    """The file, or the parts of the split one, that the tag names; the name of a part names all."""
    wanted = _stem(tag).lower()
    named = [file for file in _models(files) if _stem(file.base_name).lower() == wanted]
    split = _split(named[0]) if named else None
    return [file for file in named if _split(file) == split] if split else named[:1]


def _stem(name: str) -> str:
    part = PartName.parse(name)
    return part.stem if part else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)


def _split(file: RemoteFile) -> tuple[str, int] | None:
    """Of which file this is a part, and of how many; None for a whole one."""
    part = PartName.parse(file.name)
    return (part.whole, part.count) if part else None


def _preferred(ggufs: dict[str, list[RemoteFile]]) -> list[RemoteFile]:
    for label in PREFERRED_QUANTIZATIONS:
        if label.lower() in ggufs:
            return ggufs[label.lower()]
    return min(ggufs.values(), key=lambda files: sum(file.size_bytes for file in files))


def _gguf(files: tuple[RemoteFile, ...], chosen: list[RemoteFile]) -> Choice:
    group_parts(file.name for file in chosen)
    return _choice(Kind.GGUF, tuple(chosen), files)


def _choice(kind: Kind, chosen: tuple[RemoteFile, ...], files: tuple[RemoteFile, ...]) -> Choice:
    overlays = tuple(file for file in files if file.name in _OVERLAYS)
    return Choice(kind, chosen, _licenses(files), overlays)


def _safetensors(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    root = [file for file in files if not file.folder]
    whole, any_of_them = "model.safetensors", ("model*.safetensors", "consolidated*.safetensors")
    is_sharded = _INDEX in {file.name for file in root}
    patterns = (_SHARDS, whole) if is_sharded else (whole, _SHARDS)
    weights = next((found for p in (*patterns, *any_of_them) if (found := _matching(root, p))), [])
    modules = [file for file in files if fnmatchcase(file.name, f"{_MODULES}/model.safetensors")]
    return [*weights, *modules] if weights else []


def _adapter(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The configuration, the weights in one file or several, and what lies beside them."""
    root = [file for file in files if not file.folder]
    config = _matching(root, ADAPTER_CONFIG)
    weights = _matching(root, ADAPTER_WEIGHTS) or _matching(root, _ADAPTER_SHARDS)
    return (*config, *weights, *_matching(root, *ADAPTER_TEXTS)) if config and weights else ()


def _is_needed(file: RemoteFile) -> bool:
    if not file.folder:
        return any(fnmatchcase(file.name, pattern) for pattern in _TEXTS)
    return fnmatchcase(file.name, f"{_MODULES}/config.json")


def _licenses(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    root = (file for file in files if not file.folder)
    return tuple(f for f in root if any(fnmatchcase(f.name.lower(), p) for p in _LICENSES))


def _matching(files: Iterable[RemoteFile], *patterns: str) -> list[RemoteFile]:
    return [f for f in files if any(fnmatchcase(f.base_name, pattern) for pattern in patterns)]


def _unique(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    return tuple(dict.fromkeys(files))
