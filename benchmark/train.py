"""The length of a training, and its loop: steps, checkpoints, logs, signals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch.utils.data import Dataset

from benchmark.candidates import candidate_steps, save_candidate
from benchmark.checkpoint import load_checkpoint, save_checkpoint, save_weights
from benchmark.loading import training_loader
from benchmark.runs import Run
from benchmark.stopping import Preempted, preemption_asked, stop_if_asked
from benchmark.training_step import TrainingStep
from methods.base.model import Model
from methods.base.types import Progress


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
    settings, total, first = config["schedule"], schedule.total_steps, fabric.global_rank == 0
    model.to(fabric.device)  # before the optimiser: its restored state has to lie where the parameters lie
    take_step = TrainingStep(config, model, fabric)
    candidates = candidate_steps(config["evaluation"], total)
    found = load_checkpoint(run.checkpoints, model, take_step.optimizer, fabric.device)
    start, seconds = (found[0], found[1]["seconds"]) if found else (0, {})
    model.stopwatch.seconds = dict(seconds)

    def save(step: int) -> None:
        state = {"seconds": model.stopwatch.seconds}
        save_checkpoint(run.checkpoints, step, model, take_step.optimizer, state, run.guard)

    board = run.folder / "tensorboard" if config["tensorboard"] else None
    run.guard()
    log = MetricsLog(run.metrics_file, start, enabled=first, tensorboard=board)
    loader = training_loader(config, dataset, model, start, total, fabric.device, fabric.global_rank, fabric.world_size)
    batches = iter(loader)
    for step in range(start, total):
        if signal := _announced_anywhere(fabric):
            if step > start and first:
                save(step)
            raise Preempted(f"{signal} announced the end after step {step} of {total}; it goes on from there")
        stop_if_asked(preemption=False)
        losses = take_step(batches, schedule.progress(step))
        done = step + 1
        if done % settings["log_every"] == 0 or done == total:
            run.guard()
            log.write(done, losses, take_step.optimizer.param_groups[0]["lr"])
        if done in candidates and first:
            save_candidate(run, done, model)
        listener.training(done, total, losses)
        if done % settings["checkpoint_every"] == 0 and done < total and first:
            save(done)
    if first:
        save_weights(run.weights_file, model, run.guard)
    return {"steps": total, **model.stopwatch.seconds}


def _announced_anywhere(fabric: Fabric) -> str | None:
    """The signal that announced the end of the process on some device, None if none did; the same answer on all devices."""
    here = preemption_asked()
    if fabric.world_size == 1:
        return here
    anywhere = fabric.all_reduce(torch.tensor(float(here is not None), device=fabric.device), reduce_op="sum")
    return (here or "a signal on another device") if anywhere else None


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
