"""One step of training: losses of a batch, their gradient, the optimiser. Knows `Model` and nothing of methods.

Every random draw of a step is a function of (seed, step): a resumed run repeats an unbroken one exactly on a CPU with pinned
threads, without any RNG state in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmark.optimizers import build_optimizer, decay_factor
from benchmark.runs import Diverged
from methods.base.model import Model
from methods.base.types import PointBatch, Progress

SLOW_PARAMETERS = ("encoder.backbone.", "network.backbone.", "sampling_offsets", "reference_points")
"""Parameters that get ``backbone_lr_factor`` of the learning rate, as in Deformable DETR and Panoptic SegFormer."""


def parameter_groups(model: nn.Module, lr: float, backbone_lr_factor: float) -> list[dict[str, Any]]:
    """The optimiser's groups: the learning rate for all but `SLOW_PARAMETERS`, which get ``backbone_lr_factor`` of it."""
    slow, usual = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (slow if any(part in name for part in SLOW_PARAMETERS) else usual).append(parameter)
    groups = [{"params": usual, "lr": lr}, {"params": slow, "lr": lr * backbone_lr_factor}]
    return [group for group in groups if group["params"]]


def mixed_precision(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a training step: bfloat16 autocast (which needs no loss scaling), or none.

    Fabric's own mixed precision copies every input and refuses frozen dataclasses, so it is not used.

    Args:
        precision: ``bf16``, ``32`` or ``auto`` (bf16 on a GPU that has it).
        device: of the run.
    """
    if precision not in ("auto", "bf16", "32"):
        raise ValueError(f"precision={precision} is not known; it is one of auto, bf16, 32.")
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bf16" or (precision == "auto" and capable):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


class TrainingStep:
    """One optimiser step of a model, in the stages that its stopwatch counts.

    Args:
        config: of the run.
        model: on the device.
        fabric: of this process.

    Attributes:
        model: as given; its stopwatch has the seconds of each stage.
        optimizer: of all parameters that are trained, as it is saved; restore its state before the first step.
    """

    def __init__(self, config: Mapping[str, Any], model: Model, fabric: Fabric):
        self.config, self.model, self.fabric = config, model, fabric
        settings = config["schedule"]
        groups = parameter_groups(model, settings["lr"], settings["backbone_lr_factor"])
        self.optimizer = build_optimizer(groups, settings)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._wrapped: tuple[Any, Any] | None = None

    def __call__(self, batches: Iterator[PointBatch], progress: Progress) -> dict[str, float]:
        """Take a batch and a step.

        Args:
            batches: on the CPU, those of this device.
            progress: of the run; learning rates and the random draws of the step depend on it.

        Returns:
            The losses.

        Raises:
            Diverged: a loss or the gradient is not finite; names it, the step and the images.
        """
        model, optimizer = self._set_up()
        settings, fabric, watch = self.config["schedule"], self.fabric, self.model.stopwatch
        with watch("data"):
            batch = next(batches).to(fabric.device)
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * decay_factor(settings, progress.step / progress.total_steps)
        torch.manual_seed((self.config["seed"] * 1_000_003 + progress.step) * 1009 + fabric.global_rank)
        with mixed_precision(self.config["precision"], fabric.device):
            losses = _losses(model, batch, progress)
        with watch("losses"):
            values = _finite(losses, progress.step, batch.image_ids, fabric)
        with watch("backward"):
            optimizer.zero_grad()
            fabric.backward(torch.stack(list(losses.values())).sum())
        with watch("optimizer"):
            limit = math.inf if settings["clip_norm"] is None else settings["clip_norm"]
            norm = fabric.clip_gradients(model, optimizer, max_norm=limit, error_if_nonfinite=False)
            if not torch.isfinite(norm):
                raise _diverged("The gradient", progress.step, batch.image_ids)
            optimizer.step()
        return values

    def _set_up(self) -> tuple[Any, Any]:
        """Model and optimiser as Fabric wraps them; not before the first step, after states were restored."""
        if self._wrapped is None:
            self._wrapped = self.fabric.setup(self.model, self.optimizer)
            self._wrapped[0].train()
        return self._wrapped


def _losses(model: nn.Module, batch: PointBatch, progress: Progress) -> dict[str, Tensor]:
    try:
        return {name: loss.float() for name, loss in model(batch, progress).items()}
    except FloatingPointError as error:
        raise _diverged(str(error).removesuffix(" is not finite"), progress.step, batch.image_ids) from None


def _diverged(what: str, step: int, image_ids: list) -> Diverged:
    return Diverged(
        f"{what} is not finite at step {step} (images {', '.join(map(str, image_ids))}); "
        "lower schedule.lr or look at these images and their points."
    )


def _finite(losses: Mapping[str, Tensor], step: int, image_ids: list, fabric: Fabric) -> dict[str, float]:
    """The losses as numbers; Diverged on every device if one of them is not finite on some device."""
    together = torch.stack([loss.detach() for loss in losses.values()])  # one transfer from the device
    values = dict(zip(losses, together.tolist(), strict=True))
    broken = sorted(name for name, value in values.items() if not math.isfinite(value))
    anywhere = bool(broken)
    if fabric.world_size > 1:
        anywhere = bool(fabric.all_reduce(torch.tensor(float(anywhere), device=fabric.device), reduce_op="sum"))
    if anywhere:
        raise _diverged(f"Loss {', '.join(broken) or 'of another device'}", step, image_ids)
    return values
