"""Training: a Lightning Fabric loop that knows `Model` and nothing of methods.

Every random draw is a function of (seed, step) or (seed, epoch, image): a resumed run repeats an unbroken one exactly on
a CPU with pinned threads, without any RNG state in the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark.candidates import candidate_steps, save_candidate
from benchmark.checkpoint import load_checkpoint, save_checkpoint, save_weights
from benchmark.optimizers import build_optimizer, decay_factor
from benchmark.runs import Diverged, Run
from benchmark.stopping import Preempted, preemption_asked, stop_if_asked
from methods.base.model import Model
from methods.base.types import PointBatch, PointSample, Progress, collate

SLOW_PARAMETERS = ("encoder.backbone.", "network.backbone.", "sampling_offsets", "reference_points")
"""Parameters that get ``backbone_lr_factor`` of the learning rate, as in Deformable DETR and Panoptic SegFormer."""


class Listener(Protocol):
    """Who follows a training (the progress bar)."""

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None: ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """The length of a run in optimiser steps; ``steps`` or ``epochs`` is given in the config, not both."""

    total_steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, config: Mapping[str, Any], images: int) -> Schedule:
        """From the ``schedule`` config and the number of training images; ValueError unless exactly one is given."""
        if not isinstance(config["batch_size"], int) or config["batch_size"] < 1:
            raise ValueError(f"schedule.batch_size must be a whole number from 1 on, it is {config['batch_size']}.")
        per_epoch = math.ceil(images / config["batch_size"])
        if (config["steps"] is None) == (config["epochs"] is None):
            raise ValueError("Give exactly one of schedule.steps and schedule.epochs and set the other to null.")
        return cls(config["steps"] if config["epochs"] is None else config["epochs"] * per_epoch, per_epoch)

    def progress(self, step: int) -> Progress:
        total_epochs = max(1, math.ceil(self.total_steps / self.steps_per_epoch))
        return Progress(step, self.total_steps, step // self.steps_per_epoch, total_epochs)


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, image index) keys for the steps ``start .. total``; each epoch is a fresh permutation.

    The last batch of an epoch is filled up with the first images of the same permutation, so that all have one size.
    Device ``rank`` of ``world`` takes its share of every batch.
    """

    def __init__(self, images: int, batch_size: int, seed: int, start: int, total: int, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise ValueError(f"schedule.batch_size={batch_size} cannot be shared by {world} devices; choose a multiple.")
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.start, self.total, self.rank, self.world = start, total, rank, world

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = math.ceil(self.images / self.batch_size)
        order, order_epoch = torch.empty(0), -1
        for step in range(self.start, self.total):
            epoch, within = divmod(step, per_epoch)
            if epoch != order_epoch:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order, order_epoch = torch.randperm(self.images, generator=generator), epoch
            index = torch.arange(within * self.batch_size, (within + 1) * self.batch_size) % self.images
            yield [(epoch, int(i)) for i in order[index][self.rank :: self.world]]


class EpochKeys(Dataset):
    """A view of a data set whose keys are (epoch, index), so that loader workers draw the epoch's augmentations."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        return self.dataset.item(index, epoch)


class Collation:
    """Puts samples into a batch and lets the model's preparation work on it: what a loader's worker does.

    Args:
        prepare: of `Model.preparation`.
    """

    def __init__(self, prepare: Callable[[PointBatch], Any] | None):
        self.prepare = prepare

    def __call__(self, samples: Sequence[PointSample]) -> PointBatch:
        batch = collate(samples)
        return batch if self.prepare is None else replace(batch, prepared=self.prepare(batch))


def parameter_groups(model: nn.Module, lr: float, backbone_lr_factor: float) -> list[dict[str, Any]]:
    """The optimiser's groups: the learning rate for all but `SLOW_PARAMETERS`, which get ``backbone_lr_factor`` of it."""
    slow, usual = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (slow if any(part in name for part in SLOW_PARAMETERS) else usual).append(parameter)
    groups = [{"params": usual, "lr": lr}, {"params": slow, "lr": lr * backbone_lr_factor}]
    return [group for group in groups if group["params"]]


def train(
    run: Run, config: Mapping[str, Any], model: Model, dataset: Dataset, fabric: Fabric, listener: Listener
) -> dict[str, Any]:
    """Train a model to the end of its schedule, going on from the run's last checkpoint.

    Writes ``metrics.jsonl``, checkpoints and finally ``weights.safetensors``.

    Returns:
        Seconds per stage summed over all steps, and ``steps``.

    Raises:
        Diverged: a loss is not finite; names the losses, the step and the images.
        Preempted: a signal announced the end; a checkpoint of this step is saved.
        Superseded: another process took the run over.
    """
    schedule = Schedule.of(config["schedule"], len(dataset))  # type: ignore[arg-type]
    settings = config["schedule"]
    model.to(fabric.device)  # before the optimiser: its restored state has to lie where the parameters lie
    groups = parameter_groups(model, settings["lr"], settings["backbone_lr_factor"])
    optimizer = build_optimizer(groups, settings)
    candidates = candidate_steps(config["evaluation"], schedule.total_steps)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    found = load_checkpoint(run.checkpoints, model, optimizer, fabric.device)
    start, seconds = (found[0], found[1]["seconds"]) if found else (0, {})
    model.stopwatch.seconds = dict(seconds)
    wrapped, optimizer = fabric.setup(model, optimizer)
    board = run.folder / "tensorboard" if config["tensorboard"] else None
    run.guard()
    log = MetricsLog(run.metrics_file, start, enabled=fabric.global_rank == 0, tensorboard=board)
    batches = iter(_loader(config, dataset, model, schedule, start, fabric))
    watch = model.stopwatch
    wrapped.train()
    for step in range(start, schedule.total_steps):
        if signal := _announced_anywhere(fabric):
            if step > start and fabric.global_rank == 0:
                _save(run, step, model, optimizer)
            raise Preempted(f"{signal} announced the end after step {step} of {schedule.total_steps}; it goes on from there")
        stop_if_asked(preemption=False)
        with watch("data"):
            batch = next(batches).to(fabric.device)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * decay_factor(settings, step / schedule.total_steps)
        torch.manual_seed((config["seed"] * 1_000_003 + step) * 1009 + fabric.global_rank)
        with mixed_precision(config["precision"], fabric.device):
            losses = _losses(wrapped, batch, schedule.progress(step))
        with watch("losses"):
            values = _finite(losses, step, batch.image_ids, fabric)
        with watch("backward"):
            optimizer.zero_grad()
            fabric.backward(torch.stack(list(losses.values())).sum())
        with watch("optimizer"):
            limit = math.inf if settings["clip_norm"] is None else settings["clip_norm"]
            norm = fabric.clip_gradients(wrapped, optimizer, max_norm=limit, error_if_nonfinite=False)
            if not torch.isfinite(norm):
                raise _diverged("The gradient", step, batch.image_ids)
            optimizer.step()
        done = step + 1
        if done % settings["log_every"] == 0 or done == schedule.total_steps:
            run.guard()
            log.write(done, values, optimizer.param_groups[0]["lr"])
        if done in candidates and fabric.global_rank == 0:
            save_candidate(run, done, model)
        listener.training(done, schedule.total_steps, values)
        if done % settings["checkpoint_every"] == 0 and done < schedule.total_steps and fabric.global_rank == 0:
            _save(run, done, model, optimizer)
    if fabric.global_rank == 0:
        save_weights(run.weights_file, model, run.guard)
    return {"steps": schedule.total_steps, **watch.seconds}


def _save(run: Run, step: int, model: Model, optimizer: Any) -> None:
    """A checkpoint after ``step`` steps; ``optimizer`` is Fabric's."""
    save_checkpoint(run.checkpoints, step, model, optimizer.optimizer, {"seconds": model.stopwatch.seconds}, run.guard)


def _announced_anywhere(fabric: Fabric) -> str | None:
    """The signal that announced the end of the process on some device, None if none did; the same answer on all devices."""
    here = preemption_asked()
    if fabric.world_size == 1:
        return here
    anywhere = fabric.all_reduce(torch.tensor(float(here is not None), device=fabric.device), reduce_op="sum")
    return (here or "a signal on another device") if anywhere else None


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


def _loader(
    config: Mapping[str, Any], dataset: Dataset, model: Model, schedule: Schedule, start: int, fabric: Fabric
) -> DataLoader:
    sampler = StepBatches(
        len(dataset),  # type: ignore[arg-type]
        config["schedule"]["batch_size"], config["seed"], start, schedule.total_steps, fabric.global_rank, fabric.world_size,
    )
    workers = config["workers"]
    return DataLoader(
        EpochKeys(dataset), batch_sampler=sampler, collate_fn=Collation(model.preparation()), num_workers=workers,
        persistent_workers=workers > 0, pin_memory=fabric.device.type == "cuda",
    )


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


class MetricsLog:
    """``metrics.jsonl``: one JSON line per logged step. Lines after the step that a run resumes from are dropped.

    Args:
        path: the file.
        start: step that the run resumes from.
        enabled: False on all devices but the first.
        tensorboard: folder for TensorBoard files of the same numbers, or None.
    """

    def __init__(self, path: Path, start: int, enabled: bool = True, tensorboard: Path | None = None):
        self.path, self.enabled = path, enabled
        self.board = _tensorboard(tensorboard, start) if enabled and tensorboard else None
        if enabled:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start]
            path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, step: int, losses: Mapping[str, float], lr: float) -> None:
        if self.enabled:
            line = {"step": step, "lr": lr, "loss": sum(losses.values()), **losses}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if self.board is not None:
                for name in line.keys() - {"step"}:
                    self.board.add_scalar(name, line[name], step)
                self.board.flush()


def _tensorboard(folder: Path, start: int):
    """A writer of TensorBoard files that hides what an interrupted run wrote after the step it resumes from."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModuleNotFoundError("tensorboard=true needs the package: pip install '.[tensorboard]'.") from None
    return SummaryWriter(str(folder), purge_step=start + 1)
