"""A made-up sweep in a folder: finished runs with seeds and pictures, a failed one, a missing one and broken ones."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.label_quality import LabelQuality
from benchmark.metrics import MeanIoU, PanopticQuality
from benchmark.scalar_maps import gray_map
from tests.benchmark.panoptic_maps import encode, segments_of

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 21, "name": "background", "isthing": 0},
]
EVIL = "<script>alert('x')</script> | tensor \"5\" is not\nfinite & [click](https://example.org)"
TARGETS = [(10, 1), (20, 1), (30, 2), (40, 21)]


def scene(size: tuple[int, int] = (60, 90)) -> np.ndarray:
    """Ids 10 and 20 (touching cats), 30 (a dog), 40 (background), a strip of void."""
    y, x = np.mgrid[: size[0], : size[1]]
    ids = np.full(size, 40)
    ids[(y - 30) ** 2 + (x - 25) ** 2 < 300] = 10
    ids[((y - 30) ** 2 + (x - 52) ** 2 < 250) & (ids == 40)] = 20
    ids[40:55, 68:86] = 30
    ids[:, :2] = 0
    return ids


def labels_of(truth: np.ndarray, shift: int) -> np.ndarray:
    labels = np.zeros_like(truth)
    for label, (segment, _) in enumerate(TARGETS, 1):
        labels[np.roll(truth, shift, axis=1) == segment] = label
    return labels


def metrics(*shifts: int) -> dict[str, Any]:
    """Metrics of labels and predictions of as many images, each the truth moved by one of the shifts (pixels)."""
    truth = scene()
    category_of = dict(TARGETS)
    segments = segments_of(truth, category_of)
    classes = {10: 0, 20: 0, 30: 1, 40: 2, 0: 255}
    panoptic, labels = PanopticQuality(CATEGORIES), LabelQuality(CATEGORIES)
    semantic = MeanIoU(3, [c["name"] for c in CATEGORIES])
    for image, shift in enumerate(shifts, 7):
        moved = np.roll(truth, shift, axis=1)
        panoptic.update(moved, segments_of(moved, category_of), truth, segments)
        truth_classes, moved_classes = (np.vectorize(classes.get)(ids) for ids in (truth, moved))
        semantic.update(np.where(moved_classes == 255, 2, moved_classes), truth_classes)
        labels.update(image, labels_of(truth, shift), TARGETS, truth, segments)
    return {
        "val": {"panoptic": panoptic.state(), "semantic": {"source": "panoptic map", **semantic.state()}},
        "labels_train": {"quality": labels.state(), "semantic": None},
        "labels_val": None,
    }


def record(run_id: str, method: str, seed: int, **changes: Any) -> dict[str, Any]:
    return {
        "schema": 1, "run_id": run_id, "name": f"{method} P1", "method": method, "label": method, "note": "", "seed": seed,
        "state": "done", "reason": None, "config": {"seed": seed},
        "supervision": {"kind": "points", "points_per_target": 1, "boxes": 0, "masks": 0},
        "parameters": {"network": 2_500_000, "labeler": 125_000}, "metrics": metrics(2 + seed),
        "timings": {
            "steps": 100, "data": 1.0, "forward": 4.0, "pseudo_labels": 5.0, "losses": 2.0, "backward": 7.0, "optimizer": 1.0
        },
        "peak_memory_mb": 812.4, "wall_seconds": 90.0,
        "provenance": {
            "revision": "abc123", "dirty": False, "python": "3.11.2", "packages": {"torch": "2.13.0"},
            "hardware": {"processor": "Some CPU <fast>", "cores": 2}, "fingerprints": {"data": "d1", "points": "p1"},
        },
        "created": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:02:00+00:00", **changes,
    }  # fmt: skip


def write_run(results: Path, content: dict[str, Any]) -> Path:
    folder = results / "runs" / content["run_id"]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def write_pictures(folder: Path, shift: int, photograph: bool) -> None:
    """One gallery image: labels and prediction moved by ``shift``, a distance map, and another map beside a photograph."""
    pictures = folder / "pictures"
    pictures.mkdir()
    truth = scene()
    category_of = dict(TARGETS)
    labels, prediction = labels_of(truth, shift), np.roll(truth, -shift, axis=1)
    label_category = {i: c for i, (_, c) in enumerate(TARGETS, 1)}
    names = {c["id"]: c for c in CATEGORIES}
    points = []
    for target, (segment, category) in enumerate(TARGETS):
        ys, xs = np.nonzero(truth == segment)
        middle = len(ys) // 3
        points.append(
            {"x": int(xs[middle]), "y": int(ys[middle]), "target": target, "label": names[category]["name"],
             "category": category, "is_thing": bool(names[category]["isthing"])}
        )  # fmt: skip
    entry = {
        "key": "val_000003", "image_id": 7, "split": "val", "height": 60, "width": 90, "points": points,
        "segments": {
            "labels": segments_of(labels, label_category),
            "prediction": segments_of(prediction, category_of),
            "ground_truth": segments_of(truth, category_of),
        },
    }  # fmt: skip
    for name, ids in (("labels", labels), ("prediction", prediction), ("ground_truth", truth)):
        Image.fromarray(encode(ids)).save(pictures / f"val_000003_{name}.png")
    if photograph:
        sky = np.linspace(90, 220, 60)[:, None, None] * np.ones((1, 90, 3)) * np.array([0.8, 0.9, 1.0])
        Image.fromarray(sky.astype(np.uint8)).save(pictures / "val_000003_image.png")
    entry["maps"] = [write_map(pictures, "path distance", "How <far>.", np.hypot(*np.mgrid[:15, :22])[::-1], unit="px")]
    if photograph:
        constant = np.full((8, 12), 0.5)
        constant[:4] = np.inf
        entry["maps"].append(write_map(pictures, "sureness <b>", "How sure.", constant, bright="sure", missing="void"))
    (pictures / "index.json").write_text(json.dumps([entry]))


def write_map(pictures: Path, name: str, about: str, values: np.ndarray, **changes: Any) -> dict[str, Any]:
    """A map beside the pictures of image ``val_000003``, and its entry of the index."""
    stored = gray_map(values)
    file = f"val_000003_map_{len(list(pictures.glob('*_map_*')))}.png"
    Image.fromarray(stored.gray).save(pictures / file)
    told = {"name": name, "about": about, "bright": "far", "unit": "", "missing": "no thing", **changes}
    return {**told, "low": stored.low, "high": stored.high, "file": file}


def write_sweep(results: Path, grid: str = "demo") -> None:
    """Rows: psps (two seeds), point2mask (one seed done, one failed), fdd (no record), agmm (broken record)."""
    write_pictures(write_run(results, record("psps-s0", "psps", 0)), 2, photograph=True)
    write_run(results, record("psps-s1", "psps", 1))
    folder = write_run(results, record("p2m-s0", "point2mask", 0, note="our reading | of <it>"))
    write_pictures(folder, 5, photograph=False)
    reason = {
        "class": "FloatingPointError", "message": EVIL, "log_tail": ["step 5", "<b>loss nan</b>"],
        "command": "python -m benchmark.run grid=demo method=point2mask",
    }  # fmt: skip
    failed = record("p2m-s1", "point2mask", 1, state="diverged", reason=reason, metrics=None, timings=None)
    write_run(results, {**failed, "provenance": None, "peak_memory_mb": None, "wall_seconds": None})
    broken = results / "runs" / "agmm-s0"
    broken.mkdir(parents=True)
    (broken / "run.json").write_text('{"schema": 1, "run_id": "agmm-s0", ')
    rows = [("psps", 0), ("psps", 1), ("p2m", 0), ("p2m", 1), ("fdd", 0), ("agmm", 0)]
    methods = {"psps": "psps", "p2m": "point2mask", "fdd": "fdd", "agmm": "agmm"}
    content = {
        "grid": grid, "title": "A demo & more", "paper_table": None,
        "runs": [f"{name}-s{seed}" for name, seed in rows],
        "cells": [
            {"run_id": f"{name}-s{seed}", "axes": {"method": methods[name], "dataset.points.count": "1"}, "seed": seed}
            for name, seed in rows
        ],
    }  # fmt: skip
    (results / grid).mkdir()
    (results / grid / "grid.json").write_text(json.dumps(content))


PAPER = {
    "scale": "paper", "model": {"name": "r50"}, "dataset": {"name": "voc", "points": {"count": 1}},
    "schedule": {"epochs": 24, "steps": None, "batch_size": 8, "decay_at": [0.625, 0.8333333333333334]},
}  # fmt: skip
"""A config with the data, network and schedule of Point2Mask's ablations."""

