"""The one reader and the one writer of panoptic PNG files: segment ids as RGB (`benchmark.data.segment_ids`).

Everything that stores id maps as files goes through here: converted data sets, labels and predictions that are exported, and
point labels in the format of the PSPS released code, which is the same with ids at labelled pixels only.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import kornia_rs.io
import numpy as np
from PIL import Image

from benchmark.data.errors import DataError
from benchmark.data.files import replacing
from benchmark.data.images import decoding
from benchmark.data.segment_ids import decode_ids, encode_ids

_HEADER = struct.Struct(">8s 8x 2I 2B")
"""What a PNG file begins with: signature, width, height, bits per channel, colour type."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MODES = {2: "rgb", 6: "rgba"}
"""Colour types of PNG that hold ids."""
_LARGEST = 2**28
"""Pixels of a file that is no attack on the memory: more than any photograph has."""


def write_panoptic_png(path: Path, ids: np.ndarray) -> None:
    """Write (H, W) integer segment ids, 0 = void, as an RGB PNG; the file appears complete or not at all.

    ValueError on an id outside 0 .. 2^24 - 1.
    """
    image = Image.fromarray(encode_ids(ids))
    with replacing(path) as file:
        image.save(file, format="PNG")


def read_panoptic_png(path: Path, what: str = "panoptic PNG") -> np.ndarray:
    """(H, W) int64 segment ids of an RGB PNG with 8 bits per channel.

    Args:
        path: the file.
        what: it is, for messages.

    Raises:
        DataError: the file is missing, broken, or has no three channels of 8 bits (a palette or grayscale PNG of the same
            look has lost the ids).
    """
    with decoding(path, what):
        content = path.read_bytes()
    signature, width, height, bits, colour = _HEADER.unpack_from(content.ljust(_HEADER.size, b"\0"))
    if signature != _SIGNATURE or bits != 8 or colour not in _MODES:
        raise DataError(f"The {what} {path} {_why_no_ids(content, path, what)}")
    if width * height > _LARGEST:
        raise DataError(f"The {what} {path} says that it has {width} x {height} pixels, more than {_LARGEST}.")
    try:  # unlike Pillow, the decoder compares the checksums of the pixels
        colours = kornia_rs.io.decode_image_png_u8(content, (height, width), _MODES[colour])
    except Exception as error:  # it raises no narrower class
        raise DataError(f"The {what} {path} cannot be decoded, it may be truncated: {error}.") from error
    return decode_ids(colours)


def _why_no_ids(content: bytes, path: Path, what: str) -> str:
    """What a file is that cannot hold ids; DataError if it is no image."""
    with decoding(path, what):
        image = Image.open(io.BytesIO(content))
        image.load()
    if image.mode not in ("RGB", "RGBA"):
        return f"has mode {image.mode}, segment ids need RGB."
    if image.format != "PNG":
        return "is no PNG file; ids do not survive other formats."
    return f"has {content[_HEADER.size - 2]} bits per channel, segment ids need 8."
