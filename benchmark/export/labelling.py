"""Running a trained model over images, one at a time, and writing what it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from benchmark.data.cropping import transform_of
from benchmark.data.errors import DataError
from benchmark.evaluate import class_segments, coco_segments
from benchmark.export.folder import ExportFolder, Labelled
from benchmark.export.inputs import Inputs
from benchmark.export.overlay import overlay
from benchmark.export.segments import class_confidence
from benchmark.stopping import stop_if_asked
from methods.base.model import Model
from methods.base.types import PanopticMap, PointLabels, PointSample, collate

NO_MEMORY = "its labels need more memory than there is; make the image smaller"


@dataclass(frozen=True, slots=True)
class Item:
    """An image for the network.

    Attributes:
        index: place in the inputs.
        pixels: (H, W, 3) uint8 RGB at the file's size.
        points: in pixels of the file.
        sample: image and points at the network's input size.
    """

    index: int
    pixels: np.ndarray
    points: PointLabels
    sample: PointSample

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the file."""
        return self.sample.original_size


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that cannot be used, and why."""

    index: int
    reason: str


class Items(Dataset):
    """Images at the size that evaluation of the run has, without any random choice.

    Args:
        inputs: images and points.
        input_config: ``input`` of the run's config.
    """

    def __init__(self, inputs: Inputs, input_config: Mapping[str, Any]):
        self.inputs, self.transform = inputs, transform_of(input_config).for_evaluation()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Item | Skipped:
        try:
            pixels, points = self.inputs.load(index)
            size = (pixels.shape[0], pixels.shape[1])
            geometry = self.transform.draw(size, np.random.default_rng(0))  # draws nothing that shows
            sample = PointSample(geometry.image(pixels), geometry.points(points), self.inputs.names[index], size)
        except DataError as error:
            return Skipped(index, str(error))
        except MemoryError:
            return Skipped(index, f"{self.inputs.folder / self.inputs.names[index]}: {NO_MEMORY}.")
        return Item(index, pixels, points, sample)


def label(model: Model, item: Item, device: torch.device) -> Labelled:
    """Labels from an image and its points, as the trained labeler gives them.

    A segment's score is the labeler's own times the mean probability, in the semantic branch where there is one, of its
    class over its pixels.
    """
    batch = collate([item.sample]).to(device)
    labelling = model.label(batch, [item.size])
    labels, scores = labelling.labels[0], labelling.labels[0].scores
    if labelling.semantic_logits is not None:
        scores = scores * class_confidence(labelling.semantic_logits, labels.segment_ids, labels.classes, batch.input_size)
    categories = [model.categories[i].id for i in item.points.classes.tolist()]
    segments = [
        {"id": i, "category_id": category, "score": score}
        for i, (category, score) in enumerate(zip(categories, scores.tolist(), strict=True), 1)
    ]
    targets = list(zip(item.points.ids.tolist(), categories, strict=True))
    return Labelled(labels.segment_ids.cpu().numpy(), segments, targets)


def predict(model: Model, item: Item, device: torch.device) -> Labelled:
    """What the network sees in an image, without points: a panoptic map, or a class map of a semantic model."""
    prediction = model.predict([item.sample.image.to(device)], [item.size])[0]
    if isinstance(prediction, PanopticMap):
        return Labelled(*coco_segments(prediction, model.categories))
    return Labelled(*class_segments(prediction, model.categories))


def label_all(
    model: Model, items: Items, folder: ExportFolder, make: Callable[[Model, Item, torch.device], Labelled],
    device: torch.device, workers: int, unusable: Mapping[int, str], show: Callable[[int], None],
) -> dict[int, str]:
    """Write the labels of every image that has none yet.

    Args:
        model: in eval mode, on ``device``.
        items: the images.
        folder: opened.
        make: `label` or `predict`.
        workers: processes that read images ahead; 0 reads them in turn.
        unusable: images to leave out, and why.
        show: called with the number of images done.

    Returns:
        Place of each image without labels, and why.

    Raises:
        OutputError: the first file that cannot be written.
    """
    inputs = items.inputs
    skipped = dict(unusable)
    todo = [i for i in range(len(inputs)) if i not in skipped and not folder.is_done(inputs.names[i], inputs.signature(i))]
    if todo:
        folder.begin()
    done = len(inputs) - len(todo)
    show(done)
    for found in _loaded(items, todo, workers):
        stop_if_asked()
        if isinstance(found, Item):
            found = _made(model, found, folder, make, device, inputs)
        if isinstance(found, Skipped):
            skipped[found.index] = found.reason
        done += 1
        show(done)
    return dict(sorted(skipped.items()))


def _loaded(items: Items, todo: list[int], workers: int) -> Iterator[Item | Skipped]:
    return iter(DataLoader(Subset(items, todo), batch_size=None, num_workers=workers, collate_fn=_as_it_is))


def _as_it_is(found: Item | Skipped) -> Item | Skipped:
    return found


def _made(
    model: Model, item: Item, folder: ExportFolder, make: Callable[[Model, Item, torch.device], Labelled],
    device: torch.device, inputs: Inputs,
) -> Skipped | None:
    name = inputs.names[item.index]
    try:
        with torch.no_grad():
            labelled = make(model, item, device)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        return Skipped(item.index, f"{inputs.folder / name}: {NO_MEMORY}.")
    picture = None
    if folder.overlays:
        picture = overlay(item.pixels, labelled.ids, labelled.segments, item.points, model.categories)
    folder.write(name, inputs.signature(item.index), Labelled(labelled.ids, labelled.segments, labelled.targets, picture))
    return None
