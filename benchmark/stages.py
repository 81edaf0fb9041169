"""The two stages of a run: train a model from points, then measure it. Evaluation alone opens masks in such a run."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from benchmark.build import build_model, evaluation_dataset, points_of, supervision_of, training_dataset
from benchmark.candidates import further_predictions
from benchmark.checkpoint import load_network, load_weights
from benchmark.data.points_file import PointsFile
from benchmark.data.points_folder import ALL
from benchmark.data.sources import AnnotatedSource, PointsFolder, build_source
from benchmark.data.sparse_labels import sparse_supervision
from benchmark.evaluate import Evaluator, spread
from benchmark.initial import start_of
from benchmark.pictures import PictureBook
from benchmark.provenance import provenance
from benchmark.runs import Run
from benchmark.shared_training import trained_before
from benchmark.train import train
from methods.base.model import Model

LOGGER = logging.getLogger("benchmark")


class Listener(Protocol):
    """Who follows a run (the progress bar)."""

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None: ...

    def evaluating(self, what: str, done: int, total: int) -> None: ...


def train_and_evaluate(run: Run, config: Mapping[str, Any], listener: Listener) -> dict[str, Any]:
    """Both stages of a run, each only as far as it is missing.

    Args:
        run: its folder; training goes on from the last checkpoint there.
        config: resolved config.
        listener: progress.

    Returns:
        What the record tells of a finished run (supervision, metrics, timings, provenance); nothing on all devices but the
        first.
    """
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    fabric = _fabric(config)
    _forget_peak_memory()
    origin = provenance(fabric.device.type, torch.get_num_threads())  # now: the checkout may change while the run goes on
    source = build_source(config["dataset"], "train")
    supervision = supervision_of(config, source)
    points = points_of(config, "train")
    torch.manual_seed(config["seed"])
    model = build_model(config, source.categories)
    timings = _trained(run, config, model, points, supervision, fabric, listener, origin) if model.trainable else None
    model.to(fabric.device)
    if fabric.global_rank > 0:
        return {}
    metrics = _evaluate(run, config, model, source, points, supervision == "masks", fabric.device, listener)
    network = sum(p.numel() for module in model.network_modules() for p in module.parameters())
    return {
        "supervision": _supervision(config, supervision, points),
        "categories": source.categories.to_coco(),
        "metrics": metrics,
        "timings": timings,
        "parameters": {"network": network, "labeler": sum(p.numel() for p in model.parameters()) - network},
        "peak_memory_mb": _peak_memory(fabric.device),
        "provenance": {
            **origin,
            "fingerprints": {
                "data": source.fingerprint, "points": points.fingerprint,
                **({"start": start.fingerprint} if (start := start_of(config)) else {}),
            },
            "seeds": {"run": config["seed"], "points": config["dataset"]["points"]["seed"]},
        },
    }


def _fabric(config: Mapping[str, Any]) -> Fabric:
    # an image without a target leaves parameters without gradient in that step
    devices = config["devices"]
    strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
    # srun has started a process for each device, maybe on several nodes; a job that a person started by hand has not
    started = devices > 1 and int(os.environ.get("SLURM_NTASKS", "1")) == devices
    nodes = int(os.environ["SLURM_NNODES"]) if started else 1
    environment = SLURMEnvironment(auto_requeue=False) if started else LightningEnvironment()
    fabric = Fabric(
        accelerator=config["device"], devices=devices // nodes, num_nodes=nodes, strategy=strategy, plugins=environment
    )
    fabric.launch()
    return fabric


def _trained(
    run: Run, config: Mapping[str, Any], model: Model, points: PointsFile, supervision: str, fabric: Fabric,
    listener: Listener, origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Train the model, or load what an interrupted or another run had finished training; returns the timings."""
    record = (run.read() or {}) if run.record_file.exists() else {}
    if record.get("timings") and run.weights_file.exists():
        LOGGER.info("%s was trained before; evaluating", run.run_id)
        load_weights(run.weights_file, model)
        return record["timings"]
    start = start_of(config)
    # With one process alone: several would have to agree on what they find.
    if not record.get("afresh") and fabric.world_size == 1 and not run.checkpoints.exists():
        before = trained_before(run, config, points.fingerprint, start.fingerprint if start else None, origin)
        if before is not None and (timings := before.hand_over(run, model)) is not None:
            LOGGER.info("%s has the weights that %s would train; evaluating", before.run.run_id, run.run_id)
            return timings
    if start is not None:
        fresh = load_network(start.weights, model)
        LOGGER.info("starting from the network of %s; fresh tensors of the head: %s", start.fingerprint, fresh or "none")
    dataset = training_dataset(config, points, supervision)
    LOGGER.info("training %s on %d images", run.run_id, len(dataset))
    timings = train(run, config, model, dataset, fabric, listener)
    if fabric.global_rank == 0:
        run.update(timings=timings, trained=None)
    return timings


def _supervision(config: Mapping[str, Any], supervision: str, points: PointsFile) -> dict[str, Any]:
    start = start_of(config)
    started = {"start": start.supervision()} if start else {}
    if supervision == "masks":
        return {"kind": supervision, "points_per_target": None, "boxes": 0, "masks": "all training images", **started}
    settings = config["dataset"]["points"]
    if settings["count"] == ALL:
        settings = {**settings, "count": points.count}
    return {**sparse_supervision(settings), "boxes": 0, "masks": 0, **started}


def _forget_peak_memory() -> None:
    """Start measuring afresh, so that a run does not report the peak of a run before it in the same process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark of the resident set
    except OSError:
        LOGGER.debug("the peak memory of this process cannot be reset on this system")


def _peak_memory(device: torch.device) -> float:
    """MiB: allocated on the device for CUDA, else the high-water mark of the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # not Linux: of the process's whole life
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def _evaluate(
    run: Run, config: Mapping[str, Any], model: Model, source, points, masks: bool, device: torch.device, listener: Listener
) -> dict[str, Any]:
    evaluator = Evaluator(model, source.categories, device, listener)
    results: dict[str, Any] = {"labels_train": None, "labels_val": None, "val": None}  # None: no masks to measure it with
    if model.makes_labels and not isinstance(source, PointsFolder):
        train_data = evaluation_dataset(config, source, points, masks)
        indices = spread(len(train_data), config["evaluation"]["label_images"])
        results["labels_train"] = evaluator.labels("labels of training images", train_data, indices, None)
    val = build_source(config["dataset"], "val")
    if not isinstance(val, PointsFolder):
        results |= _validation(run, config, model, val, masks, evaluator)
    return results


def _validation(
    run: Run, config: Mapping[str, Any], model: Model, val: AnnotatedSource, masks: bool, evaluator: Evaluator
) -> dict[str, Any]:
    settings = config["evaluation"]
    val_data = evaluation_dataset(config, val, points_of(config, "val"), masks)
    labelled = spread(len(val_data), settings["label_images"])
    gallery = [labelled[i] for i in spread(len(labelled), settings["gallery_images"])]
    photographs = config["report"]["photographs"]
    with_images = config["dataset"]["redistributable"] if photographs == "auto" else bool(photographs)
    book = PictureBook(run.pictures, gallery, "val", val.categories, with_images)
    results: dict[str, Any] = {}
    if model.makes_labels:
        results["labels_val"] = evaluator.labels("labels of validation images", val_data, labelled, book)
    results["val"] = evaluator.predictions(val_data, book) if model.predicts else None
    results |= further_predictions(run, model, val_data, val.categories, evaluator.device, evaluator.listener)
    book.write()
    return results
