"""Paths in prompts: which are taken for images, and what is left of the text."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from olla.cli.attachments import MAX_FILE_BYTES, Attached, attach, begins_with_file
from olla.errors import BadInput
from tests.cli.conftest import Olla
from tests.cli.fake_daemon import SHOW, FakeDaemon, Reply

PNG = b"\x89PNG\r\n\x1a\nrest"
JPEG = b"\xff\xd8\xffrest"
WEBP = b"RIFF\x01\x02\x03\x04WEBPrest"

Attach = Callable[[str], Attached]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with images in it."""
    monkeypatch.chdir(tmp_path)
    for name, data in (
        ("a.png", PNG), ("b.JPG", JPEG), ("c.jpeg", JPEG), ("d.webp", WEBP),
        ("my (1) cat.png", PNG), ("sub/e.png", PNG),
        ("voice.wav", b"RIFF\x01\x02\x03\x04WAVErest"), ("notes.txt", b"text"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("prompt", "text", "images"),
    [
        ("what is in ./a.png", "what is in", [PNG]),
        ("./a.png what is it?", "what is it?", [PNG]),
        ("is ./a.png like ./b.JPG?", "is  like ?", [PNG, JPEG]),
        ("'./c.jpeg' and \"./d.webp\"", "and", [JPEG, WEBP]),
        ("./sub/e.png", "", [PNG]),
        ("./sub/../a.png it", "it", [PNG]),
        ("../{folder}/a.png it", "it", [PNG]),
        (r"./my\ \(1\)\ cat.png: what?", ": what?", [PNG]),
        ("./a.png and ./a.png", "and", [PNG]),
        ("see ./no.png", "see ./no.png", []),
        ("a.png", "a.png", []),
        ("~/a.png", "~/a.png", []),
        ("https://example.com/a.png", "https://example.com/a.png", []),
        ("./voice.wav ./notes.txt", "./voice.wav ./notes.txt", []),
        ("./a.pngs", "./a.pngs", []),
        ("  no path  ", "  no path  ", []),
    ],
)
def test_images_are_taken_out_of_the_text(
    folder: Path, prompt: str, text: str, images: list[bytes]
) -> None:
    found = attach(prompt.replace("{folder}", folder.name))

    assert (found.text, list(found.images)) == (text, images)


def test_an_absolute_path_is_found(folder: Path) -> None:
    assert attach(f"{folder}/a.png it") == Attached("it", (PNG,))


def test_each_image_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attach(r"./a.png ./my\ \(1\)\ cat.png ./no.png")

    assert capsys.readouterr().err == "Added image 'a.png'\nAdded image 'my (1) cat.png'\n"


def test_a_file_of_another_type_is_refused(folder: Path) -> None:
    (folder / "fake.png").write_bytes(b"text")

    with pytest.raises(BadInput, match=r"^invalid file type: fake\.png is neither PNG, JPEG nor"):
        attach("./fake.png")


def test_a_file_that_is_too_large_is_not_read(folder: Path) -> None:
    with (folder / "large.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    with pytest.raises(BadInput, match=r"^large\.png has 104857601 bytes, more than 104857600$"):
        attach("./large.png")


@pytest.mark.parametrize(
    ("entry", "is_file"),
    [
        ("{}/a.png what?", True),
        ("{}/no.png what?", False),
        ("/bye", False),
        ("see {}/a.png", False),
    ],
)
def test_an_entry_may_begin_with_a_path(folder: Path, entry: str, is_file: bool) -> None:
    assert begins_with_file(entry.format(folder)) is is_file


SEES = {**SHOW, "capabilities": ["completion", "vision"]}


def test_run_sends_the_images_that_a_prompt_names(
    olla: Olla, daemon: FakeDaemon, folder: Path
) -> None:
    daemon.script("POST /api/show", Reply([SEES]))

    done = olla("run", "m", "what is in ./a.png")

    assert (done.returncode, done.stdout) == (0, "Hello there\n\n")
    assert done.stderr == "Added image 'a.png'\n"
    assert daemon.sent("POST /api/generate")[-1].json == {
        "model": "m",
        "prompt": "what is in",
        "images": [base64.b64encode(PNG).decode()],
    }


def test_run_sends_an_image_alone(olla: Olla, daemon: FakeDaemon, folder: Path) -> None:
    daemon.script("POST /api/show", Reply([SEES]))

    done = olla("run", "m", "./a.png")

    assert done.stdout == "Hello there\n\n"
    assert daemon.sent("POST /api/generate")[-1].json["prompt"] == ""


def test_a_model_that_does_not_see_gets_the_text_as_it_is(
    olla: Olla, daemon: FakeDaemon, folder: Path
) -> None:
    olla("run", "m", "what is in ./a.png")

    assert daemon.sent("POST /api/generate")[-1].json == {
        "model": "m",
        "prompt": "what is in ./a.png",
    }


def test_run_with_a_file_that_is_no_image_asks_nothing(
    olla: Olla, daemon: FakeDaemon, folder: Path
) -> None:
    daemon.script("POST /api/show", Reply([SEES]))
    (folder / "fake.png").write_bytes(b"text")

    done = olla("run", "m", "what is in ./fake.png")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: invalid file type: fake.png")
    assert not daemon.sent("POST /api/generate")
