"""The model of a semantic run from its config: network, losses, and how class maps are made at test time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from methods import build_labeler
from methods.base.deeplab import build_deeplab
from methods.base.inference import Inference
from methods.base.options import call_with_options
from methods.base.semantic_model import SemanticModel
from methods.base.types import Categories


def build_semantic_model(config: Mapping[str, Any], categories: Categories, options: Mapping[str, Any]) -> SemanticModel:
    """The semantic model of a run.

    Args:
        config: resolved run config.
        categories: of the data set.
        options: of the method.

    Raises:
        ValueError: the config has a panoptic head or a panoptic network, or an option that does not exist.
    """
    name = config["method"]["name"]
    if config["head"]["name"] != "none":
        raise ValueError(f"Method '{name}' predicts classes and has no panoptic head: set head=none.")
    network = build_deeplab(config["model"], len(categories))
    if config["devices"] > 1 and torch.cuda.is_available():  # statistics over all devices, as published
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    method = build_labeler(name, categories, network.channels, options)
    evaluation = config["evaluation"]
    window = evaluation["window"] or {}
    usual = call_with_options(Inference, window, "config evaluation.window")
    averaging = evaluation["multi_scale"]
    further = {} if averaging is None else {
        "multi_scale": call_with_options(Inference, {**window, **averaging}, "config evaluation.multi_scale")
    }  # fmt: skip
    return SemanticModel(categories, network, method, usual, further)
