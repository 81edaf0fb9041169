"""The Panoptic SegFormer head as PSPS and Point2Mask train it (Li et al., CVPR 2022; mask decoder of the released codes).

Things: location queries are matched to targets by class and box, and the matched ones are decoded to masks. Stuff: one
learned query per class. Inference merges all masks by quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from methods.base.head import PanopticHead
from methods.base.location_decoder import LocationDecoder, Locations, prior_bias, valid_extent
from methods.base.losses import Focal, box_losses, dice_losses, focal_loss, mean_over_devices, things_stuff_balance
from methods.base.mask_decoder import NORM_EPSILON, ClassMaskDecoder, MaskDecoder
from methods.base.matching import Matching, MatchingCosts, match_layers
from methods.base.merging import Merging, Quality, merge_masks
from methods.base.types import Categories, Features, PanopticMap, PseudoLabels


class PanopticSegFormerHead(PanopticHead):
    """Location decoder, things mask decoder, stuff mask decoder, losses and mask-wise merging.

    Args:
        categories: things, stuff, or only one of them.
        channels: width D of the encoder maps.
        fine_channels: width of the encoder's 1/4 map, which this head does not read.
        queries: location queries.
        location_layers, thing_layers, stuff_layers: layers of the three decoders.
        levels, mask_levels: encoder maps that the location decoder and the mask decoders attend, finest first.
        heads, points, feedforward: attention heads, deformable sampling points and hidden width of all decoders.
        dropout: in the location decoder (the mask decoders have none).
        norm_epsilon: ε of the layer norms of the mask decoders.
        box_size_bias: width and height of the first boxes are its sigmoid.
        test_queries: (query, class) pairs with the best scores that become masks in inference.
        mask_threshold, quality_threshold, thing_overlap, stuff_overlap, quality: of the merging, see `Merging`.
        classification_weight, l1_weight, giou_weight: loss weights and matching costs of things.
        dice_weight, stuff_classification_weight: the other loss weights.
        focal: of both classifications and of the matching.
        focal_prior: probability of every class at the start.
        cost_epsilon: added inside the logarithms of the focal matching cost.
        dice_epsilon: ε of the Dice losses of things and stuff.
    """

    def __init__(
        self, categories: Categories, channels: int, fine_channels: int | None = None, *,
        queries: int = 300, location_layers: int = 6, thing_layers: int = 4, stuff_layers: int = 6,
        levels: int = 4, mask_levels: int = 3, heads: int = 8, points: int = 4, feedforward: int = 1024,
        dropout: float = 0.1, norm_epsilon: float = NORM_EPSILON, box_size_bias: float = -2.0,
        test_queries: int = 100, mask_threshold: float = 0.5, quality_threshold: float = 0.25,
        thing_overlap: float = 0.4, stuff_overlap: float = 0.2, quality: Quality = Quality(),
        classification_weight: float = 2.0, l1_weight: float = 5.0, giou_weight: float = 2.0,
        dice_weight: float = 2.0, stuff_classification_weight: float = 4.0,
        focal: Focal = Focal(), focal_prior: float = 0.01, cost_epsilon: float = 1e-12, dice_epsilon: float = 1e-3,
    ):
        super().__init__()
        self.num_things, self.num_stuff = categories.num_things, categories.num_stuff
        self.test_queries = test_queries
        self.merging = Merging(mask_threshold, quality_threshold, thing_overlap, stuff_overlap, quality)
        self.costs = MatchingCosts(classification_weight, l1_weight, giou_weight, focal, cost_epsilon)
        self.dice_weight, self.stuff_classification_weight = dice_weight, stuff_classification_weight
        self.focal, self.dice_epsilon = focal, dice_epsilon
        mask_decoder = {"heads": heads, "levels": mask_levels, "feedforward": feedforward, "norm_epsilon": norm_epsilon}
        if self.num_things:
            self.location = LocationDecoder(
                self.num_things, channels, queries, location_layers, levels, heads, points, feedforward, dropout,
                focal_prior, box_size_bias,
            )
            self.things = MaskDecoder(channels, thing_layers, **mask_decoder, update_last=False)
        if self.num_stuff:
            self.stuff = ClassMaskDecoder(self.num_stuff, channels, stuff_layers, **mask_decoder)
            for head in self.stuff.presence:
                nn.init.constant_(head.bias, prior_bias(focal_prior))

    # ----------------------------------------------------------------------------------------------------- training

    def losses(
        self, features: Features, labels: list[PseudoLabels], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """See `PanopticHead.losses`; every loss is the sum over the layers of its decoder.

        Thing losses are scaled by the share of things among the targets, stuff losses by the share of stuff
        (`things_stuff_balance`).

        Of an image whose pixels are all ignored nothing is known: its targets are not targets, and what is predicted there
        is neither right nor wrong. In an image with any other pixel every query is classified as usual, also where it
        looks at ignored pixels: a query has no place until it has a mask (the released codes do not exempt any either).
        """
        known = torch.stack([~one.ignore.all() for one in labels])
        labels = [one if is_known else _without_targets(one) for one, is_known in zip(labels, known.tolist(), strict=True)]
        present = _present_stuff(labels, self.num_things, self.num_stuff)
        num_things = torch.zeros((), device=present.device)
        num_stuff = mean_over_devices(present.sum())
        things: dict[str, Tensor] = {}
        stuff: dict[str, Tensor] = {}
        if self.num_things:
            things, num_things = self._thing_losses(features, labels, known)
        if self.num_stuff:
            stuff = self._stuff_losses(features, labels, known, present, num_stuff.clamp(min=1))
        thing_share, stuff_share = things_stuff_balance(num_things, num_stuff)
        losses = {name: value * thing_share for name, value in things.items()}
        losses.update({name: value * stuff_share for name, value in stuff.items()})
        return {name: value * weights.get(name.split("/")[0], 1.0) for name, value in losses.items()}

    def _thing_losses(
        self, features: Features, labels: list[PseudoLabels], known: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted losses, and the number of matched queries per device that they are divided by."""
        locations = self.location(features)
        classes = [one.classes[one.is_thing] for one in labels]
        boxes = _normalised_boxes(labels, valid_extent(features))
        matching = match_layers(locations.logits, locations.boxes, classes, boxes, self.costs)
        # One at least: images without things still teach the queries to stay silent.
        count = mean_over_devices(torch.tensor(matching.count, device=locations.logits.device)).clamp(min=1)
        positives, l1, giou = _location_targets(locations, matching, torch.cat(classes), torch.cat(boxes))
        focal = focal_loss(locations.logits[:, known], positives[:, known], self.focal)
        masks = self._matched_masks(features, locations.queries, matching)
        targets, valid = _thing_targets(labels, matching)
        dice = self._dice(masks, targets, valid, features.input_size)
        losses = {
            "classification/things": self.costs.classification * focal,
            "boxes/l1": self.costs.l1 * l1,
            "boxes/giou": self.costs.giou * giou,
            "masks/things": self.dice_weight * dice,
        }
        return {name: value / count for name, value in losses.items()}, count

    def _matched_masks(self, features: Features, hidden: Tensor, matching: Matching) -> list[Tensor]:
        """(P, h, w) masks per thing layer, of the queries that the last location layer matched."""
        image, query = matching.image, matching.query[-1]
        counts = torch.bincount(image, minlength=len(hidden))
        slot = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
        # One slot at least, so that a batch without things still reaches every parameter (DDP waits for all of them).
        width = max(1, int(counts.max()))
        queries = hidden.new_zeros(len(hidden), width, hidden.shape[-1]).index_put((image, slot), hidden[image, query])
        padding = torch.arange(width, device=image.device) >= counts[:, None]
        return [masks[image, slot] for masks in self.things(features, queries, query_padding=padding).masks]

    def _stuff_losses(
        self, features: Features, labels: list[PseudoLabels], known: Tensor, present: Tensor, count: Tensor
    ) -> dict[str, Tensor]:
        masks, logits = self.stuff(features)
        targets, valid = _stuff_targets(labels, present, self.num_things)
        # Only masks of present classes are upsampled: absent ones have weight 0.
        dice = self._dice([m[present] for m in masks], targets, valid, features.input_size)
        focal = sum(focal_loss(layer[known], present[known], self.focal) for layer in logits)
        return {
            "masks/stuff": self.dice_weight * dice / count,
            "stuff_classification/presence": self.stuff_classification_weight * focal / count,
        }

    def _dice(self, masks: list[Tensor], targets: Tensor, valid: Tensor, input_size: tuple[int, int]) -> Tensor:
        """Dice losses of (M, h, w) masks of each layer at the resolution of their (M, H, W) targets, summed."""
        return sum(dice_losses(_upsampled(m, input_size), targets, valid, self.dice_epsilon).sum() for m in masks)

    # ---------------------------------------------------------------------------------------------------- inference

    @torch.no_grad()
    def predict(
        self, features: Features, sizes: list[tuple[int, int]], output_sizes: list[tuple[int, int]]
    ) -> list[PanopticMap]:
        parts = []
        if self.num_things:
            parts.append(self._predict_things(features))
        if self.num_stuff:
            parts.append(self._predict_stuff(features))
        masks, scores, labels = (torch.cat(kind, dim=1) for kind in zip(*parts, strict=True))
        return [
            merge_masks(
                masks[i].float(), scores[i], labels[i], labels[i] < self.num_things,
                features.input_size, sizes[i], output_sizes[i], self.merging,
            )
            for i in range(len(masks))
        ]

    def _predict_things(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n, h, w) masks, (B, n) scores and labels of the best (query, class) pairs."""
        locations = self.location(features)
        all_scores = locations.logits[-1].sigmoid().flatten(1)
        scores, pairs = all_scores.topk(min(self.test_queries, all_scores.shape[1]), dim=1)
        query, labels = pairs // self.num_things, pairs % self.num_things
        queries = locations.queries.gather(1, query[..., None].expand(-1, -1, locations.queries.shape[-1]))
        return self.things(features, queries, last_only=True).masks[-1], scores, labels

    def _predict_stuff(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C_st, h, w) masks, (B, C_st) scores and labels of all stuff classes."""
        masks, logits = self.stuff(features, last_only=True)
        labels = self.num_things + torch.arange(self.num_stuff, device=masks[-1].device)
        return masks[-1], logits[-1].float().sigmoid(), labels.expand(len(masks[-1]), -1)


