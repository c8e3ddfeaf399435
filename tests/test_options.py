"""Options: one table; types, texts and precedence as in the reference."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olla.errors import InvalidOption
from olla.options import (
    DEPRECATED_PARAMETERS,
    OPTION_SPECS,
    QUANTIZATIONS,
    Kind,
    Options,
    SamplingParams,
    parse_parameter,
)

MODELFILE_PAGE = Path(__file__).parent.parent / "docs" / "modelfile.md"
VALUES = {
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT: st.floats(-1e6, 1e6),
    Kind.BOOLEAN: st.booleans(),
    Kind.STRINGS: st.lists(st.text(max_size=5), max_size=3).map(tuple),
    Kind.CHOICE: st.sampled_from(QUANTIZATIONS),
}
ANY_OPTIONS = st.builds(
    Options, **{name: st.none() | VALUES[spec.kind] for name, spec in OPTION_SPECS.items()}
)


def names(*kinds: Kind) -> list[str]:
    return [name for name, spec in OPTION_SPECS.items() if spec.kind in kinds]


def test_the_table_names_every_field_and_nothing_else() -> None:
    assert list(OPTION_SPECS) == [field.name for field in fields(Options)]


@pytest.mark.parametrize("name", [*OPTION_SPECS, *sorted(DEPRECATED_PARAMETERS)])
def test_the_modelfile_page_names_every_parameter(name: str) -> None:
    assert f"`{name}`" in MODELFILE_PAGE.read_text(encoding="utf-8")


def test_sampling_params_are_options_too() -> None:
    assert {field.name for field in fields(SamplingParams)} <= set(OPTION_SPECS)


def test_no_parameter_is_both_known_and_deprecated() -> None:
    assert not DEPRECATED_PARAMETERS & set(OPTION_SPECS)


def test_the_defaults_are_those_of_the_reference() -> None:
    assert Options().sampling() == SamplingParams(
        temperature=0.8,
        top_k=40,
        top_p=0.9,
        min_p=0.0,
        typical_p=1.0,
        seed=-1,
        repeat_last_n=64,
        repeat_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )


def test_what_is_set_reaches_the_sampler_zero_included() -> None:
    sampling = Options(temperature=0.0, top_k=0, seed=7).sampling()

    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.0, 0, 7)


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1), (1.9, 1), (-1.9, -1), (-0.5, 0), (2.0**40, 2**40)]
)
def test_whole_number_options_are_cut_toward_zero(value: float, number: int) -> None:
    num_ctx = Options.from_json({"num_ctx": value}).num_ctx

    assert num_ctx == number
    assert isinstance(num_ctx, int)


def test_null_and_unknown_names_are_skipped() -> None:
    assert Options.from_json({"num_ctx": None, "numa": True, "mirostat": 1}) == Options()


@pytest.mark.parametrize("name", names(Kind.INTEGER))
@pytest.mark.parametrize("value", ["4", True, [4], {}, float("inf"), float("nan"), 1e300, 2**63])
def test_a_whole_number_option_takes_nothing_else(name: str, value: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.from_json({name: value})

    assert str(caught.value) == f'option "{name}" must be of type integer'


@pytest.mark.parametrize("name", names(Kind.FLOAT))
@pytest.mark.parametrize("value", ["0.5", False, [0.5], {}, float("nan")])
def test_a_number_option_takes_nothing_else(name: str, value: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.from_json({name: value})

    assert str(caught.value) == f'option "{name}" must be of type float32'


@pytest.mark.parametrize("value", [1, "true", []])
def test_use_mmap_takes_a_boolean_only(value: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.from_json({"use_mmap": value})

    assert str(caught.value) == 'option "use_mmap" must be of type boolean'


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("x", 'option "stop" must be of type array'),
        (1, 'option "stop" must be of type array'),
        ([1], 'option "stop" must be of an array of strings'),
        (["a", None], 'option "stop" must be of an array of strings'),
    ],
)
def test_stop_takes_a_list_of_texts_only(value: object, error: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.from_json({"stop": value})

    assert str(caught.value) == error


@given(ANY_OPTIONS)
def test_options_written_as_json_read_back(options: Options) -> None:
    assert Options.from_json(options.to_json()) == options


@given(ANY_OPTIONS, ANY_OPTIONS)
def test_the_later_options_win_where_they_say_something(model: Options, request: Options) -> None:
    assert model.merge(request).to_json() == model.to_json() | request.to_json()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_ctx", "4096", 4096),
        ("seed", "-1", -1),
        ("num_predict", "+5", 5),
        ("temperature", "0.7", 0.7),
        ("temperature", "1", 1.0),
        ("temperature", "1e-2", 0.01),
        ("min_p", ".05", 0.05),
        ("stop", "<|eot_id|>", "<|eot_id|>"),
        ("stop", "", ""),
        *[("use_mmap", text, True) for text in ("1", "t", "T", "TRUE", "true", "True")],
        *[("use_mmap", text, False) for text in ("0", "f", "F", "FALSE", "false", "False")],
    ],
)
def test_a_parameter_is_read_by_the_type_of_its_option(
    name: str, text: str, value: float | str
) -> None:
    parsed = parse_parameter(name, text)

    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("num_ctx", "4k", "invalid int value [4k]"),
        ("num_ctx", "1.5", "invalid int value [1.5]"),
        ("num_ctx", "1_000", "invalid int value [1_000]"),
        ("num_ctx", "٣", "invalid int value [٣]"),
        ("num_ctx", "", "invalid int value []"),
        ("num_ctx", str(2**63), f"invalid int value [{2**63}]"),
        ("top_p", "high", "invalid float value [high]"),
        ("top_p", "1_0", "invalid float value [1_0]"),
        ("top_p", "1.2.3", "invalid float value [1.2.3]"),
        ("top_p", "nan", "invalid float value [nan]"),
        ("top_p", "1e999", "invalid float value [1e999]"),
        ("use_mmap", "yes", "invalid bool value [yes]"),
        ("use_mmap", "tRUE", "invalid bool value [tRUE]"),
        ("temprature", "1", "unknown parameter 'temprature'"),
        ("mirostat", "1", "unknown parameter 'mirostat'"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_refused(name: str, text: str, error: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_parameter(name, text)

    assert str(caught.value) == error


@pytest.mark.parametrize("text", ["int5", "", "INT8"])
def test_a_choice_is_one_of_its_names(text: str) -> None:
    message = 'option "quantize" must be one of auto, none, int8, int4, nf4'

    with pytest.raises(InvalidOption, match=message):
        parse_parameter("quantize", text)
    with pytest.raises(InvalidOption, match=message):
        Options.from_json({"quantize": text})


def test_a_choice_is_a_string() -> None:
    with pytest.raises(InvalidOption, match='option "quantize" must be of type string'):
        Options.from_json({"quantize": 8})
