"""Image files named in a prompt: found, read, and taken out of the text (spec/cli.md section 5.5).

Knows the file system; what an image shows, and whether it is whole, is the daemon's to find out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import click

from olla.errors import BadInput

MAX_FILE_BYTES = 100 * 2**20

_PATH = re.compile(
    r"(?:[a-z]:)?(?:\.{1,2}/|/|\\)(?:\\.|[^\s\\])+?\.(?:jpe?g|png|webp)\b", re.IGNORECASE
)
_ESCAPED = re.compile(r"""\\([ ()\[\]{}<>$&;'"`*?!|~#\\])""")
_WEBP = re.compile(rb"RIFF.{4}WEBP", re.DOTALL)
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_NUM_SNIFFED_BYTES = 12


@dataclass(frozen=True, slots=True)
class Attached:
    """What is left of a prompt, and the files that it named."""

    text: str
    images: tuple[bytes, ...] = ()


def begins_with_file(entry: str) -> bool:
    """Whether an entry that looks like a command is a path, such as `/tmp/a.png what is it?`."""
    found = _PATH.match(entry)
    return found is not None and _path(found[0]).is_file()


def attach(prompt: str) -> Attached:
    """Read the images that a prompt names, and say so on stderr; paths of no file stay text.

    Raises:
        BadInput: a file is no image, or too large.
        OSError: a file cannot be read.
    """
    text, images = prompt, []
    for written in dict.fromkeys(_PATH.findall(prompt)):
        path = _path(written)
        if path.is_file():
            images.append(_read(path))
            text = text.replace(f"'{written}'", "").replace(f'"{written}"', "").replace(written, "")
            click.echo(f"Added image '{path}'", err=True)
    return Attached(text.strip() if images else text, tuple(images))


def _path(written: str) -> Path:
    return Path(_ESCAPED.sub(r"\1", written))


def _read(path: Path) -> bytes:
    size_bytes = path.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise BadInput(f"{path} has {size_bytes} bytes, more than {MAX_FILE_BYTES}")
    data = path.read_bytes()
    head = data[:_NUM_SNIFFED_BYTES]
    if not (head.startswith((_PNG, _JPEG)) or _WEBP.match(head)):
        raise BadInput(f"invalid file type: {path} is neither PNG, JPEG nor WebP")
    return data
