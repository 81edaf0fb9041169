"""From config groups to modules: the encoder (``model`` group) and the panoptic head (``head`` group)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from methods.base.options import call_with_options
from methods.base.types import Categories

if TYPE_CHECKING:
    from methods.base.encoder import Encoder
    from methods.base.head import PanopticHead

HEADS: dict[str, str | None] = {
    "mask2former": "methods.base.mask2former.Mask2FormerHead",
    "panoptic_segformer": "methods.base.panoptic_segformer.PanopticSegFormerHead",
    "none": None,
}
"""Head name -> where its class is, imported when it is built; ``none`` trains a labeler alone."""


def build_encoder(config: Mapping[str, Any]) -> Encoder:
    """The encoder of a ``model`` config: ``backbone`` (see `build_backbone`) and the options of `Encoder`.

    ``name`` is for people, ``branch`` holds the widths of the labelers' branches, ``head`` what heads choose by the model;
    none of them is the encoder's.

    Raises:
        ValueError: unknown backbone, or an unknown option, naming the valid ones.
    """
    from methods.base.backbones import build_backbone
    from methods.base.encoder import Encoder

    options = {key: value for key, value in config.items() if key not in ("name", "branch", "head")}
    backbone = options.pop("backbone", None)
    if backbone is None:
        raise ValueError("The model config has no 'backbone'; give model.backbone.name at least.")
    return call_with_options(Encoder, options, "model", build_backbone(backbone))


def build_head(config: Mapping[str, Any], categories: Categories, encoder: Encoder) -> PanopticHead | None:
    """The head of a ``head`` config (``name`` and its options), or None for the name ``none``.

    Raises:
        ValueError: unknown name or option, naming the valid ones.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in HEADS:
        raise ValueError(f"Unknown head '{name}'; head.name is one of {', '.join(HEADS)}.")
    path = HEADS[name]
    if path is None:
        return call_with_options(lambda: None, options, f"head '{name}'")
    module, class_name = path.rsplit(".", 1)
    head = getattr(import_module(module), class_name)
    return call_with_options(head, options, f"head '{name}'", categories, encoder.channels, encoder.fine_channels)
