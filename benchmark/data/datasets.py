"""Torch data sets: images with points for training, with masks for the upper bound, with both for evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, Annotation, ImageRecord, ImageSource
from benchmark.data.points import STRATEGIES, target_segments
from benchmark.data.points_file import PointsFile, records_by_id
from benchmark.data.transforms import Geometry, Transform
from methods.base.types import Categories, MaskSample, PointLabels, PointSample, PseudoLabels


class PointDataset(Dataset[PointSample]):
    """Training images with their points; nothing here can read a mask.

    Args:
        images: where pixels come from.
        points: labels and the list of images.
        transform: resize and flip.
        seed: of the random transforms.
        drop_without_things: leave out images without a thing target, as the released codes do for training.

    The random choices for an item depend on ``(seed, epoch, index)`` alone, so neither the order of items nor the number of
    workers changes them.

    Raises:
        DataError: a label is outside its image or of an unknown category, or no image is left.
    """

    def __init__(
        self, images: ImageSource, points: PointsFile, transform: Transform, seed: int, drop_without_things: bool = True
    ):
        points.check()
        self._images = images
        self.points = points
        self.transform = transform
        self.seed = seed
        kept = points.images_with_things() if drop_without_things else np.ones(len(points), dtype=bool)
        self._kept = np.flatnonzero(kept)
        if not self._kept.size:
            raise DataError(
                f"{points}: none of its {len(points)} images has a labelled thing; label some, "
                "or train on stuff alone with dataset.drop_without_things=false."
            )
        # in shared memory, so that workers which outlive an epoch see the change
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the random transforms of an epoch; call it before iterating a loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> PointSample:
        return self.item(index, int(self._epoch))

    def item(self, index: int, epoch: int) -> PointSample:
        """The sample at ``index`` with the random transforms of an epoch, whatever epoch was set."""
        record, _, image, points, _ = self._load(index, epoch)
        return PointSample(image, points, record.id, (record.height, record.width))

    def _load(
        self, index: int, epoch: int
    ) -> tuple[ImageRecord, Geometry, torch.Tensor, PointLabels, PointLabels]:
        """Record, drawn geometry, transformed image, transformed points and original points of an item."""
        image_index = int(self._kept[index])
        record = self.points.records[image_index]
        rng = np.random.default_rng([self.seed, epoch, range(len(self))[index]])
        geometry = self.transform.draw((record.height, record.width), rng)
        original = self.points.labels_of(image_index)
        image = geometry.image(self._images.read_image(record))
        return record, geometry, image, geometry.points(original), original


class MaskDataset(PointDataset):
    """Training images with points and the masks that these were drawn from, for the ``full_masks`` bound.

    The targets of a `MaskSample` are those of the points file, in its order. Void and crowd pixels, and segments that the
    points file does not label, are ignored.

    Args:
        source: images and ground truth.
        points, transform, seed, drop_without_things: as for `PointDataset`.

    Raises:
        DataError: also if the points were not drawn from this ground truth.
    """

    def __init__(
        self, source: AnnotatedSource, points: PointsFile, transform: Transform, seed: int, drop_without_things: bool = True
    ):
        if points.source_fingerprint != source.fingerprint:
            raise DataError(
                f"{points}: not drawn from the ground truth of data set '{source.name}' as it is now, draw the points again."
            )
        super().__init__(source, points, transform, seed, drop_without_things)
        self._source = source

    def item(self, index: int, epoch: int) -> MaskSample:
        record, geometry, image, points, original = self._load(index, epoch)
        ids = target_map(self._source.read_annotation(record), original, self._source.categories, record)
        if self.points.strategy in STRATEGIES:  # imported ones may lie beside their masks
            check_drawn(ids, original, record)
        moved = geometry.ids(ids, points)
        return _mask_sample(image, points, record, moved, geometry)


def target_map(
    annotation: Annotation, points: PointLabels, categories: Categories, record: ImageRecord
) -> np.ndarray:
    """(H, W) int64 map of the targets of ``points``: 0 = none of them (void, crowd, unlabelled), ``i + 1`` = target ``i``.

    Raises DataError if a target is no segment of the annotation or has another class there.
    """
    targets = target_segments(annotation, categories)
    segments = {(target, categories.label_of(category)): ids for target, category, ids in targets}
    values, inverse = np.unique(annotation.ids, return_inverse=True)
    lookup = np.zeros(len(values), dtype=np.int64)
    for i, target in enumerate(zip(points.ids.tolist(), points.classes.tolist(), strict=True)):
        if target not in segments:
            raise DataError(
                f"Target {target[0]} ({categories[target[1]].name}) of image {record.file_name} is not in its ground truth."
            )
        lookup[np.isin(values, segments[target])] = i + 1
    return lookup[inverse].reshape(annotation.ids.shape)


def check_drawn(targets: np.ndarray, points: PointLabels, record: ImageRecord) -> None:
    """DataError if a point is not on its target in the (H, W) `target_map`: drawn points are, unless masks were replaced."""
    x, y = points.xy.numpy().T
    astray = np.flatnonzero(targets[y, x] != points.target.numpy() + 1)
    if astray.size:
        first = int(astray[0])
        raise DataError(
            f"The point x={x[first]}, y={y[first]} of image {record.file_name} is not on target "
            f"{int(points.ids[points.target[first]])}, which it was drawn from: the masks were replaced since. Remove the "
            "points file, so that points are drawn again, or put the masks back."
        )


def _mask_sample(
    image: torch.Tensor, points: PointLabels, record: ImageRecord, ids: torch.Tensor, geometry: Geometry
) -> MaskSample:
    """A sample with its transformed target map; what belongs to no target is ignored."""
    target = PseudoLabels.from_segment_ids(ids, points.classes, points.is_thing, geometry.size, ignore=ids == 0)
    return MaskSample(image, points, record.id, (record.height, record.width), target)


class EvaluationDataset(Dataset[tuple[PointSample, Annotation, ImageRecord]]):
    """All images of a split with their ground truth, transformed without any random choice.

    Items are ``(sample, annotation, record)``: the transformed image with its points (none if ``points`` is None or does not
    know the image) and the ground truth at the original size.

    Args:
        source: images and ground truth.
        transform: its size limits are used, its random choices are not.
        points: labels to go with the images, matched by image id.
        masks: give `MaskSample`, for labelers that read masks (the bounds), instead of `PointSample`.

    An item raises DataError if a point that was drawn from this ground truth is not on its target there.
    """

    def __init__(
        self, source: AnnotatedSource, transform: Transform, points: PointsFile | None = None, masks: bool = False
    ):
        if points is not None:
            points.check()
        self.source = source
        self.transform = transform.for_evaluation()
        self.points = points
        self.masks = masks
        self._position = records_by_id(points.records) if points is not None else {}
        drawn_here = points is not None and points.source_fingerprint == source.fingerprint
        self._drawn = drawn_here and points.strategy in STRATEGIES

    def __len__(self) -> int:
        return len(self.source.records)

    def __getitem__(self, index: int) -> tuple[PointSample, Annotation, ImageRecord]:
        record = self.source.records[index]
        size = (record.height, record.width)
        geometry = self.transform.draw(size, np.random.default_rng(0))  # draws nothing that shows
        labels = self.points.labels_of(self._position[record.id]) if record.id in self._position else no_points()
        image, points = geometry.image(self.source.read_image(record)), geometry.points(labels)
        annotation = self.source.read_annotation(record)
        if self.masks or self._drawn:
            targets = target_map(annotation, labels, self.source.categories, record)
            if self._drawn:
                check_drawn(targets, labels, record)
        if self.masks:
            return _mask_sample(image, points, record, geometry.ids(targets, points), geometry), annotation, record
        return PointSample(image, points, record.id, size), annotation, record


def no_points() -> PointLabels:
    """Labels of an image without any."""
    empty = torch.zeros(0, dtype=torch.int64)
    return PointLabels(torch.zeros(0, 2, dtype=torch.int64), empty, empty, torch.zeros(0, dtype=torch.bool), empty)
