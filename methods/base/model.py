"""The interface that runner, evaluation, labelling and prediction know, and the panoptic network behind it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor, nn

from methods.base.encoder import Encoder
from methods.base.evidence import Evidence
from methods.base.head import PanopticHead
from methods.base.labeler import PseudoLabeler
from methods.base.preparation import Preparation
from methods.base.types import (
    Categories,
    PanopticMap,
    PointBatch,
    PointLabels,
    PointSample,
    Progress,
    PseudoLabels,
    SemanticMap,
    collate,
)
from methods.ops.parallel import one_thread_each


class Stopwatch:
    """Seconds spent in named stages, summed. On CUDA the device is synchronised around a stage only if ``exact``."""

    def __init__(self, exact: bool = False):
        self.seconds: dict[str, float] = {}
        self.exact = exact

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _wait(self) -> None:
        if self.exact and torch.cuda.is_available():
            torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class Labelling:
    """What `Model.label` gives.

    Attributes:
        labels: dense labels of each image.
        semantic_logits: (B, K, h, w) class logits of a semantic branch, or None.
        evidence: of each image, the maps that its labels were decided from; empty unless asked for.
    """

    labels: list[PseudoLabels]
    semantic_logits: Tensor | None
    evidence: Sequence[Sequence[Evidence]] = ()


def all_finite(*values: object) -> bool:
    """Whether every floating-point tensor in nested lists, tuples and dataclasses is finite (one device transfer)."""

    def tensors(value: object) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from tensors(item)
        elif is_dataclass(value):
            for field in fields(value):
                yield from tensors(getattr(value, field.name))

    checks = [torch.isfinite(t.detach()).all() for t in tensors(values) if t.is_floating_point()]
    return not checks or bool(torch.stack(checks).all())


class Model(nn.Module, ABC):
    """What is trained and evaluated. Runner, evaluation, label and predict know nothing else.

    Attributes:
        categories: the categories whose labels the maps use.
        stopwatch: stages ``forward``, ``pseudo_labels`` and ``losses`` of the training step.
        makes_labels: whether `label` gives dense labels with instances.
    """

    makes_labels: bool = True

    def __init__(self, categories: Categories):
        super().__init__()
        self.categories = categories
        self.stopwatch = Stopwatch()

    @abstractmethod
    def training_step(self, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is the objective."""

    def forward(self, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        """The training step: one call, as DDP and mixed precision want it."""
        return self.training_step(batch, progress)

    @abstractmethod
    def predict(
        self, images: Sequence[Tensor], output_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[PanopticMap | SemanticMap]:
        """Test-time prediction from images alone.

        Args:
            images: (3, h, w) float32 RGB in [0, 1], sizes may differ.
            output_sizes: (height, width) of each returned map; the image's own size by default.
        """

    @abstractmethod
    def label(
        self, batch: PointBatch, output_sizes: Sequence[tuple[int, int]] | None = None, with_evidence: bool = False
    ) -> Labelling:
        """Dense labels from images and points, as a trained labeler gives them.

        Args:
            batch: images with points.
            output_sizes: (height, width) of the returned labels; the batch's padded size by default.
            with_evidence: also give the maps that the labels were decided from.
        """

    @abstractmethod
    def network_modules(self) -> list[nn.Module]:
        """The modules that remain at test time."""

    def preparation(self) -> Preparation | None:
        """What a data loader's workers do with a batch; see `PseudoLabeler.preparation`."""
        return None

    @property
    def predicts(self) -> bool:
        """Whether `predict` works: False for a labeler that is trained alone."""
        return True

    def variants(self) -> dict[str, Model]:
        """Views of this model that predict in another way and are measured beside it, by name: several scales, say."""
        return {}

    @property
    def trainable(self) -> bool:
        """Whether training would change what the model predicts or how it labels."""
        return any(p.requires_grad for p in self.parameters())


def images_only(images: Sequence[Tensor]) -> PointBatch:
    """A batch without any label, for prediction."""
    device = images[0].device
    none = torch.zeros(0, dtype=torch.int64, device=device)
    nothing = PointLabels(none.reshape(0, 2), none, none, none.bool(), none)
    samples = [PointSample(image.cpu(), nothing, i, tuple(image.shape[-2:])) for i, image in enumerate(images)]
    return collate(samples).to(device)


class PanopticModel(Model):
    """backbone and encoder, shared; a labeler that makes dense labels from points; a head that is trained on them.

    ``head=None`` trains the labeler alone (fast ablations of pseudo-label quality). A labeler without parameters and no
    head leave nothing to train: then the encoder is not even run.
    """

    def __init__(self, categories: Categories, encoder: Encoder, head: PanopticHead | None, labeler: PseudoLabeler):
        super().__init__(categories)
        self.encoder = encoder
        self.head = head
        self.labeler = labeler
        if not self.needs_features:
            encoder.requires_grad_(False)

    @property
    def needs_features(self) -> bool:
        """Whether anything reads the encoder's maps."""
        return self.head is not None or self.labeler.trainable

    @property
    def predicts(self) -> bool:
        return self.head is not None

    def preparation(self) -> Preparation | None:
        return self.labeler.preparation()

    def network_modules(self) -> list[nn.Module]:
        return [self.encoder] + ([self.head] if self.head is not None else [])

    def training_step(self, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        with self.stopwatch("forward"):
            features = self.encoder(batch.images, batch.padding)
            maps = self.labeler.predict_maps(features, batch)
            if not all_finite(features, maps):
                raise FloatingPointError("The output of the network is not finite")
        with self.stopwatch("pseudo_labels"):
            labels = self._labels(maps, batch, progress)
        with self.stopwatch("losses"):
            losses = {f"labeler/{k}": v for k, v in self.labeler.losses(maps, labels, batch, progress).items()}
            if self.head is not None:
                head_losses = self.head.losses(features, labels, self.labeler.head_weights(progress))
                losses.update({f"head/{k}": v for k, v in head_losses.items()})
        return losses

    @torch.no_grad()
    def _labels(self, maps, batch: PointBatch, progress: Progress) -> list[PseudoLabels]:
        with torch.autocast(batch.images.device.type, enabled=False), one_thread_each():
            return self.labeler.pseudo_labels(maps, batch, progress)

    @torch.no_grad()
    def predict(
        self, images: Sequence[Tensor], output_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[PanopticMap | SemanticMap]:
        if self.head is None:
            raise ValueError("This model has no head (head=none), so it can label images with points but not predict.")
        batch = images_only(images)
        features = self.encoder(batch.images, batch.padding)
        return list(self.head.predict(features, batch.sizes, list(output_sizes or batch.sizes)))

    @torch.no_grad()
    def label(
        self, batch: PointBatch, output_sizes: Sequence[tuple[int, int]] | None = None, with_evidence: bool = False
    ) -> Labelling:
        features = self.encoder(batch.images, batch.padding) if self.needs_features else None
        maps = self.labeler.predict_maps(features, batch)
        labels = self._labels(maps, batch, Progress.finished())
        if output_sizes is not None:
            labels = [resized_labels(*each) for each in zip(labels, batch.sizes, output_sizes, strict=True)]
        evidence = self._evidence(maps, batch) if with_evidence else ()
        return Labelling(labels, self.labeler.semantic_logits(maps) if self.labeler.trainable else None, evidence)

    def _evidence(self, maps, batch: PointBatch) -> list[list[Evidence]]:
        with torch.autocast(batch.images.device.type, enabled=False):
            return self.labeler.evidence(maps, batch, Progress.finished())


def resized_labels(labels: PseudoLabels, size: tuple[int, int], output_size: tuple[int, int]) -> PseudoLabels:
    """Crop labels to the valid part of the input and resize them to the image file's size (pixel-centre nearest).

    Args:
        labels: of the padded input size.
        size: (height, width) of the valid part.
        output_size: (height, width) wanted.
    """
    ids = labels.segment_ids[None, None, : size[0], : size[1]].float()
    ids = nn.functional.interpolate(ids, size=output_size, mode="nearest-exact")[0, 0].long()
    return PseudoLabels.from_segment_ids(ids, labels.classes, labels.is_thing, output_size, scores=labels.scores)
