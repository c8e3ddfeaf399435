"""A text in the person's own editor."""

from __future__ import annotations

import pytest

from olla.cli.editor import edit


def test_what_the_editor_wrote_comes_back_without_its_last_newline() -> None:
    assert edit("one\ntwo", "sed -i -e '$a three'") == "one\ntwo\nthree"


@pytest.mark.parametrize("editor", ["false", "no-such-editor-here", "unclosed 'quote"])
def test_an_editor_that_fails_leaves_the_text(
    editor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit("text", editor) == "text"

    assert f"error: the editor {editor!r} (OLLA_EDITOR) failed: " in capsys.readouterr().err
