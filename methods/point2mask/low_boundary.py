"""Low-level boundary maps P^b_low: edges of the image itself, without learning or from structured forests.

Point2Mask takes structured edges (Dollár and Zitnick, ICCV 2013), which need OpenCV's contributed modules and a model file.
Neither is a dependency of this project; `methods.ops.edges.sobel_edges` is the substitute that needs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.base.edge_maps import EdgeMaps
from methods.base.types import PointBatch
from methods.ops.rasterize import grid_size, resample

LOW_BOUNDARIES = ("sobel", "structured_edges", "none")


@dataclass(frozen=True, slots=True)
class StructuredEdges:
    """How structured edges are found.

    Attributes:
        model: path of the structured forests that OpenCV reads (``model.yml.gz``).
        thinned: non-maximum suppression along the orientation, OpenCV's defaults (released code; the paper has none).
        bgr: feed the channels as blue, green, red (released code; OpenCV's own sample feeds red, green, blue).
    """

    model: str | None = None
    thinned: bool = False
    bgr: bool = False


def structured_edges(image: Tensor, options: StructuredEdges) -> Tensor:
    """Edge strength from structured forests.

    Args:
        image: (3, h, w) float RGB in [0, 1].
        options: model file and variants.

    Returns:
        (h, w) float32, about [0, 1], on the device of the image. No gradient.

    Raises:
        ValueError: no model file is given or it is not there, or OpenCV has no contributed modules.
    """
    detector = structured_edge_detector(options.model)
    pixels = image.detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    edges = detector.detectEdges(np.ascontiguousarray(pixels[..., ::-1] if options.bgr else pixels))
    if options.thinned:
        edges = detector.edgesNms(edges, detector.computeOrientation(edges))
    return torch.from_numpy(np.ascontiguousarray(edges, dtype=np.float32)).to(image.device)


@dataclass(frozen=True, slots=True)
class StructuredEdgeMaker:
    """Makes the `EdgeMaps` of a batch by `structured_edges`.

    Attributes:
        options: model file and variants.
        stride: pixels per cell; None chooses by the short side.
    """

    options: StructuredEdges = StructuredEdges()
    stride: int | None = None

    def __call__(self, batch: PointBatch) -> EdgeMaps:
        maps = []
        for image, size in zip(batch.images, batch.sizes, strict=True):
            edges = structured_edges(image[:, : size[0], : size[1]], self.options)
            maps.append(resample(edges[None], size, size, grid_size(size, self.stride))[0])
        return EdgeMaps(self, maps)


@lru_cache(maxsize=1)
def structured_edge_detector(model: str | None) -> Any:
    """OpenCV's detector with its forests loaded; errors as in `structured_edges`."""
    import cv2

    if not hasattr(cv2, "ximgproc"):
        raise ValueError(
            "low_boundary 'structured_edges' needs cv2.ximgproc, which the installed OpenCV lacks; install "
            "opencv-contrib-python in its place or choose low_boundary 'sobel'."
        )
    if model is None or not Path(model).is_file():
        raise ValueError(
            f"low_boundary 'structured_edges' needs the file of the structured forests, but structured_edges.model is "
            f"{model or 'null'}; give the path of OpenCV's model.yml.gz or choose low_boundary 'sobel'."
        )
    return cv2.ximgproc.createStructuredEdgeDetection(str(model))
