"""Image files: what is read of them, and that no bytes can do more harm than be refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from olla.engine.pictures import FORMATS, MAX_PIXELS, decode
from olla.errors import BadInput
from tests.tiny_vision import encoded, picture

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    found = decode(picture(12, 7, kind=kind))

    assert (found.mode, found.size) == ("RGB", (12, 7))


def test_a_picture_is_turned_upright() -> None:
    image = Image.new("RGB", (4, 2), RED)
    image.putpixel((0, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = 6  # its top is the right side

    found = decode(encoded(image, exif=exif))

    assert found.size == (2, 4)
    assert found.getpixel((1, 0)) == GREEN


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((0, 0), (*RED, 0))

    found = decode(encoded(image.convert(mode)))

    assert found.getpixel((0, 0)) == WHITE
    assert found.getpixel((1, 0)) != WHITE


@pytest.mark.parametrize(("mode", "grey"), [("L", 200), ("1", 1), ("I;16", 200 << 8), ("P", 200)])
def test_grey_pictures_keep_their_shades(mode: str, grey: int) -> None:
    image = Image.new(mode, (1, 1), grey)
    if mode == "P":
        image.putpalette([shade for shade in range(256) for _ in range(3)])

    shade = 255 if mode == "1" else 200

    assert decode(encoded(image)).getpixel((0, 0)) == (shade,) * 3


def test_colours_of_print_are_read() -> None:
    found = decode(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "JPEG"))

    assert np.abs(np.array(found.getpixel((0, 0))) - RED).max() <= 8


def test_of_several_frames_the_first_is_taken() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, GREEN)]

    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert decode(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the image is empty"),
        (b"no image at all", "this is no image that can be read; send one of PNG, JPEG, WEBP"),
        (b"%PDF-1.7 ...", "this is no image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is no image that can be read"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "this is no image that can be read"),
        (encoded(Image.new("RGB", (2, 2)), "TIFF"), "this is no image that can be read"),
        (picture(40, 40)[:-200], "the PNG file is broken or cut off"),
        (picture(40, 40, kind="JPEG")[:-200], "the JPEG file is broken or cut off"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        decode(data)

    assert str(caught.value).startswith(text)


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it is so large, with whatever chunks after its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


ZEROS = zlib.compress(bytes(2**27), 9)  # some 130 kB


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (_png(2**31 - 1, 2**31 - 1, (b"IDAT", ZEROS)), "more than 64000000; make it smaller"),
        (_png(8001, 8000, (b"IDAT", ZEROS)), "the image has 8001 x 8000 pixels, more than"),
        (_png(1, 1, (b"zTXt", b"k\0\0" + ZEROS)), "this is no image|the PNG file is broken"),
        (_png(1, 1, (b"iCCP", b"k\0\0" + ZEROS)), "this is no image|the PNG file is broken"),
    ],
)
def test_bombs_are_refused_before_they_go_off(data: bytes, text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=text):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2**24


def test_the_largest_picture_is_read() -> None:
    image = Image.new("1", (8000, 8000))
    assert image.width * image.height == MAX_PIXELS

    assert decode(encoded(image)).size == (8000, 8000)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_broken_bytes_are_refused_or_read_and_nothing_else(kind: str, data: st.DataObject) -> None:
    broken = bytearray(picture(9, 6, kind=kind))
    for place in data.draw(st.lists(st.integers(0, len(broken) - 1), min_size=1, max_size=6)):
        broken[place] = data.draw(st.integers(0, 255))
    del broken[data.draw(st.integers(1, len(broken))) :]

    try:
        found = decode(bytes(broken))
    except BadInput:
        return
    assert found.mode == "RGB"


def test_reading_leaves_no_file_open() -> None:
    data = picture(3, 3)
    file = io.BytesIO(data)

    assert np.array_equal(np.asarray(decode(data)), np.asarray(Image.open(file).convert("RGB")))
