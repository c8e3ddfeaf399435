"""read_model: what a stored model says about itself, from GGUF files and from repositories."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from olla.errors import FormatError, InvalidOption, StoreError
from olla.messages import Message
from olla.options import Options
from olla.registry.digest import Digest
from olla.registry.manifest import MediaType, ModelConfig
from olla.registry.model import Capability, Model
from olla.registry.store import ModelStore
from olla.registry.weights import TensorInfo, format_parameter_count
from tests.formats.gguf_writer import Raw, tiny_model
from tests.registry.models import GGUF, name, put_model, safetensors_bytes

FILE, ADAPTER_FILE = MediaType.FILE, MediaType.ADAPTER_FILE
LLAMA_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "max_position_embeddings": 4096,
    "hidden_size": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
WEIGHTS = safetensors_bytes(
    **{"model.norm.weight": ("F32", [4], 16), "lm_head.weight": ("BF16", [6, 4], 48)}
)


def put(store: ModelStore, *layers: tuple[str, bytes], config: ModelConfig | None = None) -> Model:
    put_model(store, "m", *layers, config=config)
    return store.resolve(name("m"))


def put_repository(store: ModelStore, config: object = LLAMA_CONFIG, **files: str | bytes) -> Model:
    """A repository with weights; `files` by name, with `__` for the dot."""
    everything: dict[str, str | bytes] = {
        "config.json": json.dumps(config),
        "model.safetensors": WEIGHTS,
    }
    everything.update({file.replace("__", "."): data for file, data in files.items()})
    layers = [
        (f"{FILE} {path}", data.encode() if isinstance(data, str) else data)
        for path, data in everything.items()
    ]
    return put(store, *layers)


def test_a_gguf_model_of_ollama_is_read_with_all_its_layers(store: ModelStore) -> None:
    model = put(
        store,
        (MediaType.MODEL, GGUF),
        (MediaType.TEMPLATE, b"{{ .Prompt }}"),
        (MediaType.SYSTEM, b"Be brief."),
        (MediaType.PARAMS, b'{"stop":["</s>"],"temperature":0.5,"unknown":1}'),
        (MediaType.MESSAGES, b'[{"role":"user","content":"hi"}]'),
        (MediaType.LICENSE, b"MIT"),
        (MediaType.LICENSE, b"Apache"),
        ("application/vnd.ollama.image.embed", b"ignored"),
        config=ModelConfig(model_format="gguf", model_family="llama", file_type="Q4_1"),
    )

    assert model.name == name("m")
    assert model.template == "{{ .Prompt }}"
    assert model.system == "Be brief."
    assert model.parameters == {"stop": ["</s>"], "temperature": 0.5, "unknown": 1}
    assert model.options == Options(stop=("</s>",), temperature=0.5)
    assert model.messages == (Message("user", "hi"),)
    assert model.licenses == ("MIT", "Apache")
    assert model.files == {"model.gguf": store.blobs.path(Digest.of(GGUF))}
    assert model.weights_key == str(Digest.of(GGUF))
    assert model.config.model_family == "llama"
    assert model.size_bytes == sum(layer.size_bytes for layer in model.manifest.blobs)
    assert model.modified_at.tzinfo is not None


def test_a_gguf_header_is_read(store: ModelStore) -> None:
    model = put(store)

    assert model.architecture == "llama"
    assert model.context_length == 2048
    assert model.embedding_length == 8
    assert model.parameter_count == 32
    assert model.parameter_size == "32"
    assert model.quantization_level == "Q4_1"
    assert model.chat_template.startswith("{% for m in messages %}")
    assert model.tensors() == (
        TensorInfo("token_embd.weight", "F32", (8, 3)),
        TensorInfo("output_norm.weight", "F32", (8,)),
    )


def test_the_config_wins_over_the_header(store: ModelStore) -> None:
    config = ModelConfig(
        model_type="8.0B", file_type="Q4_K_M", context_length=1, embedding_length=2
    )
    model = put(store, config=config)

    assert (model.context_length, model.embedding_length) == (1, 2)
    assert (model.parameter_size, model.quantization_level) == ("8.0B", "Q4_K_M")


def test_info_hides_arrays_and_the_long_texts(store: ModelStore) -> None:
    info = put(store).info()

    assert info["general.architecture"] == "llama"
    assert info["general.parameter_count"] == 32
    assert info["llama.context_length"] == 2048
    assert info["tokenizer.ggml.tokens"] is None
    assert not {"general.name", "tokenizer.chat_template"} & set(info)


def test_verbose_info_has_arrays(store: ModelStore) -> None:
    assert put(store).info(verbose=True)["tokenizer.ggml.tokens"] == ("<s>", "a", "b")


def test_a_repository_is_its_files(store: ModelStore) -> None:
    model = put_repository(store, tokenizer__json="{}")

    assert set(model.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert model.files["model.safetensors"].read_bytes() == WEIGHTS
    assert model.info() == {
        "general.architecture": "llama",
        "general.file_type": 32,
        "general.parameter_count": 28,
        "llama.block_count": 2,
        "llama.context_length": 4096,
        "llama.embedding_length": 4,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
    }
    assert model.info(verbose=True) == model.info()
    assert model.context_length == 4096
    assert model.quantization_level == "BF16"
    assert TensorInfo("lm_head.weight", "BF16", (6, 4)) in model.tensors()


def test_the_numbers_of_a_nested_text_model_count(store: ModelStore) -> None:
    config = {"model_type": "gemma3", "text_config": {"hidden_size": 64}, "vision_config": {}}

    assert put_repository(store, config).info()["gemma3.embedding_length"] == 64


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, ""),
        ({"tokenizer_config__json": '{"chat_template": "A"}'}, "A"),
        ({"tokenizer_config__json": '{"chat_template": null}'}, ""),
        (
            {"tokenizer_config__json": '{"chat_template": '
             '[{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}'},
            "D",
        ),
        ({"tokenizer_config__json": '{"chat_template": "A"}', "chat_template__jinja": "J"}, "J"),
        ({"chat_template__json": '{"chat_template": "P"}', "chat_template__jinja": "J"}, "J"),
        ({"chat_template__json": '{"chat_template": "P"}'}, "P"),
        (
            {"tokenizer_config__json": '{"chat_template": "A"}',
             "chat_template__json": '{"chat_template": "P"}'},
            "P",
        ),
    ],
)  # fmt: skip
def test_a_repository_has_a_chat_template(
    store: ModelStore, files: dict[str, str], template: str
) -> None:
    assert put_repository(store, **files).chat_template == template


def test_tensor_layers_of_ollama_are_files_too(store: ModelStore) -> None:
    model = put(
        store,
        (f"{MediaType.JSON} config.json", json.dumps(LLAMA_CONFIG).encode()),
        (f"{MediaType.TENSOR} model.norm.weight", WEIGHTS),
    )

    assert set(model.files) == {"config.json", "model.norm.weight.safetensors"}
    assert model.parameter_count == 28


def test_models_of_one_base_share_a_weights_key(store: ModelStore) -> None:
    base = put_repository(store)
    layers = [(f"{FILE} {path}", blob.read_bytes()) for path, blob in base.files.items()]
    put_model(store, "tuned", *reversed(layers), (f"{ADAPTER_FILE} 0/adapter_config.json", b"{}"))
    put_model(store, "other", *layers[1:])

    assert store.resolve(name("tuned")).weights_key == base.weights_key
    assert store.resolve(name("other")).weights_key != base.weights_key


def test_adapters_are_grouped_by_their_number(store: ModelStore) -> None:
    model = put(
        store,
        (MediaType.MODEL, GGUF),
        (f"{ADAPTER_FILE} 1/adapter_config.json", b"{1}"),
        (f"{ADAPTER_FILE} 0/adapter_config.json", b"{0}"),
        (f"{ADAPTER_FILE} 0/adapter_model.safetensors", b"weights"),
        (MediaType.ADAPTER, b"lora"),
    )

    texts = [{key: path.read_bytes() for key, path in files.items()} for files in model.adapters]
    assert texts == [
        {"adapter.gguf": b"lora"},
        {"adapter_config.json": b"{0}", "adapter_model.safetensors": b"weights"},
        {"adapter_config.json": b"{1}"},
    ]


def test_scales_for_another_number_of_adapters_are_a_broken_config(store: ModelStore) -> None:
    layers = ((MediaType.MODEL, GGUF), (MediaType.ADAPTER, b"lora"))

    assert put(store, *layers).adapter_scales == (1.0,)
    assert put(store, *layers, config=ModelConfig(adapter_scales=(0.5,))).adapter_scales == (0.5,)
    broken = put(store, *layers, config=ModelConfig(adapter_scales=(0.5, 1.0)))
    with pytest.raises(StoreError, match="2 adapter_scales for 1 adapters"):
        _ = broken.adapter_scales


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "/x", "a/../b", "a//b", "./a", "", "..", "a\\b", "a\nb", "a/", "a\x00b"),
        *("a" * 300, "\u0430" * 150, "a\u202eb"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("media_type", [FILE, ADAPTER_FILE])
def test_a_manifest_cannot_name_files_outside(
    store: ModelStore, media_type: MediaType, path: str
) -> None:
    prefix = "0/" if media_type is ADAPTER_FILE else ""

    with pytest.raises(StoreError, match="is not a clean relative path"):
        put(store, (f"{media_type} {prefix}{path}", b"x"))


@pytest.mark.parametrize("path", ["%2e%2e/x", "\u2024\u2024/x", "\uff0e\uff0e/x", "..\uff0fx"])
def test_what_only_looks_like_a_way_out_is_a_name(
    store: ModelStore, tmp_path: Path, path: str
) -> None:
    model = put(store, (f"{FILE} {path}", b"x"))

    assert set(model.files) == {path}
    assert (tmp_path / path).resolve().is_relative_to(tmp_path)


@pytest.mark.parametrize("path", ["adapter.json", "x/a", "-1/a", "²/a", "1000/a"])
def test_an_adapter_file_has_a_number(store: ModelStore, path: str) -> None:
    with pytest.raises(StoreError, match=rf"'{path}' has no adapter's number"):
        put(store, (f"{ADAPTER_FILE} {path}", b"x"))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ((MediaType.PARAMS, b"{"), "broken params layer: it is not JSON"),
        ((MediaType.PARAMS, b"[]"), "broken params layer: it is not a JSON object"),
        ((MediaType.MESSAGES, b"{}"), "broken messages layer: it is not a JSON list"),
        ((MediaType.MESSAGES, b"[1]"), "broken messages layer: a message lacks its role"),
        ((MediaType.MESSAGES, b'[{"role":"user"}]'), "broken messages layer: a message lacks"),
    ],
)
def test_broken_small_layers_are_refused(
    store: ModelStore, layer: tuple[str, bytes], text: str
) -> None:
    with pytest.raises(StoreError) as caught:
        put(store, (MediaType.MODEL, GGUF), layer)
    assert str(caught.value).startswith(text)


def test_parameters_of_a_wrong_type_fail_when_they_are_used(store: ModelStore) -> None:
    model = put(store, (MediaType.MODEL, GGUF), (MediaType.PARAMS, b'{"top_k":"x"}'))

    with pytest.raises(InvalidOption, match='option "top_k" must be of type integer'):
        _ = model.options


@pytest.mark.parametrize("media_type", [MediaType.TEMPLATE, MediaType.PROMPT])
def test_both_names_of_a_template_are_known(store: ModelStore, media_type: MediaType) -> None:
    assert put(store, (MediaType.MODEL, GGUF), (media_type, b"T")).template == "T"


@pytest.mark.parametrize("layer", [MediaType.MODEL, MediaType.ADAPTER, f"{FILE} config.json"])
def test_files_that_are_gone_are_noticed(store: ModelStore, layer: str) -> None:
    model = put(store, (layer, b"weights"))
    model.check_files()
    path = store.blobs.path(Digest.of(b"weights"))
    path.unlink()

    with pytest.raises(StoreError, match=rf"^model m:latest is broken: {path.name} is not there$"):
        model.check_files()


def test_broken_weights_are_told_on_verbose_and_logged_otherwise(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    model = put(store, (MediaType.MODEL, b"not weights"))

    with caplog.at_level(logging.WARNING):
        assert model.info() == {}
        assert model.capabilities == ()
    assert "not a GGUF file" in caplog.text
    with pytest.raises(FormatError):
        model.info(verbose=True)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [b"{", b"[]"])
def test_a_repository_with_broken_json_is_a_format_error(
    store: ModelStore, file: str, data: bytes
) -> None:
    model = put_repository(store, **{file.replace(".", "__"): data})

    with pytest.raises(FormatError, match=rf"^{file} is not"):
        model.info(verbose=True)


def test_a_remote_stub_has_no_weights(store: ModelStore) -> None:
    model = put(
        store,
        (MediaType.SYSTEM, b"s"),
        config=ModelConfig(remote_host="https://ollama.com", capabilities=("tools", "other")),
    )

    assert (model.files, model.weights_key, model.info()) == ({}, "", {})
    assert model.capabilities == (Capability.TOOLS,)


C = Capability


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        ("{{ messages }}", [C.COMPLETION]),
        ("{% if tools %}", [C.COMPLETION, C.TOOLS]),
        ("{{ m.tool_calls }}", [C.COMPLETION, C.TOOLS]),
        ("<think>\n</think>", [C.COMPLETION, C.THINKING]),
        ("<think>", [C.COMPLETION]),
        ("{{ content.split('</think>')[-1] }}", [C.COMPLETION, C.THINKING]),
        ("{{ c.split('</think>') }}{{ m.reasoning_content }}", [C.COMPLETION]),
        ("{% if tools %}<think></think>", [C.COMPLETION, C.TOOLS, C.THINKING]),
    ],
)
def test_capabilities_of_jinja_templates(
    store: ModelStore, template: str, capabilities: list[Capability]
) -> None:
    weights = tiny_model(**{"tokenizer.chat_template": template}).to_bytes()

    model = put(store, (MediaType.MODEL, weights))

    assert list(model.capabilities) == capabilities


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        (b"{{ .Prompt }} .Tools", [C.COMPLETION]),
        (b"{{- if .Tools }}{{ end }}", [C.COMPLETION, C.TOOLS]),
        (b"{{ range $.Messages }}<t>{{ .Thinking }}</t>{{ end }}", [C.COMPLETION, C.THINKING]),
        (b"{{ range $.Tools }}{{ end }}{{ .Thinking }}", [C.COMPLETION, C.TOOLS]),
        (b"<P>{{ .Prompt }}<S>{{ .Suffix }}", [C.COMPLETION, C.INSERT]),
    ],
)
def test_capabilities_of_go_templates(
    store: ModelStore, template: bytes, capabilities: list[Capability]
) -> None:
    weights = tiny_model(**{"tokenizer.chat_template": ""}).to_bytes()

    model = put(store, (MediaType.MODEL, weights), (MediaType.TEMPLATE, template))

    assert list(model.capabilities) == capabilities


def test_a_template_layer_in_jinja_is_the_one_that_counts(store: ModelStore) -> None:
    weights = tiny_model(**{"tokenizer.chat_template": "<think></think>"}).to_bytes()
    own = b"{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"

    model = put(store, (MediaType.MODEL, weights), (MediaType.TEMPLATE, own))

    assert model.capabilities == (C.COMPLETION, C.TOOLS)


@pytest.mark.parametrize(
    ("go_template", "capabilities"),
    [
        (None, (C.COMPLETION, C.INSERT)),
        (True, (C.COMPLETION, C.INSERT)),
        (False, (C.COMPLETION, C.TOOLS)),
    ],
)
def test_a_setting_may_choose_the_language_of_the_template(
    tmp_path: Path, go_template: bool | None, capabilities: tuple[Capability, ...]
) -> None:
    store = ModelStore(tmp_path / "other", go_template=go_template)
    weights = tiny_model(**{"tokenizer.chat_template": "{% if tools %}"}).to_bytes()

    model = put(store, (MediaType.MODEL, weights), (MediaType.TEMPLATE, b"{{ .Suffix }}"))

    assert model.capabilities == capabilities
    assert store.list()[0].capabilities == capabilities


@pytest.mark.parametrize(
    ("config", "is_go"),
    [
        (ModelConfig(renderer="qwen3-coder", parser="qwen3-coder"), False),
        (ModelConfig(renderer="qwen3-coder"), False),
        (ModelConfig(parser="harmony"), True),
    ],
)
@pytest.mark.parametrize("go_template", [None, True, False])
def test_a_renderer_takes_the_template_of_the_files_and_a_parser_that_in_go(
    tmp_path: Path, config: ModelConfig, is_go: bool, go_template: bool | None
) -> None:
    store = ModelStore(tmp_path / "other", go_template=go_template)
    weights = tiny_model(**{"tokenizer.chat_template": "{% if x %}"}).to_bytes()
    layers = ((MediaType.MODEL, weights), (MediaType.TEMPLATE, b"{{ .Prompt }}"))

    model = put(store, *layers, config=config)

    assert model.prompt_template == ("{{ .Prompt }}" if is_go else "{% if x %}")


@pytest.mark.parametrize(
    ("metadata", "capabilities"),
    [
        ({"llama.pooling_type": 1}, [C.EMBEDDING]),
        ({"llama.vision.block_count": 1}, [C.COMPLETION, C.VISION]),
        ({"llama.audio.block_count": 1}, [C.COMPLETION, C.AUDIO]),
    ],
)
def test_capabilities_of_gguf_headers(
    store: ModelStore, metadata: dict[str, int], capabilities: list[Capability]
) -> None:
    model = put(store, (MediaType.MODEL, tiny_model(**metadata).to_bytes()))

    assert list(model.capabilities) == capabilities


@pytest.mark.parametrize(
    ("config", "capabilities"),
    [
        (LLAMA_CONFIG, [C.COMPLETION]),
        ({}, [C.COMPLETION]),
        ({"architectures": ["BertModel"]}, [C.EMBEDDING]),
        ({"architectures": ["XForConditionalGeneration"], "vision_config": {}}, [C.COMPLETION]),
        ({"model_type": "gemma3", "vision_config": {}}, [C.COMPLETION]),
        ({"audio_config": {}}, [C.COMPLETION, C.AUDIO]),
    ],
)  # fmt: skip
def test_capabilities_of_repositories(
    store: ModelStore, config: object, capabilities: list[Capability]
) -> None:
    assert list(put_repository(store, config).capabilities) == capabilities


@pytest.mark.parametrize("model_type", ["gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("name", ["preprocessor_config__json", "processor_config__json"])
def test_a_repository_that_says_how_it_takes_images_sees(
    store: ModelStore, model_type: str, name: str
) -> None:
    config = {"model_type": model_type, "vision_config": {}}

    model = put_repository(store, config, **{name: "{}"})

    assert model.capabilities == (C.COMPLETION, C.VISION)


def test_a_projector_sees_and_says_what_it_is(store: ModelStore) -> None:
    projector = tiny_model(**{"general.architecture": "clip"}).to_bytes()

    model = put(store, (MediaType.MODEL, GGUF), (MediaType.PROJECTOR, projector))

    assert model.capabilities == (C.COMPLETION, C.VISION)
    assert model.projector_info()["general.architecture"] == "clip"
    assert model.projector_info()["tokenizer.ggml.tokens"] is None


def test_a_model_without_a_projector_has_no_projector_info(store: ModelStore) -> None:
    assert put(store).projector_info() == {}


@pytest.mark.parametrize("family", ["gptoss", "gpt-oss"])
def test_gpt_oss_thinks(store: ModelStore, family: str) -> None:
    assert C.THINKING in put(store, config=ModelConfig(model_family=family)).capabilities


def test_capabilities_of_the_config_come_first(store: ModelStore) -> None:
    model = put(store, config=ModelConfig(capabilities=("vision", "completion")))

    assert model.capabilities == (C.VISION, C.COMPLETION)


def test_an_unknown_file_type_says_so(store: ModelStore) -> None:
    weights = tiny_model(**{"general.file_type": 999}).to_bytes()

    assert put(store, (MediaType.MODEL, weights)).quantization_level == "unknown"


def test_an_architecture_that_is_no_text_does_no_harm(store: ModelStore) -> None:
    weights = tiny_model(**{"general.architecture": Raw(7, b"\x01")}).to_bytes()

    assert put(store, (MediaType.MODEL, weights)).context_length == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (8_030_261_248, "8.0B"), (8_000_000_000, "8B"), (70_553_706_496, "70.6B"),
        (134_515_008, "134.52M"), (135_000_000, "135M"), (12_345, "12K"), (999, "999"),
    ],
)  # fmt: skip
def test_parameter_counts_are_spelt_as_ollama_does(count: int, text: str) -> None:
    assert format_parameter_count(count) == text


@pytest.mark.weights
def test_the_real_model_is_read(store: ModelStore, smollm2_gguf: Path) -> None:
    model = put(store, (MediaType.MODEL, smollm2_gguf.read_bytes()))

    assert model.parameter_size == "134.52M"
    assert model.quantization_level == "Q4_1"
    assert (model.context_length, model.embedding_length) == (8192, 576)
    assert model.capabilities == (C.COMPLETION,)
    assert len(model.tensors()) == 272


def test_a_parser_adds_what_its_models_can(store: ModelStore) -> None:
    capabilities = put(store, config=ModelConfig(parser="qwen3")).capabilities

    assert {C.TOOLS, C.THINKING} <= set(capabilities)
