"""Folders of images with clicked points and no mask anywhere, and runs on them that take about a second."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmark.configs import compose_run
from benchmark.data.points import draw_points
from benchmark.data.scenes import CATEGORIES, Scenes
from benchmark.execute import execute
from benchmark.runs import Run, State
from tests.benchmark.tiny_runs import SHORT, SIDE, Interrupted

HEADER = ("image", "x", "y", "class", "instance", "isthing")


def write_csv(path: Path, rows: Iterable[Sequence[Any]], header: Sequence[str] = HEADER) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def clicked_rows(images: int = 4, per_target: int = 1) -> list[tuple[Any, ...]]:
    """One line a click on the scenes that `write_points_folder` writes."""
    points = draw_points(scenes(images), "uniform", per_target, 0)
    rows = []
    for target, x, y in zip(points.point_target, points.point_x, points.point_y, strict=True):
        category = CATEGORIES[CATEGORIES.label_of(int(points.target_category[target]))]
        name = f"{points.records[points.target_image[target]].id}.png"
        rows.append((name, x, y, category.name, f"object {points.target_segment[target]}", int(category.is_thing)))
    return rows


def scenes(images: int = 4) -> Scenes:
    return Scenes(images, 3, "train", size=SIDE, stuff_only=0.0)


def write_points_folder(root: Path, images: int = 4, per_target: int = 1) -> tuple[Path, Path]:
    """``root/images/*.png`` and ``root/points.csv``; returns both."""
    folder = root / "images"
    folder.mkdir(parents=True)
    source = scenes(images)
    for record in source.records:
        Image.fromarray(source.read_image(record)).save(folder / record.file_name)
    return folder, write_csv(root / "points.csv", clicked_rows(images, per_target))


def folder_config(folder: Path, points: Path, results_dir: Path, *words: str) -> dict[str, Any]:
    """The resolved config of a short run on points alone; later words win."""
    data = ["dataset=points_folder", f"dataset.images={folder}", f"dataset.points={points}"]
    return compose_run(["scale=demo", *SHORT, *data, f"results_dir={results_dir}", *words])


def finished(config: dict[str, Any], run_id: str) -> Run:
    """A run of this config, made here and now."""
    run = Run(Path(config["results_dir"]), run_id)
    assert execute(run, config, "python -m benchmark.run grid=tiny", Interrupted()) == State.DONE, run.read()["reason"]
    return run
