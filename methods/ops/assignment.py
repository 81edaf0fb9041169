"""From class maps, labelled pixels and distances to segment ids: which target does a pixel belong to?

Segment ids are 0 for void and ``target index + 1``, as in `methods.base.types.PseudoLabels`. Ties go to the lowest index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops.full_size import cheapest_supplier, class_probabilities, likeliest_instance, most_probable
from methods.ops.rasterize import dilated_points


def present_probabilities(
    logits: Tensor, classes: Tensor, xy: Tensor, labels: Tensor,
    size: tuple[int, int], input_size: tuple[int, int], dilation: int,
) -> tuple[Tensor, Tensor]:
    """Class probabilities of one image at full resolution, corrected by its points (PSPS released code).

    ``P = max(softmax(logits upsampled), Y)`` for the classes that occur in the image, where Y are the dilated points. A
    class that does not occur has P = 0 and is left out. Probabilities are not renormalised.

    Args:
        logits: (K, h, w) float class logits that cover the padded input.
        classes: (n,) int64 classes that occur in the image, repeated or not (those of its targets).
        xy: (p, 2) int64 columns and rows of the labelled pixels.
        labels: (p,) int64 class of each labelled pixel, all of them in ``classes``.
        size: (height, width) of the valid part of the image.
        input_size: (H, W) of the padded input.
        dilation: side in pixels of the square around a labelled pixel.

    Returns:
        (c, height, width) float32 probabilities in [0, 1] and (c,) int64, their classes in ascending order.
    """
    present = torch.unique(classes)
    probs = class_probabilities(logits, present, size, input_size)
    squares = dilated_points(xy, torch.searchsorted(present, labels), len(present), size, dilation)
    return torch.maximum(probs, squares.float()), present


def class_map(probs: Tensor, present: Tensor, is_stuff: Tensor, stuff_threshold: float = 0.0) -> Tensor:
    """The most probable class of each pixel, void where it is an unsure stuff class.

    Args:
        probs: (c, h, w) float probabilities of the classes that occur.
        present: (c,) int64, those classes.
        is_stuff: (c,) bool.
        stuff_threshold: a stuff pixel below it is void; thing pixels have no threshold.

    Returns:
        (h, w) int64 class, -1 = void; lowest class on ties. All void if no class occurs.
    """
    if not len(present):
        return torch.full(probs.shape[1:], -1, dtype=torch.int64, device=probs.device)
    best, row = most_probable(probs)
    unsure = is_stuff[row] & (best < stuff_threshold)
    return torch.where(unsure, -1, present[row])


def point_distances(xy: Tensor, target: Tensor, count: int, size: tuple[int, int], chunk: int = 16) -> Iterator[Tensor]:
    """Euclidean distance of every pixel to the nearest labelled pixel of each target.

    Args:
        xy: (p, 2) int64 pixel columns and rows.
        target: (p,) int64 in ``0 .. count - 1``.
        size: (height, width).
        chunk: labelled pixels that are looked at together; memory is ``chunk`` maps.

    Yields:
        For each target, (height, width) float32 *squared* distances, exact below 2^24; inf if it has no labelled pixel.
    """
    rows = torch.arange(size[0], device=xy.device, dtype=torch.float32)[:, None]
    cols = torch.arange(size[1], device=xy.device, dtype=torch.float32)
    for index in range(count):
        nearest = torch.full(size, torch.inf, device=xy.device)
        mine = xy[target == index]
        for start in range(0, len(mine), chunk):
            some = mine[start : start + chunk]
            squared = (rows - some[:, 1, None, None]) ** 2 + (cols - some[:, 0, None, None]) ** 2
            nearest = torch.minimum(nearest, squared.amin(dim=0))
        yield nearest


def assign(
    distances: Iterable[Tensor], size: tuple[int, int], classes: Tensor, pixel_classes: Tensor | None = None
) -> Tensor:
    """Give each pixel to the target at the smallest distance, among the targets of its class.

    Args:
        distances: n maps (height, width), one per target, in their order; inf = never.
        size: (height, width).
        classes: (n,) int64 class of each target.
        pixel_classes: (height, width) int64 class of each pixel (-1 = void), or None to let every target compete.

    Returns:
        (height, width) int64 segment ids: 0 for void pixels and for pixels of a class without a labelled pixel, else
        ``target index + 1``; the lowest index on ties.
    """
    ids = torch.zeros(size, dtype=torch.int64, device=classes.device)
    nearest = torch.full(size, torch.inf, device=classes.device)
    for index, distance in enumerate(distances):
        closer = distance < nearest
        if pixel_classes is not None:
            closer &= pixel_classes == classes[index]
        nearest = torch.where(closer, distance, nearest)
        ids = torch.where(closer, index + 1, ids)
    return ids


@dataclass(frozen=True, slots=True)
class DistanceScale:
    """How distances become likelihoods; defaults are those of the PSPS released code.

    Attributes:
        missing: distance of every cell to an instance without a labelled pixel.
        epsilon: added to the maximum that is divided by.
    """

    missing: float = 10.0
    epsilon: float = 1e-5


def distance_likelihood(
    distances: Tensor, size: tuple[int, int], scale: DistanceScale = DistanceScale()
) -> Tensor:
    """``1 - D`` with D normalised by its maximum over all instances and cells, at full resolution.

    Args:
        distances: (n, h, w) float32 traversing distances; inf where an instance has no labelled pixel.
        size: (height, width) of the image.
        scale: constants of the normalisation.

    Returns:
        (n, height, width) float32 in [0, 1].
    """
    if not len(distances):
        return distances.new_zeros(0, *size)
    return 1 - F.interpolate(_normalised(distances, scale)[None], size=size, mode="bilinear", align_corners=False)[0]


def _normalised(distances: Tensor, scale: DistanceScale) -> Tensor:
    """Distances (n, h, w) over their maximum, in [0, 1); n is at least 1."""
    finite = torch.where(torch.isinf(distances), scale.missing, distances)
    return finite / (finite.max() + scale.epsilon)


def class_compatibility(probs: Tensor, present: Tensor, is_stuff: Tensor, classes: Tensor) -> Tensor:
    """How well the semantics of a pixel fit an instance: ``P_class(n)(x) + sum of P over the present stuff classes``.

    Args:
        probs: (c, h, w) float probabilities of the classes that occur.
        present: (c,) int64, those classes, ascending.
        is_stuff: (c,) bool.
        classes: (n,) int64 class of each instance, each in ``present``.

    Returns:
        (n, h, w) float.
    """
    return probs[torch.searchsorted(present, classes)] + probs[is_stuff].sum(dim=0)


def likeliest_instances(
    distances: Tensor, probs: Tensor, present: Tensor, is_stuff: Tensor, classes: Tensor,
    scale: DistanceScale = DistanceScale(), compatible: bool = True,
) -> Tensor:
    """The instance with the largest product of `distance_likelihood` and `class_compatibility` at each pixel.

    Args:
        distances: (n, gh, gw) float32 traversing distances; inf where an instance has no labelled pixel.
        probs: (c, h, w) float32 probabilities of the classes that occur.
        present: (c,) int64, those classes, ascending.
        is_stuff: (c,) bool.
        classes: (n,) int64 class of each instance, each in ``present``.
        scale: constants of the normalisation.
        compatible: False leaves the second factor away.

    Returns:
        (h, w) int64 in ``0 .. n - 1``, the lowest index on ties; zeros if n is 0.
    """
    size = tuple(probs.shape[1:])
    if not len(distances):
        return torch.zeros(size, dtype=torch.int64, device=probs.device)
    normalised = _normalised(distances, scale)
    if not compatible:
        return cheapest_supplier(normalised, None, size)
    return likeliest_instance(normalised, probs, torch.searchsorted(present, classes), is_stuff)


def panoptic_segments(instances: Tensor, pixel_classes: Tensor, classes: Tensor, is_thing: Tensor) -> Tensor:
    """Segment ids: the likeliest instance on thing pixels, the class's own target on stuff pixels (PSPS released code).

    Args:
        instances: (h, w) int64, the likeliest of the thing targets, counted in their order; anything if there is none.
        pixel_classes: (h, w) int64 class of each pixel, -1 = void; only classes that occur among the targets.
        classes: (n,) int64 class of each target.
        is_thing: (n,) bool.

    Returns:
        (h, w) int64, 0 = void, ``i + 1`` = target ``i``. Instances are disjoint and hold no pixel whose most probable class
        is stuff.
    """
    segment_ids = torch.zeros_like(pixel_classes)
    things = torch.nonzero(is_thing)[:, 0]
    if len(things):
        # the last entry is that of void, -1
        of_thing = torch.zeros(int(classes.max()) + 2, dtype=torch.bool, device=classes.device)
        of_thing[classes[things]] = True
        on_thing = of_thing[pixel_classes]
        segment_ids = torch.where(on_thing, things[instances] + 1, segment_ids)
    for index in torch.nonzero(~is_thing)[:, 0]:
        segment_ids = torch.where(pixel_classes == classes[index], index + 1, segment_ids)
    return segment_ids
