"""From a resolved config to the objects of a run: data, point labels, model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from benchmark.data.cropping import transform_of
from benchmark.data.datasets import EvaluationDataset, MaskDataset, PointDataset
from benchmark.data.errors import DataError
from benchmark.data.points import ensure_points
from benchmark.data.points_file import PointsFile
from benchmark.data.points_folder import ALL
from benchmark.data.sources import AnnotatedSource, PointsFolder, build_images, build_source
from benchmark.data.sparse_labels import SPARSE, ensure_sparse_labels
from methods import build_labeler, method_class
from methods.base.build import build_encoder, build_head
from methods.base.model import Model, PanopticModel
from methods.base.semantic_method import SemanticMethod
from methods.base.types import Categories

DRAWN = 10
"""Points drawn per target, whatever a run uses: P1 is then the first point of P10."""


def options_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor options of a labeler: its config without the keys that name it."""
    return {key: value for key, value in method.items() if key not in ("name", "label", "version")}


def build_model(config: Mapping[str, Any], categories: Categories) -> Model:
    """The model of a run, freshly initialised from the global torch RNG: what the method trains, panoptic or semantic.

    Args:
        config: resolved run config.
        categories: of the data set.
    """
    if issubclass(method_class(config["method"]["name"]), SemanticMethod):
        from benchmark.semantic import build_semantic_model

        return build_semantic_model(config, categories, options_of(config["method"]))
    encoder = build_encoder(config["model"])
    head = build_head(config["head"], categories, encoder)
    labeler = build_labeler(config["method"]["name"], categories, encoder.channels, options_of(config["method"]))
    return PanopticModel(categories, encoder, head, labeler)


def points_of(config: Mapping[str, Any], split: str) -> PointsFile:
    """The point labels of a split: the given file, or the draw that data, strategy, count and seed determine.

    A draw reads masks once, before any training, and is kept under ``results_dir/points``.
    """
    settings = config["dataset"]["points"]
    given = settings.get("file")
    source = build_source(config["dataset"], split)
    if isinstance(source, PointsFolder):
        whole = split == "val" or settings["count"] == ALL  # validation images without masks are none at all
        return source.points if whole else _selected(source.points, int(settings["count"]))
    count = 1 if settings["count"] == ALL else int(settings["count"])
    if split == "train" and given:
        return _own_points(Path(given), source, count)
    folder = Path(config["results_dir"]) / "points"
    if settings["strategy"] in SPARSE:
        return ensure_sparse_labels(source, folder, split, settings)
    return ensure_points(source, folder, settings["strategy"], max(DRAWN, count), int(settings["seed"])).select(count)


def _own_points(path: Path, source: AnnotatedSource, count: int) -> PointsFile:
    points = PointsFile.load(path)
    if points.categories != source.categories:
        raise DataError(f"{path}: its categories are not those of data set '{source.name}'; draw the points again from it.")
    if points.source_fingerprint != source.fingerprint:
        raise DataError(
            f"{path}: was not drawn from the ground truth of data set '{source.name}', so its targets cannot be found there "
            "to measure the labels; draw the points again from this data set."
        )
    points.check()
    return _selected(points, count)


def _selected(points: PointsFile, count: int) -> PointsFile:
    if count > points.count:
        most = f"has up to {points.count} points per target"
        raise DataError(f"{points.path}: {most}; set dataset.points.count to that or less.")
    return points.select(count)


def supervision_of(config: Mapping[str, Any], source: AnnotatedSource | PointsFolder) -> Literal["points", "masks"]:
    """What the run's method learns from; DataError if that is masks and the data set has none."""
    name = config["method"]["name"]
    supervision = method_class(name).supervision
    if supervision == "masks" and isinstance(source, PointsFolder):
        raise DataError(f"Method '{name}' reads masks, and data set '{source.name}' has points only; choose another method.")
    return supervision


def training_dataset(config: Mapping[str, Any], points: PointsFile, supervision: str) -> PointDataset | MaskDataset:
    """What training loads: images and points, or (``supervision == "masks"``) masks as well."""
    transform = transform_of(config["input"])
    options = {"seed": config["seed"], "drop_without_things": config["dataset"]["drop_without_things"]}
    if supervision == "masks":
        return MaskDataset(build_source(config["dataset"], "train"), points, transform, **options)
    return PointDataset(build_images(config["dataset"], "train", points.records), points, transform, **options)


def evaluation_dataset(
    config: Mapping[str, Any], source: AnnotatedSource, points: PointsFile | None, masks: bool
) -> EvaluationDataset:
    """Images, points and ground truth of a split, without augmentation.

    Args:
        masks: give the model `MaskSample` (for labelers that are supervised by masks), else `PointSample`.
    """
    return EvaluationDataset(source, transform_of(config["input"]), points, masks=masks)
