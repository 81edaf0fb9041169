"""No point-supervised training touches a mask: they are behind a trap, and where there are none at all, it ends the same."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmark import stages
from benchmark.build import points_of
from benchmark.configs import compose_run
from benchmark.execute import execute
from benchmark.runs import Run, State
from methods import METHODS
from methods.base.semantic_method import SemanticMethod
from tests.benchmark.points_folders import folder_config
from tests.benchmark.tiny_runs import SHORT, Interrupted, write_photographs

BY_POINTS = [name for name in METHODS if METHODS[name].supervision == "points"]
READ = {"kind": "points", "points_per_target": 1, "boxes": 0, "masks": 0}


class Sprung(Exception):
    """A file was opened that must not be."""


_trapped: list[Path] = []


def _watch(event, arguments):
    if _trapped and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = Path(os.fsdecode(arguments[0]))
        if any(folder in path.parents for folder in _trapped):
            raise Sprung(str(path))


@contextlib.contextmanager
def trap(*folders):
    """Every attempt of this process to open a file below these folders ends in `Sprung`."""
    if not getattr(_watch, "installed", False):
        sys.addaudithook(_watch)  # can't be removed again, so it is installed once
        _watch.installed = True
    _trapped.extend(folders)
    try:
        yield
    finally:
        _trapped.clear()


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    write_photographs(tmp_path / "data")
    return tmp_path / "data"


def method_words(method):
    """Two steps; of a labeler alone, as far as it has anything to train, which is where masks could be read."""
    head = [] if METHODS[method].supervision == "masks" else ["head=none"]
    semantic = ["model=deeplab_tiny"] if issubclass(METHODS[method], SemanticMethod) else []
    return [f"method={method}", *head, *semantic, "schedule.steps=2"]


def photograph_config(data, results, method):
    folder = ["dataset=coco_panoptic", f"dataset.root={data}", "dataset.name=tiny"]
    return compose_run(["scale=demo", *SHORT, *folder, f"results_dir={results}", *method_words(method)])


def trained_behind_the_trap(data, results, method, monkeypatch):
    """A run whose points are drawn before, and that is stopped where evaluation would begin to read masks."""
    config = photograph_config(data, results, method)
    points = [points_of(config, split) for split in ("train", "val")]
    masks = [data / "panoptic_train", data / "panoptic_val"]
    monkeypatch.setattr(stages, "_evaluate", lambda *arguments: {})
    run = Run(results, "run")
    with trap(*masks):
        state = execute(run, config, "command", Interrupted())
    return run, state, points[0]


def test_the_trap_catches_every_way_to_a_mask(data):
    masks = sorted((data / "panoptic_train").iterdir())
    assert len(masks) == 4
    ways = (Image.open, open, Path.read_bytes, np.fromfile, lambda path: os.open(path, os.O_RDONLY))
    for mask in masks:
        for way in ways:
            with trap(data / "panoptic_train"), pytest.raises(Sprung, match=mask.name):
                way(mask)
        Image.open(mask).load()
    with trap(data / "panoptic_train"):
        Image.open(data / "train" / "train_0.jpg").load()


def test_training_on_masks_is_caught(data, tmp_path, monkeypatch):
    run, state, _ = trained_behind_the_trap(data, tmp_path / "results", "full_masks", monkeypatch)
    assert state == State.FAILED and run.read()["reason"]["class"] == "Sprung"


@pytest.mark.slow
@pytest.mark.parametrize("method", BY_POINTS)
def test_training_on_points_never_opens_a_mask(data, tmp_path, method, monkeypatch):
    """And on images and points alone, without any mask on the disk, it gives the same weights bit by bit."""
    run, state, points = trained_behind_the_trap(data, tmp_path / "results", method, monkeypatch)
    assert state == State.DONE, run.read()["reason"]
    assert run.read()["supervision"] == READ
    alone = Run(tmp_path / "alone", "run")
    config = folder_config(
        data / "train", points.path, tmp_path / "alone", *method_words(method), "dataset.points.count=1"
    )
    for mask in (data / "panoptic_train").iterdir():
        mask.unlink()
    (data / "panoptic_train.json").unlink()
    assert execute(alone, config, "command", Interrupted()) == State.DONE, alone.read()["reason"]
    assert alone.read()["supervision"] == READ
    assert run.weights_file.exists() == alone.weights_file.exists()
    if run.weights_file.exists():
        weights, others = load_file(run.weights_file), load_file(alone.weights_file)
        assert weights.keys() == others.keys()
        assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
        assert run.metrics_file.read_text() == alone.metrics_file.read_text()
