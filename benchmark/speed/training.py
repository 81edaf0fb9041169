"""Training of one run, a step at a time, with the time of each stage: what `benchmark.train` does in a step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmark.build import build_model, points_of, supervision_of, training_dataset
from benchmark.data.sources import build_source
from benchmark.expand import expand
from benchmark.grid import Cell, load_grid
from benchmark.optimizers import build_optimizer, decay_factor
from benchmark.speed.harness import synchronise
from benchmark.train import Collation, EpochKeys, Schedule, StepBatches, mixed_precision, parameter_groups
from methods.base.model import Model
from methods.base.types import PointBatch

GRID = "quickstart"
"""The grid whose methods are measured."""

LATE = 0.95
"""Share of the run at which steps are taken: every warm-up is over."""

ENDLESS = 10**9
SMALL = {"short": 64, "long": 128, "short_range": None}
"""Input of a step that only warms up."""


def cells(words: Sequence[str], results_dir: Path) -> list[Cell]:
    """The cells of the grid under some words; point labels are drawn into ``results_dir``."""
    return expand(load_grid(GRID), [*words, f"results_dir={results_dir}"], [0])


def model_of(config: Mapping[str, Any]) -> Model:
    """The freshly initialised model of a run."""
    torch.manual_seed(config["seed"])
    return build_model(config, build_source(config["dataset"], "train").categories)


def batches(config: Mapping[str, Any], model: Model, workers: int, device: torch.device) -> Iterator[PointBatch]:
    """Endless batches on the CPU as training loads them, with what the model has prepared in the loader.

    Args:
        config: of the run. model: its model.
        workers: data loading processes; 0 loads in this one.
        device: where batches will go.
    """
    source = build_source(config["dataset"], "train")
    dataset = training_dataset(config, points_of(config, "train"), supervision_of(config, source))
    sampler = StepBatches(len(dataset), config["schedule"]["batch_size"], config["seed"], 0, ENDLESS)
    return iter(DataLoader(
        EpochKeys(dataset), batch_sampler=sampler, collate_fn=Collation(model.preparation()), num_workers=workers,
        pin_memory=device.type == "cuda",
    ))  # fmt: skip


class Trainer:
    """A model with its optimiser and its data.

    Args:
        config: of the run.
        device: where it trains.

    Attributes:
        trainable: whether training would change anything; without it there are no steps.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device):
        self.config, self.device = config, device
        source = build_source(config["dataset"], "train")
        self.supervision = supervision_of(config, source)
        self.model = model_of(config).to(device)
        self.trainable = self.model.trainable
        if not self.trainable:
            return
        settings = config["schedule"]
        self.schedule = Schedule.of(settings, len(source.records))
        groups = parameter_groups(self.model, settings["lr"], settings["backbone_lr_factor"])
        for group in groups:
            group["lr"] *= decay_factor(settings, LATE)
        self.optimizer = build_optimizer(groups, settings)
        self.model.stopwatch.exact = True
        self.model.train()
        self.batches = batches(config, self.model, 0, device)
        self.steps = 0

    def step(self) -> dict[str, float]:
        """Take a training step late in the run.

        On a GPU the device is waited for around each stage, and the whole is that of a further step without waiting, in
        which stages may overlap.

        Returns:
            Seconds of each stage (``data``, ``forward``, ``pseudo_labels``, ``losses``, ``backward``, ``optimizer``), of the
            whole (``step``), and what no stage counts (``rest``).

        Raises:
            FloatingPointError: a loss is not finite.
        """
        seconds = self._step(self.batches)
        if self.device.type == "cuda":
            self.model.stopwatch.exact = False
            seconds["step"] = self._step(self.batches)["step"]
            self.model.stopwatch.exact = True
        self.optimizer.zero_grad()  # many models wait for their turn: their gradients need not
        return seconds

    def warm_up(self, small: bool) -> None:
        """Take a step that compiles kernels and makes the optimiser's state; ``small``: on a small input."""
        if not small:
            self.step()
            return
        config = {**self.config, "input": {**self.config["input"], **SMALL}}
        self._step(batches(config, self.model, 0, self.device))
        self.optimizer.zero_grad()

    def _step(self, source: Iterator[PointBatch]) -> dict[str, float]:
        watch, settings = self.model.stopwatch, self.config["schedule"]
        watch.seconds = {}
        synchronise(self.device)
        began = time.perf_counter()
        with watch("data"):
            batch = next(source).to(self.device)
        torch.manual_seed(self.steps)
        self.steps += 1
        progress = self.schedule.progress(int(LATE * self.schedule.total_steps))
        with mixed_precision(self.config["precision"], self.device):
            losses = {name: loss.float() for name, loss in self.model(batch, progress).items()}
        with watch("losses"):
            values = torch.stack([loss.detach() for loss in losses.values()])
            if not bool(values.isfinite().all()):
                raise FloatingPointError("a loss is not finite")
        with watch("backward"):
            self.optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
        with watch("optimizer"):
            if settings["clip_norm"] is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), settings["clip_norm"])
            self.optimizer.step()
        synchronise(self.device)
        whole = time.perf_counter() - began
        return {**watch.seconds, "rest": whole - sum(watch.seconds.values()), "step": whole}
