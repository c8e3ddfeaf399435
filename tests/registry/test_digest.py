"""Digest: the two spellings, and what is neither."""

from __future__ import annotations

import pytest

from olla.errors import InvalidDigest
from olla.registry.digest import Digest

HEX = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha256-{HEX}", f"sha256:{HEX.upper()}"])
def test_parses_both_separators_and_any_case(text: str) -> None:
    assert Digest.parse(text) == Digest(HEX)


@pytest.mark.parametrize(
    "text",
    ["", HEX, f"sha256:{HEX[1:]}", f"sha256:{HEX}0", f"sha1:{HEX}", f"sha256_{HEX}",
     f"SHA256:{HEX}", f"sha256:{HEX}\n", f"sha256:../{HEX[3:]}", f"sha256:g{HEX[1:]}"],
)  # fmt: skip
def test_refuses_anything_else(text: str) -> None:
    with pytest.raises(InvalidDigest, match=r"^invalid digest format$"):
        Digest.parse(text)


def test_is_written_with_a_colon_in_json_and_a_dash_on_disk() -> None:
    digest = Digest.of(b"abc")

    assert str(digest) == f"sha256:{HEX}"
    assert digest.file_name == f"sha256-{HEX}"
    assert digest.short == "ba7816bf8f01"
