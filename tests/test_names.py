"""ModelName: the vectors of the reference, and the laws that parsing and writing keep."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olla.errors import InvalidName
from olla.names import ModelName

HOSTS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}(:[0-9]{1,5})?", fullmatch=True)
NAMESPACES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", fullmatch=True)
PARTS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", fullmatch=True)
NAMES = st.builds(ModelName, host=HOSTS, namespace=NAMESPACES, model=PARTS, tag=PARTS)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("a", "registry.ollama.ai/library/a:latest"),
        ("a/b", "registry.ollama.ai/a/b:latest"),
        ("a/b/c", "a/b/c:latest"),
        ("a/b/c:d", "a/b/c:d"),
        ("h:1/n/m:t", "h:1/n/m:t"),
        ("_x/_y:_z", "registry.ollama.ai/_x/_y:_z"),
        ("http://localhost:5000/n/m", "localhost:5000/n/m:latest"),
        ("localhost:5000/ns/m", "localhost:5000/ns/m:latest"),
        ("smollm2:135m", "registry.ollama.ai/library/smollm2:135m"),
        ("  a  ", "registry.ollama.ai/library/a:latest"),
        ("m" * 80, f"registry.ollama.ai/library/{'m' * 80}:latest"),
        ("h" * 350 + "/n/m", f"{'h' * 350}/n/m:latest"),
    ],
)
def test_parts_that_are_missing_get_their_defaults(text: str, full: str) -> None:
    assert ModelName.parse(text).full == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-a",
        ".a",
        "a:",
        ":b",
        ":tag",
        "/a",
        "a/b/",
        "a//b",
        "m:t/x",
        "a b",
        "ä",
        "a\nb",
        "a:b:c",
        "m" * 81,
        "n" * 81 + "/m",
        "m:" + "t" * 81,
        "h" * 351 + "/n/m",
        "a/b/c/d",
        "http://a",
        "http://a/b",
        "ftp://h/n/m",
        "a@sha256:" + "0" * 64,
        "../../etc/passwd",
        "h/../m",
        "m:..",
    ],
)
def test_invalid_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidName, match=r"^invalid model name$"):
        ModelName.parse(text)


@pytest.mark.parametrize("text", ["a.b/m", "hf.co/me", "registry.example.com:5000/me:v1"])
def test_a_host_without_an_owner_is_told_what_is_missing(text: str) -> None:
    host = text.partition("/")[0]
    with pytest.raises(InvalidName, match=rf"^invalid model name \(.*: {host}/OWNER/MODEL\)$"):
        ModelName.parse(text)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("Registry.Ollama.AI/Library/llama3.2", "llama3.2:latest"),
        ("me/m:q4", "me/m:q4"),
        ("hf.co/u/r:Q4_K_M", "hf.co/u/r:Q4_K_M"),
        ("hf.co/library/r", "hf.co/library/r:latest"),
    ],
)
def test_the_short_form_drops_only_what_parsing_puts_back(text: str, short: str) -> None:
    name = ModelName.parse(text)

    assert name.short == str(name) == short


def test_the_scheme_is_kept_beside_the_host() -> None:
    assert ModelName.parse("http://localhost:5000/n/m").scheme == "http"
    assert ModelName.parse("localhost:5000/n/m").scheme == "https"


@given(NAMES)
def test_the_full_form_parses_back_to_the_same_name(name: ModelName) -> None:
    assert ModelName.parse(name.full) == name


@given(NAMES)
def test_the_short_form_parses_back_to_the_same_name_but_for_case(name: ModelName) -> None:
    assert ModelName.parse(name.short).folded() == name.folded()


@given(NAMES)
def test_the_path_in_the_store_reads_back_to_the_same_name(name: ModelName) -> None:
    assert ModelName.from_path(name.path) == name


@given(st.text(max_size=40))
def test_any_text_is_a_valid_name_or_refused(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidName:
        return
    assert len(name.path.parts) == 4
    assert not any(part.startswith(".") for part in name.path.parts)


@pytest.mark.parametrize("path", ["a/b/c", "a/b/c/d/e", "a/b/.c/d", "h/n.n/m/t"])
def test_a_path_that_is_no_name_is_refused(path: str) -> None:
    with pytest.raises(InvalidName):
        ModelName.from_path(PurePosixPath(path))


def test_names_that_differ_in_case_are_equal_once_folded() -> None:
    upper, lower = ModelName.parse("Me/M:Q4"), ModelName.parse("me/m:q4")

    assert upper != lower
    assert upper.folded() == lower.folded() == lower
