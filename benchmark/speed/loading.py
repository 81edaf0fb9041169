"""Section ``loading``: images per second of the data pipeline at paper scale, and how many a GPU wants."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark.speed.harness import Settings
from benchmark.speed.inputs import write_photographs
from benchmark.speed.record import Record
from benchmark.speed.rows import MEASUREMENTS, Table, measurement_row, summary
from benchmark.speed.steps import DATA, PAPER
from benchmark.speed.targets import Target
from benchmark.speed.training import batches, cells, model_of
from methods.base.model import Model

WORKERS = (0, 2)
IMAGES = 16
BATCH = 2
ASSUMED_WANTED = 16.0
"""Images of 600 x 800 that a GPU is taken to train on in a second where its steps were not measured."""


def measure(settings: Settings, record: Record) -> Iterator[Table]:
    """Images per second for every method: what a method has prepared in the loader is part of it."""
    wanted, source = wanted_images(record)
    table = Table(
        "Images per second at 600 x 800", MEASUREMENTS,
        f"JPEG files of 500 x 375 with one point per target, in batches of {BATCH} as training loads them. A GPU wants "
        f"{wanted:.3g} images a second ({source}); the target is per machine, and is judged with the most workers measured.",
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photographs(root / "data", PAPER.size, IMAGES)
        for cell in cells([*DATA, f"dataset.root={root / 'data'}", *PAPER.words], root / "results"):
            if cell.config["head"]["name"] == "none":
                continue  # evaluation only: nothing is trained
            label, model = cell.config["method"]["label"], model_of(cell.config)
            for workers in WORKERS:
                settings.tell(f"loading for {label}, {workers} workers")
                rates = images_per_second(cell.config, model, workers, 0.1 if settings.quick else 2.0, settings.device)
                target = Target(wanted, at_least=True, unit="images/s") if workers == max(WORKERS) else None
                table.rows.append(measurement_row(
                    f"{label}, {workers} workers", rates["median"], "images/s", target, rates=rates
                ))  # fmt: skip
    yield table


def images_per_second(
    config: Mapping[str, Any], model: Model, workers: int, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Summary of the rates of chunks of batches. With workers, what they have prepared at the start is not counted."""
    source = batches({**config, "schedule": {**config["schedule"], "batch_size": BATCH}}, model, workers, device)
    for _ in range(1 + 3 * workers):  # two batches for each worker wait in a queue
        next(source)
    chunk, rates, began = max(1, 2 * workers), [], time.perf_counter()
    while not rates or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for _ in range(chunk):
            next(source)
        rates.append(BATCH * chunk / (time.perf_counter() - start))
    return summary(rates)


def wanted_images(record: Record) -> tuple[float, str]:
    """Images per second of the fastest step measured on a GPU at paper scale, without loading, and where that is from."""
    steps = record.read()["sections"].get("steps", {"tables": []})
    rows = [row for table in steps["tables"] if table["title"] == PAPER.title for row in table["rows"] if "error" not in row]
    if record.device != "cuda" or not rows:
        return ASSUMED_WANTED, "assumed: no GPU was measured"
    fastest = min(rows, key=lambda row: row["step_without_data"]["median"])
    return BATCH / fastest["step_without_data"]["median"], f"the step of {fastest['case']}, measured here"
