"""What lies beside an adapter's weights: the tokenizer and the chat template of its training.

The chat template becomes the model's. The tokenizer matters only where the adapter enlarged the
vocabulary: then it takes the place of the base's, and the model gets a config of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from olla.errors import BadInput
from olla.modelfile.adapter import ImportedAdapter
from olla.modelfile.base_weights import read_object
from olla.modelfile.weights import CONFIG, Weights
from olla.registry.blobs import BlobStore
from olla.registry.digest import Digest
from olla.registry.disk import Hold
from olla.registry.layout import is_weights_type
from olla.registry.manifest import Layer, MediaType, format_json
from olla.registry.weights import GGUF_NAME, chat_template, read_header

_TOKENIZER = "tokenizer.json"
TEMPLATES = frozenset({MediaType.TEMPLATE, MediaType.PROMPT})


def new_template(imported: tuple[ImportedAdapter, ...], before: Weights, after: Weights) -> str:
    """The TEMPLATE that a model needs to be used with the chat template of its training.

    Args:
        before, after: the base, and what `with_vocabulary` made of it.

    Returns:
        "" if it uses that anyway, or there is none beside its adapter; of several none decides.
    """
    if not imported:
        return ""
    has_own = any(layer.media_type in TEMPLATES for layer in after.layers)
    texts = imported[0].texts if len(imported) == 1 else {}
    found = chat_template({name: upload.path for name, upload in texts.items()})
    if has_own:
        return found
    wanted = found or read_header(before.files).chat_template
    return "" if wanted == read_header(after.files).chat_template else wanted


def with_vocabulary(
    base: Weights, imported: tuple[ImportedAdapter, ...], blobs: BlobStore, hold: Hold
) -> Weights:
    """The base with the vocabulary that an adapter enlarged; as it is if none did.

    The weights' files stay, so nothing of their size is written.

    Raises:
        BadInput: the base has no config to say so in, or the adapter no tokenizer beside it.
    """
    enlarging = [adapter for adapter in imported if adapter.vocab_size]
    if not enlarging:
        return base
    adapter = enlarging[-1]
    _check(base.files, enlarging)
    config = read_object(base.files[CONFIG], CONFIG)
    own = config.get("base_vocab_size", config["vocab_size"])
    config |= {"vocab_size": adapter.vocab_size, "base_vocab_size": own}
    data = format_json(config)
    hold.add(Digest.of(data))
    layer = Layer(MediaType.FILE, blobs.put(data), len(data), CONFIG)
    texts = [upload.layer(MediaType.FILE, name) for name, upload in adapter.texts.items()]
    new = {item.name: item for item in (layer, *texts)}
    kept = [old for old in base.layers if not (is_weights_type(old.media_type) and old.name in new)]
    files = {**base.files, **{name: blobs.path(item.digest) for name, item in new.items()}}
    return replace(base, layers=(*new.values(), *kept), files=files)


def _check(files: Mapping[str, Path], enlarging: list[ImportedAdapter]) -> None:
    if len(enlarging) > 1:
        raise BadInput("only one of a model's adapters can enlarge the vocabulary")
    if GGUF_NAME in files:
        raise BadInput(
            "the adapter enlarges the vocabulary, which a base in GGUF cannot: take the base in "
            "safetensors (pull its hf.co repository), or merge the adapter into it"
        )
    if type(read_object(files[CONFIG], CONFIG).get("vocab_size")) is not int:
        raise BadInput(f"the adapter enlarges the vocabulary, but {CONFIG} has no vocab_size")
    if _TOKENIZER not in enlarging[0].texts:
        raise BadInput(
            f"the adapter enlarges the vocabulary, but {_TOKENIZER} is not beside it: save the "
            "tokenizer of its training there (tokenizer.save_pretrained)"
        )
