"""The one reader and the one writer of panoptic PNG files: segment ids as RGB (`benchmark.data.segment_ids`).

Everything that stores id maps as files goes through here: converted data sets, labels and predictions that are exported, and
point labels in the format of the PSPS released code, which is the same with ids at labelled pixels only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.data.errors import DataError
from benchmark.data.files import replacing
from benchmark.data.images import decoding
from benchmark.data.segment_ids import decode_ids, encode_ids

_BIT_DEPTH_AT = 24
"""Byte of a PNG file that holds its bits per channel (in the header chunk, after the two lengths of the image)."""


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
    with decoding(path, what), open(path, "rb") as file:
        head = file.read(_BIT_DEPTH_AT + 1)
        image = Image.open(file)
        image.load()
    if image.mode not in ("RGB", "RGBA"):
        raise DataError(f"The {what} {path} has mode {image.mode}, segment ids need RGB.")
    if image.format != "PNG":
        raise DataError(f"The {what} {path} is no PNG file; ids do not survive other formats.")
    if head[_BIT_DEPTH_AT] != 8:
        raise DataError(f"The {what} {path} has {head[_BIT_DEPTH_AT]} bits per channel, segment ids need 8.")
    return decode_ids(np.asarray(image.convert("RGBX") if image.mode == "RGB" else image))
