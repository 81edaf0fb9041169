"""Photometric augmentation of the AGMM released code for VOC. Random choices are apart from their application."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import methods.base  # noqa: F401 makes torchvision work beside a torch without its operators

SHIFT = 10 / 255
BLUR_REACH = 4.0
"""Standard deviations that the blur's kernel spans to each side; what lies farther out weighs less than 1e-3."""


@dataclass(frozen=True, slots=True)
class Photometric:
    """Drawn changes of one image's colours, applied in this order; None leaves one out.

    Attributes:
        jitter: factors of brightness, contrast and saturation in [0.5, 1.5], and a shift of the hue in [-0.25, 0.25] turns.
        gray: lose the colour.
        sigma: of a Gaussian blur, in pixels.
        shift: added to all values, in [-10, 10] / 255.
    """

    jitter: tuple[float, float, float, float] | None = None
    gray: bool = False
    sigma: float | None = None
    shift: float | None = None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Photometric:
        """Colour jitter (0.5, 0.5, 0.5, 0.25) with probability 1/2, gray 1/10, blur with σ in [0.1, 2] 1/2, shift 1/2."""
        chance, jitter = rng.random(4), (*rng.uniform(0.5, 1.5, 3).tolist(), float(rng.uniform(-0.25, 0.25)))
        sigma, shift = float(rng.uniform(0.1, 2.0)), float(rng.uniform(-SHIFT, SHIFT))
        return cls(
            jitter if chance[0] < 0.5 else None, bool(chance[1] < 0.1), sigma if chance[2] < 0.5 else None,
            shift if chance[3] < 0.5 else None,
        )

    def __call__(self, image: Tensor) -> Tensor:
        """(3, h, w) float32 RGB in [0, 1] of an image of the same form."""
        from torchvision.transforms.v2 import functional

        if self.jitter is not None:
            brightness, contrast, saturation, hue = self.jitter
            image = functional.adjust_brightness(image, brightness)
            image = functional.adjust_contrast(image, contrast)
            image = functional.adjust_saturation(image, saturation)
            image = functional.adjust_hue(image, hue)
        if self.gray:
            image = functional.rgb_to_grayscale(image, num_output_channels=3)
        if self.sigma is not None:
            image = _blurred(image, self.sigma)
        return image if self.shift is None else (image + self.shift).clamp(0, 1)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; the kernel fits into the image, which the reflection at its border needs."""
    from torchvision.transforms.v2 import functional

    reach = min(int(np.ceil(BLUR_REACH * sigma)), min(image.shape[-2:]) - 1)
    return functional.gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2) if reach else torch.clone(image)
