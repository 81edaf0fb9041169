"""Training batches: which images a step takes, how they are put together, and the loader.

The images of a step and their random transforms are functions of (seed, epoch, image), however many workers load them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from methods.base.model import Model
from methods.base.types import PointBatch, PointSample, collate


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


def training_loader(
    config: Mapping[str, Any], dataset: Dataset, model: Model, start: int, total: int, device: torch.device,
    rank: int = 0, world: int = 1,
) -> DataLoader:
    """The batches of the steps ``start .. total``, with what the model prepares from images and points alone.

    Args:
        config: of the run.
        dataset: with ``item(index, epoch)``.
        model: whose preparation runs where batches are loaded.
        start, total: steps.
        device: where batches will go; for a GPU they are loaded into pinned memory.
        rank, world: see `StepBatches`.
    """
    size, workers = config["schedule"]["batch_size"], config["workers"]
    sampler = StepBatches(len(dataset), size, config["seed"], start, total, rank, world)  # type: ignore[arg-type]
    return DataLoader(
        EpochKeys(dataset), batch_sampler=sampler, collate_fn=Collation(model.preparation()), num_workers=workers,
        persistent_workers=workers > 0, pin_memory=device.type == "cuda",
    )
