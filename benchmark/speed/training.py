"""Training of one run, a step at a time, with the time of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from benchmark.build import build_model, points_of, supervision_of, training_dataset
from benchmark.data.sources import build_source
from benchmark.expand import expand
from benchmark.grid import Cell, load_grid
from benchmark.loading import training_loader
from benchmark.speed.harness import synchronise
from benchmark.train import Schedule
from benchmark.training_step import TrainingStep
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
    return iter(training_loader({**config, "workers": workers}, dataset, model, 0, ENDLESS, device))


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
        schedule = Schedule.of(config["schedule"], len(source.records))
        self.progress = schedule.progress(int(LATE * schedule.total_steps))
        self.take_step = TrainingStep(config, self.model, Fabric(accelerator=device.type, devices=1))
        self.model.stopwatch.exact = True
        self.batches = batches(config, self.model, 0, device)

    def step(self) -> dict[str, float]:
        """Take a training step late in the run.

        On a GPU the device is waited for around each stage, and the whole is that of a further step without waiting, in
        which stages may overlap.

        Returns:
            Seconds of each stage (``data``, ``forward``, ``pseudo_labels``, ``losses``, ``backward``, ``optimizer``), of the
            whole (``step``), and what no stage counts (``rest``).

        Raises:
            Diverged: a loss is not finite.
        """
        seconds = self._step(self.batches)
        if self.device.type == "cuda":
            self.model.stopwatch.exact = False
            seconds["step"] = self._step(self.batches)["step"]
            self.model.stopwatch.exact = True
        self.take_step.optimizer.zero_grad()  # many models wait for their turn: their gradients need not
        return seconds

    def warm_up(self, small: bool) -> None:
        """Take a step that compiles kernels and makes the optimiser's state; ``small``: on a small input."""
        if not small:
            self.step()
            return
        config = {**self.config, "input": {**self.config["input"], **SMALL}}
        self._step(batches(config, self.model, 0, self.device))
        self.take_step.optimizer.zero_grad()

    def _step(self, source: Iterator[PointBatch]) -> dict[str, float]:
        watch = self.model.stopwatch
        watch.seconds = {}
        synchronise(self.device)
        began = time.perf_counter()
        self.take_step(source, self.progress)
        synchronise(self.device)
        whole = time.perf_counter() - began
        return {**watch.seconds, "rest": whole - sum(watch.seconds.values()), "step": whole}
