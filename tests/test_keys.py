"""Keys on disk: made once, found by their token, gone when revoked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olla.errors import BadInput, NotFound, StoreError
from olla.keys import KeyFile, KeyRing, Scope


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys.json"


def test_no_file_is_no_keys(path: Path) -> None:
    assert KeyFile(path).read() == ()
    assert not KeyRing(path)


def test_a_key_is_found_by_its_token_and_by_no_other(path: Path) -> None:
    token = KeyFile(path).create("me", [Scope.MANAGE])
    ring = KeyRing(path)
    found = ring.find(token)

    assert found is not None
    assert (found.name, found.scopes) == ("me", (Scope.MANAGE,))
    assert ring.find(token[:-1]) is None
    assert ring.find("") is None
    assert ring.find("\udcff\u20ac") is None


def test_tokens_are_long_and_never_alike(path: Path) -> None:
    tokens = {KeyFile(path).create(f"k{number}", [Scope.INFER]) for number in range(20)}

    assert len(tokens) == 20
    assert all(token.startswith("olla_") and len(token) >= 48 for token in tokens)


def test_a_name_is_given_once(path: Path) -> None:
    KeyFile(path).create("me", [Scope.INFER])

    with pytest.raises(BadInput, match="a key 'me' exists"):
        KeyFile(path).create("me", [Scope.INFER])


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a/b", "x" * 65, "ä"])
def test_names_are_plain_words(path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="invalid key name"):
        KeyFile(path).create(name, [Scope.INFER])


def test_a_revoked_key_is_gone(path: Path) -> None:
    file = KeyFile(path)
    token = file.create("me", [Scope.INFER])
    other = file.create("you", [Scope.INFER])
    ring = KeyRing(path)
    file.revoke("me")

    assert ring.refresh()
    assert ring.find(token) is None
    assert ring.find(other) is not None
    assert not ring.refresh()
    with pytest.raises(NotFound, match="key 'me' not found"):
        file.revoke("me")


OTHER_SCOPE = {"name": "x", "scopes": ["all"], "sha256": "", "created_at": ""}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"keys": 1}', '{"keys": [{}]}', json.dumps({"keys": [OTHER_SCOPE]})],
)
def test_a_file_that_holds_no_keys_is_an_error(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)

    with pytest.raises(StoreError, match="mend it, or delete it"):
        KeyFile(path).read()
