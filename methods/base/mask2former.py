"""Mask2Former's panoptic head on the encoder's maps, from mmdet's decoder layers, match costs and losses.

Differences to the published head, all at the seams: the pixel decoder's deformable encoder is the common encoder, padded
cells are not attended to, and points for matching and losses are drawn from pixels that are not ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.layers.transformer import Mask2FormerTransformerDecoder
from mmdet.models.losses import DiceLoss
from mmdet.models.task_modules.assigners import HungarianAssigner
from mmengine.model import caffe2_xavier_init
from mmengine.structures import InstanceData
from torch import Tensor, nn

from methods.base.encoder import group_norm
from methods.base.head import PanopticHead
from methods.base.losses import mean_over_devices
from methods.base.mask2former_ops import MaskTargets, logits_at, mask_targets, merge_masks, uncertain_points
from methods.base.types import Categories, Features, PanopticMap, PseudoLabels

Prediction = tuple[Tensor, Tensor]
"""Class logits (B, Q, K + 1), the last one "no object", and mask logits (B, Q, H/4, W/4)."""


MEMORIES = 3
"""The decoder attends to the maps at 1/32, 1/16 and 1/8, in this order."""


class Mask2FormerHead(PanopticHead):
    """Masked-attention decoder: every query predicts a class or "no object" and a mask.

    Args:
        categories: of the data set, K in number.
        channels: width D of the encoder's maps, divisible by ``heads``.
        fine_channels: width of the backbone map at 1/4.
        queries: number of queries Q, an upper bound of the segments of an image.
        layers: decoder layers, at least 1; each reads one of the maps, from coarse to fine and again. Predictions of the
            initial queries and after each layer are trained.
        heads, feedforward: attention heads and feed-forward width of the decoder.
        num_points: points per image that masks are compared at, in matching and in the losses.
        oversample_ratio, importance_ratio: of the loss points, ``importance_ratio`` are the most uncertain ones of
            ``oversample_ratio`` times as many random points; the rest is random.
        no_object_weight: class weight of "no object".
        class_weight, mask_weight, dice_weight: weights of cost and loss: class, mask cross-entropy, mask Dice.
        dice_epsilon: ε of the Dice cost and loss, added to numerator and denominator.
        score_threshold: queries with a lower class score are dropped at test time.
        overlap_threshold: a segment is dropped if a smaller share of its mask is left after merging.
    """

    def __init__(
        self,
        categories: Categories,
        channels: int,
        fine_channels: int,
        queries: int = 100,
        layers: int = 9,
        heads: int = 8,
        feedforward: int = 2048,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        no_object_weight: float = 0.1,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        dice_epsilon: float = 1.0,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
    ):
        super().__init__()
        if layers < 1:
            raise ValueError(f"head.layers is {layers}; the Mask2Former decoder needs at least one layer.")
        self.categories = categories
        self.heads = heads
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.loss_weights = (class_weight, mask_weight, dice_weight)
        self.score_threshold = score_threshold
        self.overlap_threshold = overlap_threshold
        self.mask_features = _MaskFeatures(channels, fine_channels)
        self.decoder = _decoder(layers, channels, heads, feedforward)
        self.query_features = nn.Embedding(queries, channels)
        self.query_positions = nn.Embedding(queries, channels)
        self.level_embeddings = nn.Embedding(MEMORIES, channels)
        self.classifier = nn.Linear(channels, len(categories) + 1)
        self.mask_embedding = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        weights = torch.ones(len(categories) + 1)
        weights[-1] = no_object_weight
        self.register_buffer("class_weights", weights, persistent=False)
        self.assigner = HungarianAssigner([
            {"type": "ClassificationCost", "weight": class_weight},
            {"type": "CrossEntropyLossCost", "weight": mask_weight, "use_sigmoid": True},
            {"type": "DiceCost", "weight": dice_weight, "pred_act": True, "eps": dice_epsilon},
        ])  # fmt: skip
        self.dice_loss = DiceLoss(use_sigmoid=True, activate=True, reduction="mean", naive_dice=True, eps=dice_epsilon)

    def forward(self, features: Features) -> list[Prediction]:
        """Predictions of the initial queries and after each decoder layer."""
        mask_features = self.mask_features(features.fine, features.maps[0])
        batch = len(mask_features)
        memories = [
            (m + e[:, None, None]).flatten(2).transpose(1, 2)
            for m, e in zip(features.maps[:MEMORIES], self.level_embeddings.weight, strict=True)
        ]
        positions = [p.flatten(2).transpose(1, 2) for p in features.positions[:MEMORIES]]
        queries = self.query_features.weight.expand(batch, -1, -1)
        query_positions = self.query_positions.weight.expand(batch, -1, -1)
        predictions = [self._predict(queries, mask_features)]
        for i, layer in enumerate(self.decoder.layers):
            level = MEMORIES - 1 - i % MEMORIES  # from coarse to fine
            queries = layer(
                query=queries,
                key=memories[level],
                value=memories[level],
                query_pos=query_positions,
                key_pos=positions[level],
                cross_attn_mask=self._attention_mask(predictions[-1][1], features.padding[level]),
            )
            predictions.append(self._predict(queries, mask_features))
        return predictions

    def _predict(self, queries: Tensor, mask_features: Tensor) -> Prediction:
        queries = self.decoder.post_norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embedding(queries), mask_features)
        return self.classifier(queries), masks

    def _attention_mask(self, mask_logits: Tensor, padding: Tensor) -> Tensor:
        """(B * heads, Q, h w) bool, True where a query must not look: outside its mask, and in the padding.

        A query with an empty mask looks everywhere but into the padding.
        """
        resized = F.interpolate(mask_logits.detach(), padding.shape[-2:], mode="bilinear", align_corners=False)
        padded = padding.flatten(1)[:, None]
        forbidden = (resized.flatten(2) < 0) | padded
        forbidden = torch.where(forbidden.all(-1, keepdim=True), padded, forbidden)
        return forbidden.repeat_interleave(self.heads, dim=0)

    def losses(
        self, features: Features, labels: list[PseudoLabels], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        predictions = self(features)
        targets = [mask_targets(label) for label in labels]
        with torch.autocast(features.maps[0].device.type, enabled=False):
            per_layer = [self._layer_losses(c.float(), m.float(), targets) for c, m in predictions]
        classification, cross_entropy, dice = (torch.stack(values).sum() for values in zip(*per_layer, strict=True))
        class_weight, mask_weight, dice_weight = self.loss_weights
        of_classes, of_masks = weights.get("classification", 1.0), weights.get("masks", 1.0)
        return {
            "classification/cross_entropy": classification * (class_weight * of_classes),
            "masks/cross_entropy": cross_entropy * (mask_weight * of_masks),
            "masks/dice": dice * (dice_weight * of_masks),
        }

    def _layer_losses(
        self, class_logits: Tensor, mask_logits: Tensor, targets: list[MaskTargets]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unweighted class, mask cross-entropy and Dice loss of one decoder layer."""
        matches = [self._match(c, m, t) for c, m, t in zip(class_logits, mask_logits, targets, strict=True)]
        classes = torch.full(class_logits.shape[:2], len(self.categories), device=class_logits.device)
        for row, target, (queries, matched) in zip(classes, targets, matches, strict=True):
            row[queries] = target.classes[matched]
        known = torch.cat([t.unignored.amax().expand(len(c)) for t, c in zip(targets, classes, strict=True)])
        factors = self.class_weights[classes.flatten()] * known  # a fully ignored image says nothing about "no object"
        per_query = F.cross_entropy(class_logits.flatten(0, 1), classes.flatten(), reduction="none")
        classification = (per_query * factors).sum() / factors.sum().clamp(min=1e-6)
        return (classification, *self._mask_losses(mask_logits, targets, matches))

    @torch.no_grad()
    def _match(self, class_logits: Tensor, mask_logits: Tensor, target: MaskTargets) -> tuple[Tensor, Tensor]:
        """Queries and the targets matched to them, two int64 index tensors of equal length, for one image."""
        if not len(target.classes):
            return 2 * (target.classes,)
        points = target.sample_points(self.num_points)[None]
        everyone = torch.arange(len(target.classes), device=points.device)
        # a diverged network gives NaN; the run has to end with a NaN loss, not with an error of the assignment
        scores, masks = torch.nan_to_num(class_logits), torch.nan_to_num(logits_at(mask_logits[None], points)[0])
        predicted = InstanceData(scores=scores, masks=masks)
        given = InstanceData(labels=target.classes, masks=target.at(points.expand(len(everyone), -1, -1), everyone))
        assigned = self.assigner.assign(predicted, given).gt_inds
        queries = assigned.nonzero()[:, 0]
        return queries, assigned[queries] - 1

    def _mask_losses(
        self, mask_logits: Tensor, targets: list[MaskTargets], matches: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Mask cross-entropy and Dice loss at importance-sampled points, per matched mask over all devices."""
        count = mask_logits.new_tensor(sum(len(queries) for queries, _ in matches))
        normaliser = mean_over_devices(count).clamp(min=1.0)
        logits, truth = [], []
        for masks, target, (queries, matched) in zip(mask_logits, targets, matches, strict=True):
            if len(queries):
                chosen = masks[queries][:, None]
                points = uncertain_points(chosen, target, self.num_points, self.oversample_ratio, self.importance_ratio)
                logits.append(logits_at(chosen, points)[:, 0])
                truth.append(target.at(points, matched))
        if not logits:
            nothing = mask_logits.sum() * 0.0  # keeps the graph, so that every device has the same gradients to reduce
            return nothing, nothing
        at_points, truth_at_points = torch.cat(logits), torch.cat(truth)
        cross_entropy = F.binary_cross_entropy_with_logits(at_points, truth_at_points, reduction="none").mean(1)
        return cross_entropy.sum() / normaliser, self.dice_loss(at_points, truth_at_points, avg_factor=normaliser)

    @torch.no_grad()
    def predict(
        self, features: Features, sizes: list[tuple[int, int]], output_sizes: list[tuple[int, int]]
    ) -> list[PanopticMap]:
        class_logits, mask_logits = self(features)[-1]
        return [
            self._merged(c, m, features.input_size, size, output_size)
            for c, m, size, output_size in zip(class_logits.float(), mask_logits.float(), sizes, output_sizes, strict=True)
        ]

    def _merged(
        self, class_logits: Tensor, mask_logits: Tensor,
        input_size: tuple[int, int], size: tuple[int, int], output_size: tuple[int, int],
    ) -> PanopticMap:  # fmt: skip
        """One image's map; only masks of kept queries are brought to full size."""
        scores, labels = class_logits.softmax(-1).max(-1)
        kept = (labels < len(self.categories)) & (scores > self.score_threshold)
        masks = F.interpolate(mask_logits[kept][:, None], input_size, mode="bilinear", align_corners=False)
        masks = masks[..., : size[0], : size[1]]
        masks = F.interpolate(masks, output_size, mode="bilinear", align_corners=False)[:, 0]
        return merge_masks(scores[kept], labels[kept], masks.sigmoid(), self.categories, self.overlap_threshold)


class _MaskFeatures(nn.Module):
    """The pixel decoder's last step: the encoder's map at 1/8, upsampled and added to the backbone's map at 1/4."""

    def __init__(self, channels: int, fine_channels: int):
        super().__init__()
        norm = group_norm(channels)
        self.lateral = ConvModule(fine_channels, channels, 1, norm_cfg=norm, act_cfg=None)
        self.output = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm)
        self.mask_feature = nn.Conv2d(channels, channels, 1)
        for convolution in (self.lateral.conv, self.output.conv, self.mask_feature):
            caffe2_xavier_init(convolution, bias=0)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, D, H/4, W/4) from ``fine`` (B, C2, H/4, W/4) and ``coarse`` (B, D, H/8, W/8)."""
        lateral = self.lateral(fine)
        upsampled = F.interpolate(coarse, lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_feature(self.output(lateral + upsampled))


def _decoder(layers: int, channels: int, heads: int, feedforward: int) -> Mask2FormerTransformerDecoder:
    """Layers of masked cross-attention, self-attention and feed-forward network; no dropout, as published."""
    attention = {"embed_dims": channels, "num_heads": heads, "batch_first": True}
    layer = {
        "self_attn_cfg": dict(attention),
        "cross_attn_cfg": dict(attention),
        "ffn_cfg": {"embed_dims": channels, "feedforward_channels": feedforward, "num_fcs": 2, "ffn_drop": 0.0},
    }
    decoder = Mask2FormerTransformerDecoder(layers, layer)
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
    return decoder
