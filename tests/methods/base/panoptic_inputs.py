"""Random encoder features and rectangle labels, for tests of decoders and heads."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base.types import Categories, Category, Features, PseudoLabels


def categories(things: int, stuff: int) -> Categories:
    return Categories([Category(i + 1, f"category {i + 1}", i < things) for i in range(things + stuff)])


def random_features(
    sizes: list[tuple[int, int]], channels: int = 32, levels: int = 4, seed: int = 0, requires_grad: bool = False
) -> Features:
    """Features of images of these (height, width), padded to the largest; strides 8, 16, 32, 64, sides rounded up."""
    generator = torch.Generator().manual_seed(seed)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (h, w) in zip(padding, sizes, strict=True):
        row[:h, :w] = False
    shapes = [(-(-height // 2 ** (3 + level)), -(-width // 2 ** (3 + level))) for level in range(levels)]

    def maps() -> list[Tensor]:
        return [torch.randn(len(sizes), channels, *shape, generator=generator) for shape in shapes]

    resized = [torch.nn.functional.interpolate(padding[:, None].float(), size=s)[:, 0] > 0.5 for s in shapes]
    return Features(
        [m.requires_grad_(requires_grad) for m in maps()], maps(), torch.randn(levels, channels, generator=generator),
        resized, None, (height, width),
    )


def rectangles(
    size: tuple[int, int], input_size: tuple[int, int], boxes: list[tuple[int, int, int, int]], classes: list[int],
    num_things: int, ignore: Tensor | None = None,
) -> PseudoLabels:
    """Labels of one image; box i, (x0, y0, x1, y1), is painted over the earlier ones; an empty box is an empty target."""
    ids = torch.zeros(input_size, dtype=torch.int64)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        ids[y0:y1, x0:x1] = i + 1
    labels = torch.tensor(classes, dtype=torch.int64)
    return PseudoLabels.from_segment_ids(ids, labels, labels < num_things, size, ignore=ignore)


def mmdet_assignment(
    logits: Tensor, boxes: Tensor, classes: Tensor, targets: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Matched queries and their targets by mmdet's Hungarian assigner.

    Args:
        logits: (Q, C).
        boxes: (Q, 4) pixel corners.
        classes, targets: (n,) labels and (n, 4) pixel corners.
        size: (height, width) that normalises boxes.
    """
    # Imported late: mmdet can be imported only after methods.base.
    from mmdet.models.task_modules.assigners import HungarianAssigner
    from mmengine.structures import InstanceData

    assigner = HungarianAssigner(
        match_costs=[
            {"type": "FocalLossCost", "weight": 2.0},
            {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
            {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
        ]
    )
    predicted, truth = InstanceData(scores=logits, bboxes=boxes), InstanceData(labels=classes, bboxes=targets)
    found = assigner.assign(predicted, truth, {"img_shape": size}).gt_inds
    return found.nonzero()[:, 0], found[found > 0] - 1