SHIFTS = {"40": 5, "60": 3, "80": 2, "100": 4, "120": 6}
"""Sinkhorn iterations -> how far predictions are off: 80 are best, as the paper claims."""


def write_ablation(results: Path, grid: str = "p2m_sinkhorn_iterations", shifts: Mapping[str, int] = SHIFTS) -> None:
    """A grid that stands for a paper's table: five cells, three seeds, twelve images; curves and logs."""
    cells = []
    for (value, shift), seed in itertools.product(shifts.items(), range(3)):
        config = {**PAPER, "seed": seed, "method": {"iterations": int(value)}}
        run_id = f"{grid}-{value}-s{seed}"
        moved = [shift + (image % (2 + seed) == 0) for image in range(12)]
        folder = write_run(results, record(
            run_id, "point2mask", seed, config=config, metrics=metrics(*moved),
            command=f"python -m benchmark.run grid={grid} method.iterations={value} 'seeds=[{seed}]'",
        ))  # fmt: skip
        lines = [
            {"step": step, "lr": 0.1, "loss": 9 / step + seed, "labeler/partial": 5 / step, "head/dice": 4 / step + seed}
            for step in range(10, 210, 10)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 210, "lo')
        (folder / "log.txt").write_text("".join(f"line {i} of {run_id}\n" for i in range(30)))
        cells.append({"run_id": run_id, "axes": {"method.iterations": value}, "seed": seed, "paper_row": value})
    (results / grid).mkdir()
    content = {
        "grid": grid, "title": "Point2Mask: Sinkhorn iterations", "paper_table": "point2mask/A2",
        "runs": [cell["run_id"] for cell in cells], "cells": cells,
    }  # fmt: skip
    (results / grid / "grid.json").write_text(json.dumps(content))


def write_composed(results: Path) -> None:
    """The grid ``whole`` of two members on the runs of `write_ablation`: ``p2m_units``, whose row "centroid" is the run with
    80 iterations, and ``p2m_sinkhorn_iterations``; a shared cell is listed once, as one of the first member."""
    ablation = "p2m_sinkhorn_iterations"
    write_ablation(results)
    second = json.loads((results / ablation / "grid.json").read_text())
    shutil.rmtree(results / ablation)
    rows = {"equal": ("Equal Division", "60"), "nearest": ("Nearest gt Point", "40"), "centroid": ("Nearest Centroid", "80")}
    cells = [
        {"run_id": f"{ablation}-{run}-s{seed}", "axes": {"method.units": unit}, "seed": seed, "paper_row": row}
        for unit, (row, run) in rows.items() for seed in range(3)
    ]  # fmt: skip
    first = {"grid": "p2m_units", "title": "Units", "paper_table": "point2mask/T5",
             "runs": [cell["run_id"] for cell in cells], "cells": cells}  # fmt: skip
    once: dict[str, dict[str, Any]] = {}
    for member in (first, second):
        (results / "whole" / member["grid"]).mkdir(parents=True)
        (results / "whole" / member["grid"] / "grid.json").write_text(json.dumps(member))
        for cell in member["cells"]:
            of = {"grid": member["grid"], "paper_table": member["paper_table"]}
            once.setdefault(cell["run_id"], {**cell, "axes": {"grid": member["grid"], **cell["axes"]}, **of})
    content = {"grid": "whole", "title": "Whole", "paper_table": None, "runs": list(once), "cells": list(once.values())}
    (results / "whole" / "grid.json").write_text(json.dumps(content))
