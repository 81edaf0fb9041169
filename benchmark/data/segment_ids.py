"""Segment ids as colours, as the COCO panoptic API stores them: id = R + 256 G + 65536 B, 0 is void. NumPy only."""

from __future__ import annotations

import numpy as np

VOID = 0
MAX_ID = 256**3 - 1


def decode_ids(rgb: np.ndarray) -> np.ndarray:
    """(H, W) int64 segment ids of uint8 colours: R + 256 G + 65536 B. Of (H, W, 4) colours the last channel is not read."""
    height, width = rgb.shape[:2]
    colours = np.ascontiguousarray(rgb[..., :3])
    ids = np.empty(height * width, dtype=np.int64)
    if ids.size:
        # Little-endian numbers of 32 bits that begin at every third byte: their highest byte is the next pixel's red. The
        # last pixel has no next one.
        ids[:-1] = np.ndarray((ids.size - 1,), "<u4", colours, strides=(3,))
        ids &= MAX_ID
        red, green, blue = colours[-1, -1].tolist()
        ids[-1] = red | green << 8 | blue << 16
    return ids.reshape(height, width)


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 colours of (H, W) integer segment ids; ValueError on an id outside 0 .. 2^24 - 1."""
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"Segment ids must be in 0 .. {MAX_ID}, they reach from {ids.min()} to {ids.max()}.")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
