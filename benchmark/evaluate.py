"""Evaluation: a stage of its own after training, the only one that reads masks in a point-supervised run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.data.datasets import EvaluationDataset
from benchmark.label_quality import LabelQuality
from benchmark.metrics import MeanIoU, PanopticQuality
from benchmark.pictures import PictureBook
from benchmark.stopping import stop_if_asked
from methods.base.model import Model
from methods.base.types import Categories, MaskSample, PanopticMap, PseudoLabels, SemanticMap, collate

VOID = 255


class Listener(Protocol):
    """Who follows an evaluation (the progress bar)."""

    def evaluating(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Item:
    """One evaluated image: sample at network input size, ground truth at the file's size, its place in the data set."""

    index: int
    sample: Any
    annotation: Any
    record: Any


def spread(total: int, wanted: int | None) -> list[int]:
    """``wanted`` indices spread evenly over ``0 .. total - 1`` (all if None): the same images for every method."""
    if wanted is None or wanted >= total:
        return list(range(total))
    return [int(i) for i in np.linspace(0, total - 1, wanted).round()]


class Evaluator:
    """Runs a trained model over a split, one image at a time, and collects raw sums.

    Padding to a common size reaches the valid part of an image through normalisation and convolutions; alone, an image's
    result does not depend on its neighbours in a batch.

    Args:
        model: in eval mode afterwards.
        categories: of the data set.
        device: where the model is.
        listener: told after every image.
    """

    def __init__(self, model: Model, categories: Categories, device: torch.device, listener: Listener):
        self.model, self.categories, self.device, self.listener = model.eval(), categories, device, listener

    @torch.no_grad()
    def predictions(
        self, dataset: EvaluationDataset, book: PictureBook | None, what: str = "predictions"
    ) -> dict[str, Any]:
        """Panoptic quality (raw sums per class) and semantic confusion of test-time predictions, at original size."""
        quality = PanopticQuality(self.categories.to_coco())
        semantic = MeanIoU(len(self.categories), self.categories.names)
        source, panoptic = "semantic map", False
        for item in self._watched(what, dataset, range(len(dataset))):
            size = (item.record.height, item.record.width)
            prediction = self.model.predict([item.sample.image.to(self.device)], [size])[0]
            if isinstance(prediction, PanopticMap):
                panoptic, source = True, "panoptic map"
                ids, segments = coco_segments(prediction, self.categories)
                quality.update(ids, segments, item.annotation.ids, item.annotation.segments)
            else:
                ids, segments = class_segments(prediction, self.categories)
            if book is not None:
                book.add_prediction(item, ids, segments)
            semantic.update(predicted_classes(prediction, self.categories), class_map(item.annotation, self.categories))
        return {
            "panoptic": quality.state() if panoptic else None,
            "semantic": {"source": source, **semantic.state()},
        }

    @torch.no_grad()
    def labels(
        self, what: str, dataset: EvaluationDataset, indices: Sequence[int], book: PictureBook | None
    ) -> dict[str, Any]:
        """Pseudo-label quality (raw sums) on images that are given their points, at original size."""
        quality = LabelQuality(self.categories.to_coco())
        semantic = MeanIoU(len(self.categories), self.categories.names)
        for item in self._watched(what, dataset, indices):
            size = (item.record.height, item.record.width)
            pictured = book is not None and book.wants(item)
            labelling = self.model.label(collate([item.sample]).to(self.device), [size], with_evidence=pictured)
            ids = labelling.labels[0].segment_ids.cpu().numpy()
            targets = targets_of(item.sample, labelling.labels[0], self.categories)
            quality.update(item.record.id, ids, targets, item.annotation.ids, item.annotation.segments)
            if labelling.semantic_logits is not None:
                predicted = enlarged_classes(labelling.semantic_logits, item.sample.image.shape[-2:], size)
                semantic.update(predicted, class_map(item.annotation, self.categories))
            if pictured:
                book.add_labels(item, ids, targets)
                book.add_evidence(item, labelling.evidence[0])
        branch = {"source": "semantic branch", **semantic.state()} if semantic.confusion.any() else None
        return {"quality": quality.state(), "semantic": branch}

    def _watched(self, what: str, dataset: EvaluationDataset, indices: Sequence[int]) -> Iterator[Item]:
        for done, index in enumerate(indices):
            stop_if_asked()
            yield Item(index, *dataset[index])
            self.listener.evaluating(what, done + 1, len(indices))


def enlarged_classes(logits: Tensor, input_size: tuple[int, int], output_size: tuple[int, int]) -> np.ndarray:
    """(H, W) int64 class map of one image from (1, K, h, w) logits: bilinear to the input's, then to the file's size."""
    for size in (input_size, output_size):
        logits = nn.functional.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)
    return logits[0].argmax(0).cpu().numpy()


def class_map(annotation: Any, categories: Categories) -> np.ndarray:
    """(H, W) int64 labels of a ground truth, 255 where it is void (crowd regions have their class)."""
    result = np.full(annotation.ids.shape, VOID, dtype=np.int64)
    for segment in annotation.segments:
        result[annotation.ids == segment["id"]] = categories.label_of(segment["category_id"])
    return result


def coco_segments(prediction: PanopticMap, categories: Categories) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A prediction as id map and COCO ``segments_info``."""
    segments = [
        {"id": s.id, "category_id": categories[s.label].id, "isthing": int(s.is_thing), "score": round(s.score, 4)}
        for s in prediction.segments
    ]
    return prediction.segment_ids.cpu().numpy(), segments


def class_segments(prediction: SemanticMap, categories: Categories) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A class map as id map and COCO ``segments_info``, one segment per class; for pictures, it has no instances."""
    ids = prediction.classes.cpu().numpy() + 1
    segments = [
        {"id": int(i), "category_id": categories[int(i) - 1].id, "isthing": int(categories[int(i) - 1].is_thing)}
        for i in np.unique(ids)
    ]
    return ids, segments


def predicted_classes(prediction: PanopticMap | SemanticMap, categories: Categories) -> np.ndarray:
    """(H, W) labels of a prediction. Void pixels of a panoptic map count as the last class, the convention of the
    released code (on VOC that is background)."""
    if isinstance(prediction, SemanticMap):
        return prediction.classes.cpu().numpy()
    if prediction.semantic is not None:
        return prediction.semantic.cpu().numpy()
    ids = prediction.segment_ids.cpu().numpy()
    table = np.full(int(ids.max(initial=0)) + 1, len(categories) - 1, dtype=np.int64)
    for segment in prediction.segments:
        table[segment.id] = segment.label
    return table[ids]


def targets_of(sample: Any, labels: PseudoLabels, categories: Categories) -> list[tuple[int, int]]:
    """(segment id, category id) of each target, in the order of the labels' ids ``1 .. n``."""
    if isinstance(sample, MaskSample) and sample.target.num_targets != labels.num_targets:
        given, made = sample.target.num_targets, labels.num_targets
        raise ValueError(f"Image {sample.image_id} has {given} targets, its labels have {made}.")
    return [
        (int(segment), categories[int(label)].id)
        for segment, label in zip(sample.points.ids.tolist(), sample.points.classes.tolist(), strict=True)
    ]
