"""The bytes of an image file -> upright RGB pixels, or the reason why not.

Knows files, no models. How large a picture is stands in its header, which is all that is read of
one that is too large. Transparent places become white; of several frames the first is taken.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageOps

from olla.errors import BadInput

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64 * 10**6

Image.MAX_IMAGE_PIXELS = None  # `_open` looks itself, with a limit that is an error

_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# What the readers of formats raise for files that end early or make no sense.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, OverflowError, struct.error)


def measure(data: bytes) -> tuple[int, int]:
    """Width and height as the header has them, before a picture is turned upright.

    Raises:
        BadInput: it is empty, of no format that is read, or too large.
    """
    return _open(data).size


def decode(data: bytes) -> Image.Image:
    """
    Raises:
        BadInput: it is empty, of no format that is read, broken, or too large.
    """
    picture = _open(data)
    try:
        picture.load()
        return _rgb(ImageOps.exif_transpose(picture))
    except _BROKEN as error:
        raise BadInput(f"the {picture.format} file is broken or cut off ({error})") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadInput("the image is empty")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except _BROKEN as error:
        known = ", ".join(FORMATS)
        raise BadInput(f"this is no image that can be read; send one of {known}") from error
    width, height = picture.size
    if not width * height:
        raise BadInput("the image has no pixels")
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"the image has {width} x {height} pixels, more than {MAX_PIXELS}; make it smaller"
        )
    return picture


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _SIXTEEN_BITS:
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB")
