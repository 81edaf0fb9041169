"""Runs that take about a second: words of a command line, a listener that interrupts, and a folder of tiny photographs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from benchmark.configs import compose_run
from benchmark.data.coco import write_panoptic
from benchmark.data.images import ImageRecord
from benchmark.data.scenes import Scenes
from benchmark.runs import Run

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64
STEPS = 10

SHORT = (
    f"input.short={SIDE}", f"input.long={SIDE}", f"schedule.steps={STEPS}", "schedule.batch_size=2", "schedule.log_every=1",
    "schedule.checkpoint_every=3", "evaluation.label_images=2", "evaluation.gallery_images=1", "threads=1", "jobs=1",
    "device=cpu",
)
"""Ten steps of two small images; holds for any data set."""

SCENES = ("dataset.train.count=6", "dataset.val.count=2", f"dataset.size={SIDE}", "dataset.stuff_only=0")
"""Few small synthetic scenes, each with an object."""


class Interrupted:
    """A listener that notes what it is told and raises KeyboardInterrupt after a training step or during evaluation."""

    def __init__(self, after_step: int | None = None, in_evaluation: bool = False):
        self.after_step, self.in_evaluation = after_step, in_evaluation
        self.steps: list[int] = []

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        self.steps.append(step)
        if step == self.after_step:
            raise KeyboardInterrupt

    def evaluating(self, what: str, done: int, total: int) -> None:
        if self.in_evaluation:
            raise KeyboardInterrupt


def tiny_config(results_dir: Path, *words: str) -> dict[str, Any]:
    """The resolved config of a short run on scenes; later words win."""
    return compose_run(["scale=demo", *SHORT, *SCENES, f"results_dir={results_dir}", *words])


def grid_words(results_dir: Path, *words: str, grid: str = "quickstart") -> list[str]:
    """A command line for short runs of a grid on scenes; later words win."""
    return [f"grid={grid}", *SHORT, *SCENES, f"results_dir={results_dir}", *words]


def runs_in(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Records by run id."""
    return {path.parent.name: json.loads(path.read_text()) for path in (results_dir / "runs").glob("*/run.json")}


def only_run(results_dir: Path) -> Run:
    """The single run of a results folder."""
    (run_id,) = runs_in(results_dir)
    return Run(results_dir, run_id)


def assert_same_outcome(run: Run, other: Run) -> None:
    """Bitwise equal weights, equal logs of the training and equal metrics."""
    weights, others = load_file(run.weights_file), load_file(other.weights_file)
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    assert run.metrics_file.read_text() == other.metrics_file.read_text()
    assert run.read()["metrics"] == other.read()["metrics"]


def command(words: list[str]) -> list[str]:
    """The runner in a process of its own."""
    return [sys.executable, "-m", "benchmark.run", *words]


def environment(**changes: str) -> dict[str, str]:
    """Of a subprocess: one quiet thread, a wide terminal, and no trace of a distributed run around it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "PYTHONPATH")}
    return {**kept, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "400", **changes}


def write_photographs(root: Path, train: int = 4, val: int = 2) -> None:
    """A data set folder in COCO panoptic format with JPEG images."""
    for split, count in (("train", train), ("val", val)):
        scenes = Scenes(count, 3, split, size=SIDE, stuff_only=0.0)
        folder = root / split
        folder.mkdir(parents=True)
        items = []
        for number, scene in enumerate(scenes.records):
            record = ImageRecord(100 + number, f"{split}_{number}.jpg", SIDE, SIDE)
            Image.fromarray(scenes.read_image(scene)).save(folder / record.file_name, quality=95)
            items.append((record, scenes.read_annotation(scene)))
        write_panoptic(root / f"panoptic_{split}.json", root / f"panoptic_{split}", scenes.categories, items)


def photograph_words(root: Path, results_dir: Path, *words: str) -> list[str]:
    """A command line for short runs of ``quickstart`` on a folder of `write_photographs`."""
    folder = ["dataset=coco_panoptic", f"dataset.root={root}", "dataset.name=tiny"]
    return ["grid=quickstart", *SHORT, *folder, f"results_dir={results_dir}", *words]


_OPENED: list[Path] | None = None


def _note_opened(event: str, arguments: tuple) -> None:
    if _OPENED is not None and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        _OPENED.append(Path(os.fsdecode(arguments[0])))


@contextlib.contextmanager
def opened_files() -> Iterator[list[Path]]:
    """The files that this process opens meanwhile, in order: seen by the interpreter, whoever opens them and however."""
    global _OPENED
    if not getattr(_note_opened, "installed", False):
        sys.addaudithook(_note_opened)  # can't be removed again, so it is installed once
        _note_opened.installed = True
    _OPENED = []
    try:
        yield _OPENED
    finally:
        _OPENED = None
