"""The semantic counterpart of `PanopticModel`: a network that predicts classes and a method that trains it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.base.inference import Inference, averaged
from methods.base.model import Labelling, Model, all_finite, images_only
from methods.base.semantic_method import SemanticMethod, enlarged
from methods.base.types import Categories, PointBatch, Progress, SemanticMap

ONE_PASS = Inference()


class SemanticModel(Model):
    """A semantic network trained from sparse labels; its predictions are class maps.

    Args:
        categories: of the data set.
        network: ``(images, padding) -> SegmentationMaps``, see `DeepLabV3Plus`.
        method: its losses.
        inference: how `predict` makes a class map.
        further: other ways to do so that are measured beside it, by name.
    """

    makes_labels = False

    def __init__(
        self, categories: Categories, network: nn.Module, method: SemanticMethod, inference: Inference = ONE_PASS,
        further: dict[str, Inference] | None = None,
    ):
        super().__init__(categories)
        self.network = network
        self.method = method
        self.inference = inference
        self.further = dict(further or {})

    def network_modules(self) -> list[nn.Module]:
        return [self.network]

    def training_step(self, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
        with self.stopwatch("forward"):
            maps = self.network(batch.images, batch.padding)
            if not all_finite(maps):
                raise FloatingPointError("The output of the network is not finite")
        with self.stopwatch("losses"):
            return self.method.losses(maps, batch, progress)

    @torch.no_grad()
    def predict(
        self, images: Sequence[Tensor], output_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[SemanticMap]:
        """Class maps, each image by itself: a map does not depend on the other images."""
        sizes = output_sizes or [tuple(image.shape[-2:]) for image in images]
        return [
            SemanticMap(_at(averaged(self.probabilities, image, self.inference), size).argmax(dim=0))
            for image, size in zip(images, sizes, strict=True)
        ]

    def probabilities(self, image: Tensor) -> Tensor:
        """(K, h, w) float32 class probabilities of one image (3, h, w) float RGB in [0, 1]; one pass."""
        batch = images_only([image])
        logits = self.network(batch.images, batch.padding).logits
        return enlarged(logits, batch.input_size)[0].softmax(dim=0)

    def label(
        self, batch: PointBatch, output_sizes: Sequence[tuple[int, int]] | None = None, with_evidence: bool = False
    ) -> Labelling:
        raise ValueError(
            "A semantic model predicts classes and makes no labels of instances; label with a method of the common network "
            "(its row names the assignment step), or predict with this one."
        )

    def variants(self) -> dict[str, Model]:
        found = {}
        for name, inference in self.further.items():
            found[name] = copy.copy(self)  # shares every parameter
            found[name].inference = inference
        return found


def _at(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (K, h, w) at the image file's size."""
    if tuple(probabilities.shape[-2:]) == tuple(size):
        return probabilities
    return nn.functional.interpolate(probabilities[None], tuple(size), mode="bilinear", align_corners=False)[0]
