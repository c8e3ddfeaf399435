"""Bodies that clients compressed with zstd (spec/openai-anthropic.md section 1).

Invariant: neither the text nor the window it is unpacked through can grow past a limit.
"""

from __future__ import annotations

import sys

from olla.errors import BadInput

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

MAX_UNPACKED_BYTES = 20 * 2**20
_MAX_WINDOW_LOG = 23  # 8 MiB


def unpack(data: bytes) -> bytes:
    """The contents of the one frame that `data` is.

    Raises:
        BadInput: it is no frame, breaks off, wants too large a window, or holds too much.
    """
    decompressor = ZstdDecompressor(
        options={DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    )
    try:
        text = decompressor.decompress(data, MAX_UNPACKED_BYTES + 1)
    except ZstdError as error:
        raise BadInput(f"the zstd body cannot be read: {error}") from error
    if len(text) > MAX_UNPACKED_BYTES:
        limit = MAX_UNPACKED_BYTES // 2**20
        raise BadInput(f"the zstd body holds more than {limit} MiB; send it in smaller parts")
    if not decompressor.eof or decompressor.unused_data:
        raise BadInput("the zstd body is not one whole frame")
    return text
