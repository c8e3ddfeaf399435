"""A BERT written as llama.cpp's converter does is the BERT that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers

from olla.engine.encoder import load_encoder
from olla.engine.encoder_files import is_encoder
from olla.errors import FormatError
from tests.encoders import VOCABULARY, save_encoder
from tests.engine.test_embedder import TEXTS, encoder, vectors

_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_bert(
    path: Path,
    model: Any,
    vocabulary: tuple[str, ...],
    pooling: gguf.PoolingType = gguf.PoolingType.MEAN,
    kind: str = "bert",
    num_layers: int = 0,
) -> dict[str, str]:
    """The rules are the converter's, told a second time."""
    config = model.config
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(num_layers or config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_tokenizer_model(kind)
    writer.add_token_list([_phantom(token) for token in vocabulary])
    for name in ("sep", "unk"):
        number = vocabulary.index(f"[{name.upper()}]")
        getattr(writer, f"add_{name}_token_id")(number)
    for name, tensor in model.state_dict().items():
        if not name.startswith("pooler") and "position_ids" not in name:
            values = tensor.float().numpy()
            wide = values.ndim > 1 and "token_type" not in name and "position" not in name
            writer.add_tensor(_name(name), values.astype(np.float16) if wide else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"model.gguf": str(path)}


def _phantom(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def _name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module.startswith("encoder.layer."):
        _, _, layer, module = module.split(".", 3)
        return f"blk.{layer}.{_NAMES[module]}.{kind}"
    return f"{_NAMES[module]}.{kind}"


def rounded(folder: Path) -> Any:
    """The model, its weights rounded as the file has them."""
    model = transformers.AutoModel.from_pretrained(folder)
    return model.half().float().eval()


def test_a_tiny_bert_gives_the_same_vectors_in_both_formats(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    model = rounded(tmp_path)
    model.save_pretrained(tmp_path)
    files = {path.name: str(path) for path in tmp_path.iterdir()}
    gguf_files = write_bert(tmp_path / "bert.gguf", model, VOCABULARY)

    assert is_encoder(gguf_files)
    texts = [*TEXTS, "Caf\u00e9 NO\u00cbL, 42!", "a" * 200]
    ours = vectors(encoder(gguf_files), texts, normalize=False)

    lowered = [text.lower().replace("\u00e9", "e").replace("\u00eb", "e") for text in texts]
    theirs = vectors(encoder(files), lowered, normalize=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_pooling_type_is_heard(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    model = rounded(tmp_path)
    cls = write_bert(tmp_path / "cls.gguf", model, VOCABULARY, gguf.PoolingType.CLS)
    mean = write_bert(tmp_path / "mean.gguf", model, VOCABULARY)

    assert not np.allclose(vectors(encoder(cls), TEXTS), vectors(encoder(mean), TEXTS), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "t5"}, 'unsupported tokenizer "t5"'),
        ({"pooling": gguf.PoolingType.RANK}, "pooling type 4"),
        ({"num_layers": 3}, "do not fit its metadata"),
    ],
)
def test_what_olla_cannot_read_is_refused(
    settings: dict[str, Any], text: str, tmp_path: Path
) -> None:
    save_encoder(tmp_path)
    files = write_bert(tmp_path / "bert.gguf", rounded(tmp_path), VOCABULARY, **settings)

    with pytest.raises(FormatError, match=text):
        load_encoder(files, "float32", "cpu", 1)
