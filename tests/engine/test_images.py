"""Models that look at images: what transformers computes, and no image taken for another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer

from olla.engine.blocks import BLOCK_SIZE, BlockPool
from olla.engine.engine import Engine
from olla.engine.executor import Executor
from olla.engine.image_places import PlacedPrompt, without_images
from olla.engine.images import ImageReader
from olla.engine.loading import LoadedModel, load_model
from olla.engine.merging import Merging
from olla.engine.models.hf import HfModel
from olla.engine.parts import LowRank
from olla.engine.profile import NoProfile
from olla.engine.scheduler import Scheduler
from olla.engine.sequence import Sequence as Tokens
from olla.errors import BadInput, FormatError, PromptTooLong
from olla.options import SamplingParams
from tests.engine.driving import ask, drain, finished
from tests.tiny_model import files_of, save_tiny_model
from tests.tiny_vision import FAMILIES, encoded, picture, save_tiny_vision_model

TOLERANCE = 1e-5
WIDE, HIGH = picture(40, 20, seed=1), picture(24, 36, seed=2)
TWO = "see [img-0] and then [img-1] say"


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny_vision_model(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(files_of(folder), "float32", "cpu", 0, lambda done, total: None)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    kind = transformers.AutoModelForImageTextToText
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def image_token(model: LoadedModel) -> int:
    assert model.images is not None
    return model.images.image_token


def inputs(model: LoadedModel, prompt: PlacedPrompt) -> dict[str, Any]:
    """What transformers takes for a prompt."""
    tokens = torch.tensor([prompt.tokens])
    images = [placed.image.inputs for placed in prompt.images]
    joined = {name: torch.cat([image[name] for image in images]) for name in images[0]}
    types = (tokens == image_token(model)).int()
    name = "mm_token_type_ids" if "image_grid_thw" in joined else "token_type_ids"
    return {"input_ids": tokens, name: types, **joined}


def own_logits(
    model: LoadedModel, prompts: Sequence[PlacedPrompt], per_step: int
) -> list[torch.Tensor]:
    """All logits of prompts that are computed side by side, so many tokens in a step."""
    pool = BlockPool(64)
    merging = Merging(model.network, model.dtype)
    executor = Executor(model.network, model.device, 64, BLOCK_SIZE, NoProfile(), merging)
    scheduler = Scheduler(pool, tokens_per_step=per_step)
    sequences = [
        Tokens(
            id=number,
            tokens=list(prompt.tokens),
            images=prompt.images,
            sampling=SamplingParams(),
            max_length=400,
            scores_prompt=True,
        )
        for number, prompt in enumerate(prompts)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    while any(sequence.num_pending for sequence in sequences):
        scheduled = scheduler.schedule()
        sizes = [item.num_logits for item in scheduled]
        rows = torch.split(executor.forward(scheduled), sizes)
        for item, part in zip(scheduled, rows, strict=True):
            found[item.sequence.id].append(part)
        scheduler.committed(scheduled)
    return [torch.cat(parts) for parts in found]


def prompt_of(model: LoadedModel, text: str, *images: bytes) -> PlacedPrompt:
    return Engine(model).reader.read(ask(1, text, images=list(images)))


def say(engine: Engine, text: str, *images: bytes, **settings: Any) -> Any:
    """The last word on one request."""
    request = ask(1, text, images=list(images), **{"num_predict": 6, **settings})
    prompt = engine.reader.read(request)
    engine.add(request, prompt.tokens, images=prompt.images)
    return finished(drain(engine)[1])


@pytest.mark.parametrize("per_step", [512, 7, 1])
def test_logits_of_images_and_texts_side_by_side_are_those_of_transformers(
    model: LoadedModel, reference: Any, per_step: int
) -> None:
    seen, text = prompt_of(model, TWO, WIDE, HIGH), prompt_of(model, "plain text alongside it")

    of_seen, of_text = own_logits(model, [seen, text], per_step)

    with torch.inference_mode():
        expected = reference(**inputs(model, seen)).logits[0]
        plain = reference(input_ids=torch.tensor([text.tokens])).logits[0]
    scale = expected.abs().max()
    assert isinstance(model.network, HfModel)
    assert (of_seen - expected).abs().max() <= TOLERANCE * scale
    assert (of_text - plain).abs().max() <= TOLERANCE * scale


def test_half_precision_is_near(folder: Path, model: LoadedModel) -> None:
    half = load_model(files_of(folder), "bfloat16", "cpu", 0, lambda done, total: None)

    (exact,), (rough,) = (
        own_logits(loaded, [prompt_of(loaded, TWO, WIDE, HIGH)], 512) for loaded in (model, half)
    )

    assert (rough - exact).norm() <= 0.1 * exact.norm()


def test_greedy_replies_are_those_of_transformers(model: LoadedModel, reference: Any) -> None:
    prompt = prompt_of(model, TWO, WIDE, HIGH)

    expected = reference.generate(
        **inputs(model, prompt), max_new_tokens=20, do_sample=False, eos_token_id=None
    )

    end = say(Engine(model), TWO, WIDE, HIGH, num_predict=20)
    start = len(without_images(prompt.tokens, prompt.images))
    assert end.context[start:] == expected[0, len(prompt.tokens) :].tolist()


def test_a_prefix_is_found_again_only_with_the_same_image(model: LoadedModel) -> None:
    engine = Engine(model)
    before = "words that come before the image " * 2

    first = say(engine, f"{before}[img-0] end", WIDE)
    same = say(engine, f"{before}[img-0] end", WIDE)
    other = say(engine, f"{before}[img-0] end", picture(40, 20, seed=9))

    assert first.num_cached_tokens == 0
    assert same.num_cached_tokens > other.num_cached_tokens > 0
    assert same.context == first.context
    assert other.num_cached_tokens <= len(before)


def test_a_turn_after_an_image_is_computed_from_there_on(model: LoadedModel) -> None:
    engine = Engine(model)
    text = "look at [img-0] for a while, and tell me what you see there"

    say(engine, text, HIGH)
    longer = say(engine, f"{text}; and more", HIGH)
    alone = say(Engine(model), f"{text}; and more", HIGH)

    assert longer.num_cached_tokens >= 32
    assert longer.context == alone.context


def test_the_order_of_numbers_is_that_of_the_images(model: LoadedModel) -> None:
    straight = prompt_of(model, "[img-0] x [img-1]", WIDE, HIGH)
    crossed = prompt_of(model, "[img-1] x [img-0]", HIGH, WIDE)

    assert straight.tokens == crossed.tokens
    found = [[placed.image.identity for placed in prompt.images] for prompt in (straight, crossed)]
    assert found[0] == found[1]


def test_a_template_of_the_model_marks_the_same_places_as_numbers(model: LoadedModel) -> None:
    marks = {
        "gemma3": "<start_of_image>",
    }
    family = model.network.config.architecture
    mark = marks.get(family, "<|vision_start|><|image_pad|><|vision_end|>")

    assert prompt_of(model, f"a {mark} b", WIDE) == prompt_of(model, "a [img-0] b", WIDE)


@pytest.mark.parametrize(
    ("text", "num_images"),
    [("none", 1), ("[img-0]", 2), ("[img-0] [img-1]", 1), ("[img-0] [img-0]", 2), ("[img-7]", 1)],
)
def test_a_text_without_a_place_for_each_image_is_refused(
    model: LoadedModel, text: str, num_images: int
) -> None:
    with pytest.raises(BadInput, match=r"the prompt has places for \d images, but \d came"):
        prompt_of(model, text, *[WIDE] * num_images)


def test_the_models_own_image_token_in_a_text_is_refused_beside_images(
    model: LoadedModel,
) -> None:
    token = model.tokenizer.id_to_token(image_token(model))

    with pytest.raises(BadInput, match=r"places for|do not write the model's own tokens"):
        prompt_of(model, f"{token} {token} [img-0]", WIDE)


def test_an_image_that_cannot_be_read_is_named(model: LoadedModel) -> None:
    with pytest.raises(BadInput, match=r"^images\[1\]: this is no image that can be read; send"):
        prompt_of(model, TWO, WIDE, b"no image")


def test_a_prompt_with_images_is_not_cut(model: LoadedModel) -> None:
    engine = Engine(model)

    with pytest.raises(PromptTooLong, match="16 in the context"):
        say(engine, "look: [img-0] what is it?", WIDE, num_ctx=16)


def test_a_reply_to_an_image_ends_where_the_window_does(model: LoadedModel) -> None:
    engine = Engine(model)
    length = len(engine.reader.tokenize("[img-0]", [WIDE], False))

    end = say(engine, "[img-0]", WIDE, num_ctx=length + 3, num_predict=50)

    assert (end.reason, end.num_tokens) == ("length", 3)


def test_the_context_of_a_reply_has_no_images(model: LoadedModel) -> None:
    engine = Engine(model)

    end = say(engine, "a[img-0]b", WIDE)
    again = say(engine, "[img-0]", WIDE, context=end.context)

    assert end.num_prompt_tokens > len(end.context) - end.num_tokens
    assert image_token(model) not in end.context[:-6]
    assert again.num_prompt_tokens > len(end.context)


def test_a_model_that_reads_no_images_says_so(tmp_path: Path) -> None:
    files = save_tiny_model(tmp_path)
    engine = Engine(load_model(files, "float32", "cpu", 0, lambda done, total: None))

    with pytest.raises(BadInput, match="this model reads no images"):
        engine.reader.tokenize("[img-0]", [WIDE], False)


def test_without_its_processor_a_model_reads_texts_alone(folder: Path) -> None:
    files = files_of(folder)
    del files["preprocessor_config.json"]

    model = load_model(files, "float32", "cpu", 0, lambda done, total: None)

    assert model.images is None
    assert say(Engine(model), "a text").num_tokens == 6


def test_a_processor_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "preprocessor_config.json"
    broken.write_text('{"image_processor_type": "NoSuchProcessor"}')
    files = {**files_of(folder), broken.name: str(broken)}

    with pytest.raises(FormatError, match="the model's image processor cannot be loaded: "):
        load_model(files, "float32", "cpu", 0, lambda done, total: None)


OF_GEMMA = {
    "do_convert_rgb": None,
    "do_pan_and_scan": None,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "Gemma3ImageProcessor",
    "image_seq_length": 256,
    "processor_class": "Gemma3Processor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 896, "width": 896},
}
OF_QWEN = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
OF_QWEN_2 = {**OF_QWEN, "min_pixels": 3136, "max_pixels": 12845056}
OF_QWEN_3 = {**OF_QWEN, "patch_size": 16, "size": {"longest_edge": 2**24, "shortest_edge": 2**16}}


@pytest.mark.parametrize(
    ("family", "settings", "kind", "num_tokens"),
    [
        ("gemma3", OF_GEMMA, "Gemma3ImageProcessor", 9),
        ("gemma3", OF_GEMMA, "Gemma3ImageProcessorFast", 9),
        ("qwen2_vl", OF_QWEN_2, "Qwen2VLImageProcessor", 22 * 16),
        ("qwen2_5_vl", OF_QWEN_2, "Qwen2VLImageProcessorFast", 22 * 16),
        ("qwen3_vl", OF_QWEN_3, "Qwen2VLImageProcessorFast", 19 * 14),
    ],
)
def test_settings_are_read_as_vendors_write_them(
    tmp_path: Path, family: str, settings: dict[str, Any], kind: str, num_tokens: int
) -> None:
    save_tiny_vision_model(tmp_path, family)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**settings, "image_processor_type": kind}))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    reader = ImageReader({file.name: file for file in tmp_path.iterdir()}, tokenizer)
    image = picture(615, 448)

    assert [found.num_tokens for found in reader.look([image])] == [num_tokens]
    assert reader.sizes([image]) == [num_tokens]
    written, _ = reader.write("[img-0]", [image])
    assert tokenizer.encode(written).ids.count(reader.image_token) == 1


def test_an_adapter_over_the_part_that_sees_is_refused(model: LoadedModel) -> None:
    part = LowRank("model.visual.blocks.0.attn.proj", torch.zeros(4, 16), torch.zeros(16, 4))

    with pytest.raises(FormatError, match="over the language model only"):
        model.network.add_adapter(1, [part])


def test_counting_looks_at_no_image(model: LoadedModel) -> None:
    """A header is enough, also where the pixels behind it are missing."""
    reader = Engine(model).reader
    cut_off = WIDE[:-400]

    assert reader.tokenize("[img-0]", [cut_off], False) == reader.tokenize("[img-0]", [WIDE], False)
    with pytest.raises(BadInput, match=r"^images\[0\]: the PNG file is broken or cut off"):
        prompt_of(model, "[img-0]", cut_off)


def test_images_that_do_not_fit_are_not_looked_at(model: LoadedModel) -> None:
    text = " ".join(f"[img-{number}]" for number in range(60))

    with pytest.raises(PromptTooLong, match="256 in the context"):
        prompt_of(model, text, *[WIDE[:-400]] * 60)


def test_images_that_are_too_large_together_are_refused(model: LoadedModel) -> None:
    large = encoded(Image.new("1", (8000, 8000)))

    with pytest.raises(BadInput, match="the images have 320000000 pixels together, more than"):
        prompt_of(model, "[img-0][img-1][img-2][img-3][img-4]", *[large] * 5)


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (150, 1), (37, 5), (300, 200), (43, 41)])
def test_the_count_of_tokens_is_that_of_the_processor(
    model: LoadedModel, size: tuple[int, int]
) -> None:
    """A picture lies on its side until it is looked at, which changes no count."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (picture(*size), encoded(Image.new("RGB", size), "JPEG", exif=exif)):
        (placed,) = prompt_of(model, "[img-0]", data).images
        image = placed.image
        assert model.images is not None
        if image.grid is not None:
            assert image.num_tokens == image.grid[0] * image.grid[1]
        network: Any = model.network
        assert len(network._vision._levels(image)[0]) == image.num_tokens


def test_sides_that_are_too_unequal_are_refused(model: LoadedModel) -> None:
    if model.network.config.architecture == "gemma3":
        assert prompt_of(model, "[img-0]", picture(300, 1))
        return
    with pytest.raises(BadInput, match=r"^images\[0\]: absolute aspect ratio must be smaller"):
        prompt_of(model, "[img-0]", picture(300, 1))


def test_remembering_an_image_saves_reading_it_again(model: LoadedModel) -> None:
    first, second = (prompt_of(model, "[img-0]", WIDE).images[0].image for _ in range(2))

    assert first is second
