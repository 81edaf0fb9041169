"""Colour affinity: CIELAB, pairs of similar neighbours, and the pairwise loss that asks them for the same class.

PSPS's colour prior, the multi-class form of BoxInst's pairwise loss; FDD Eq. 4-5 writes the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops.disagreement import disagreement, shifted_pair

# rows: X, Y, Z of linear sRGB; white point D65
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


def rgb_to_lab(image: Tensor) -> Tensor:
    """CIELAB (D65) of sRGB colours; equals ``skimage.color.rgb2lab``.

    Args:
        image: (..., 3, h, w) float RGB, clipped to [0, 1].

    Returns:
        (..., 3, h, w) float32: L in [0, 100], a and b about [-108, 99]. No gradient.
    """
    with torch.no_grad():
        rgb = image.detach().float().clamp(0, 1)
        linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        matrix = torch.tensor(_XYZ, device=rgb.device) / torch.tensor(_WHITE, device=rgb.device)[:, None]
        # products and sums of its own: a matrix product may run in TF32
        xyz = (linear.unsqueeze(-4) * matrix[:, :, None, None]).sum(dim=-3)
        f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-12) ** (1 / 3), 7.787 * xyz + 16 / 116)
        x, y, z = f.unbind(dim=-3)
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lab_at(images: Tensor, padding: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Colours of a batch at a coarser grid, and which cells have one.

    Args:
        images: (B, 3, H, W) float RGB in [0, 1].
        padding: (B, H, W) bool, True where padded.
        grid: (h, w).

    Returns:
        (B, 3, h, w) float32 CIELAB of the bilinearly resized images, and (B, h, w) bool, False where the resize read a
        padded pixel.
    """
    resized = F.interpolate(images.float(), size=grid, mode="bilinear", align_corners=False)
    padded = F.interpolate(padding[:, None].float(), size=grid, mode="bilinear", align_corners=False)[:, 0]
    return rgb_to_lab(resized), padded == 0


@dataclass(frozen=True, slots=True)
class ColorPairs:
    """Pairs of neighbouring cells of similar colour.

    Attributes:
        offsets: half of the neighbourhood as (rows down, columns right); the other half are the same pairs reversed.
        used: (offsets, B, h, w) bool at the first cell of a pair; False where the second one is outside of the map.
        count: (B,) float32, number of used pairs in both directions, out-of-image ones included.
    """

    offsets: list[tuple[int, int]]
    used: Tensor
    count: Tensor

    def to(self, device: torch.device | str) -> ColorPairs:
        """The same pairs on a device."""
        used, count = (values.to(device, non_blocking=True) for values in (self.used, self.count))
        return ColorPairs(self.offsets, used, count)

    def pin_memory(self) -> ColorPairs:
        """A copy in page-locked memory."""
        return ColorPairs(self.offsets, self.used.pin_memory(), self.count.pin_memory())


def similar_pairs(
    lab: Tensor, valid: Tensor, kernel: int = 5, dilation: int = 2, threshold: float = 0.3, mask_border: bool = True,
    falloff: float = 0.5,
) -> ColorPairs:
    """The pairs (i, j) with ``exp(-falloff |Lab_i - Lab_j|) >= threshold`` (FDD Eq. 5; PSPS).

    Args:
        lab: (B, 3, h, w) float32.
        valid: (B, h, w) bool; pairs with an invalid end are not used.
        kernel: side of the neighbourhood in cells, odd: 3 = 8 neighbours, 5 = 24.
        dilation: spacing of the neighbours in cells.
        threshold: smallest similarity of a pair, in (0, 1].
        mask_border: True counts pairs inside the image only. False is the released code: a neighbour outside the image has
            colour (0, 0, 0) and agrees with everything, so that nearly black cells at the border dilute the loss.
        falloff: how fast similarity falls with the distance of two colours, positive.

    Raises:
        ValueError: ``kernel`` is even or below 3.
    """
    if kernel < 3 or kernel % 2 == 0:
        raise ValueError(f"The colour kernel must be an odd number of at least 3 cells, got {kernel}.")
    reach = [dilation * step for step in range(-(kernel // 2), kernel // 2 + 1)]
    offsets = [(down, right) for down in reach for right in reach if (down, right) > (0, 0)]
    used = valid.new_zeros(len(offsets), *valid.shape)
    for pairs, offset in zip(used, offsets, strict=True):
        (lab_i, lab_j), (valid_i, valid_j) = shifted_pair(lab, offset), shifted_pair(valid, offset)
        # the square root of a sum: Tensor.norm over this axis takes forty times as long on a CPU
        similarity = torch.exp(-falloff * (lab_i - lab_j).square().sum(dim=1).sqrt())
        shifted_pair(pairs, offset)[0].copy_((similarity >= threshold) & valid_i & valid_j)
    count = 2 * used.sum(dim=(0, 2, 3))
    if not mask_border:
        black = (torch.exp(-falloff * lab.square().sum(dim=1).sqrt()) >= threshold) & valid
        ends = sum((v.sum(dim=(1, 2)) for v in _inside_ends(black, valid, offsets)), torch.zeros_like(count))
        count = count + 2 * len(offsets) * black.sum(dim=(1, 2)) - ends
    return ColorPairs(offsets, used, count.float())


def _inside_ends(black: Tensor, valid: Tensor, offsets: list[tuple[int, int]]):
    """For each pair direction, the black cells whose neighbour is inside the image (not outside, so not diluting)."""
    for offset in offsets:
        (black_i, black_j), (valid_i, valid_j) = shifted_pair(black, offset), shifted_pair(valid, offset)
        yield black_i & valid_j
        yield black_j & valid_i


def pairwise_color_loss(logits: Tensor, pairs: ColorPairs) -> Tensor:
    """``-log(p_i . p_j)`` averaged over the used pairs of an image, then over the images (PSPS; FDD Eq. 4).

    Args:
        logits: (B, K, h, w) float class logits.
        pairs: of the same maps.

    Returns:
        Scalar, differentiable in ``logits``; 0 for images without a pair (at least one pair is divided by).
    """
    log_probs = F.log_softmax(logits.float(), dim=1)
    total = 2 * disagreement(log_probs, pairs.offsets, pairs.used)
    return (total / pairs.count.clamp(min=1)).mean()