def _upsampled(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(M, h, w) masks to (M, H, W) float32, the resolution of the targets."""
    return F.interpolate(masks[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def _normalised_boxes(labels: list[PseudoLabels], extent: Tensor) -> list[Tensor]:
    """Thing boxes of each image as (n_i, 4) cx, cy, w, h shares of ``extent`` (B, 2), width and height in pixels."""
    return [
        box_convert(one.boxes[one.is_thing], "xyxy", "cxcywh") / size.repeat(2)
        for one, size in zip(labels, extent, strict=True)
    ]


def _without_targets(labels: PseudoLabels) -> PseudoLabels:
    """Labels of the same image, all of it void."""
    none = {name: getattr(labels, name)[:0] for name in ("classes", "is_thing", "scores", "boxes")}
    return replace(labels, segment_ids=torch.zeros_like(labels.segment_ids), **none)


def _location_targets(
    locations: Locations, matching: Matching, classes: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the class logits (L, B, Q, C) should be, in {0, 1}, and the L1 and GIoU losses summed over layers and pairs.

    Args:
        locations: predictions of L layers.
        matching: their matched pairs.
        classes, boxes: (n,) and (n, 4) concatenated thing targets of all images.
    """
    layer = torch.arange(len(matching.query), device=classes.device)[:, None].expand_as(matching.query)
    place = layer, matching.image.expand_as(matching.query), matching.query
    positives = torch.zeros_like(locations.logits)
    positives[(*place, classes[matching.target])] = 1
    return positives, *box_losses(locations.boxes[place], boxes[matching.target])


def _thing_targets(labels: list[PseudoLabels], matching: Matching) -> tuple[Tensor, Tensor]:
    """(P, H, W) bool masks and valid pixels of the targets that the last location layer is matched to."""
    masks = torch.cat([one.masks()[one.is_thing] for one in labels])
    ignore = torch.stack([one.ignore for one in labels])
    return masks[matching.target[-1]], ~ignore[matching.image]


def _present_stuff(labels: list[PseudoLabels], num_things: int, num_stuff: int) -> Tensor:
    """(B, C_st) bool, whether each stuff class is a target of each image."""
    present = torch.zeros(len(labels), num_stuff, dtype=torch.bool, device=labels[0].classes.device)
    for row, one in zip(present, labels, strict=True):
        row[one.classes[~one.is_thing] - num_things] = True
    return present


def _stuff_targets(labels: list[PseudoLabels], present: Tensor, num_things: int) -> tuple[Tensor, Tensor]:
    """(M, H, W) bool masks and valid pixels of the M present (image, stuff class) pairs, in row-major order."""
    image, stuff = present.nonzero(as_tuple=True)
    # Label of every pixel, -1 on void.
    pixel_labels = torch.stack([F.pad(one.classes, (1, 0), value=-1)[one.segment_ids] for one in labels])
    ignore = torch.stack([one.ignore for one in labels])
    return pixel_labels[image] == (stuff + num_things)[:, None, None], ~ignore[image]
