"""Segment ids as colours, as the COCO panoptic API stores them: id = R + 256 G + 65536 B, 0 is void. NumPy only."""

from __future__ import annotations

import numpy as np

VOID = 0
MAX_ID = 256**3 - 1


def decode_ids(rgb: np.ndarray) -> np.ndarray:
    """(H, W) int64 segment ids of (H, W, 3) uint8 colours: R + 256 G + 65536 B.

    (H, W, 4) colours, whose last channel is not read, are faster: a pixel is then one number of 32 bits.
    """
    if rgb.shape[-1] == 4:
        return (np.ascontiguousarray(rgb).view("<u4")[..., 0] & MAX_ID).astype(np.int64)
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return red | green << 8 | blue << 16


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 colours of (H, W) integer segment ids; ValueError on an id outside 0 .. 2^24 - 1."""
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"Segment ids must be in 0 .. {MAX_ID}, they reach from {ids.min()} to {ids.max()}.")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
