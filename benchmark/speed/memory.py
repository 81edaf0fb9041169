"""Section ``memory``: the memory of a process over many training steps.

``python -m benchmark.speed.memory DEVICE THREADS STEPS`` takes the steps, in a process of its own: memory that something
else has freed before would hide what leaks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.provenance import ROOT
from benchmark.speed.commands import last_line
from benchmark.speed.harness import Settings, pinned
from benchmark.speed.rows import MEASUREMENTS, Table, error_row, measurement_row
from benchmark.speed.targets import MEMORY_SLOPE
from benchmark.speed.training import Trainer, cells

STEPS, QUICK_STEPS = 2000, 400
SETTLED = 0.25
"""Share of the steps before which growth is not counted: caches fill, the heap finds its size."""
EVERY = 10
SIDE, THREADS = 64, 1  # so small that more threads only wait for each other
WORDS = (
    "scale=demo", f"input.short={SIDE}", f"input.long={SIDE}", "schedule.batch_size=2", "dataset.train.count=64",
    "dataset.stuff_only=0", f"dataset.size={SIDE}",
)  # fmt: skip
STATM = Path("/proc/self/statm")
MEGABYTE = 1e6


def measure(settings: Settings, _: Any) -> Iterator[Table]:
    """The slope of memory over steps."""
    steps = QUICK_STEPS if settings.quick else STEPS
    table = Table(
        f"Over {steps:,} training steps", MEASUREMENTS,
        f"All methods of the grid take turns, with their heads, on scenes of {SIDE} px; a line through the samples after "
        f"the first {100 * SETTLED:.0f} % of the steps, every {EVERY}th step a sample.",
    )
    if not STATM.exists():
        table.rows.append(error_row("resident memory", "this system does not tell it in /proc/self/statm"))
        yield table
        return
    settings.tell(f"memory over {steps} steps")
    command = [sys.executable, "-m", "benchmark.speed.memory", settings.device.type, str(THREADS), str(steps)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        table.rows.append(error_row("resident memory", last_line(done.stderr)))
        yield table
        return
    target = None if settings.quick else MEMORY_SLOPE  # in few steps the heap still finds its size
    for what, samples in json.loads(done.stdout.splitlines()[-1]).items():
        table.rows.append(measurement_row(
            what, slope(samples), "MB per 1,000 steps", target,
            f"{samples[0][1]:.0f} MB at first, {samples[-1][1]:.0f} MB at last", samples=samples,
        ))  # fmt: skip
    yield table


def slope(samples: Sequence[tuple[int, float]]) -> float:
    """MB per 1,000 steps of the least-squares line through (step, MB) samples that come after the settling."""
    last = samples[-1][0]
    settled = [sample for sample in samples if sample[0] >= SETTLED * last]
    return float(1000 * np.polyfit(*np.array(settled, dtype=float).T, deg=1)[0])


def resident() -> float:
    """Megabytes of physical memory that this process has, on Linux."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / MEGABYTE


def take_steps(device: torch.device, steps: int) -> dict[str, list[tuple[int, float]]]:
    """Samples (step, MB) of resident memory and, on a GPU, of what tensors have there; methods take turns."""
    found: dict[str, list[tuple[int, float]]] = {"resident memory": []}
    if device.type == "cuda":
        found["memory of tensors on the GPU"] = []
    with tempfile.TemporaryDirectory() as folder:
        trainers = [Trainer(cell.config, device) for cell in cells(WORDS, Path(folder))]
        trainers = [trainer for trainer in trainers if trainer.trainable]
        for step in range(1, steps + 1):
            trainers[step % len(trainers)].step()
            if step % EVERY == 0:
                found["resident memory"].append((step, resident()))
                if device.type == "cuda":
                    found["memory of tensors on the GPU"].append((step, torch.cuda.memory_allocated(device) / MEGABYTE))
    return found


def main(arguments: Sequence[str]) -> int:
    """Take the steps and print the samples as the last line."""
    device, threads, steps = arguments
    with pinned(int(threads)):
        print(json.dumps(take_steps(torch.device(device), int(steps))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
