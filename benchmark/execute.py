"""One run from its resolved config to its record: build, train, evaluate, write. A failure ends the run, never the grid."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric

from benchmark.build import build_model, evaluation_dataset, points_of, training_dataset
from benchmark.checkpoint import load_weights
from benchmark.data.errors import DataError
from benchmark.data.points_file import PointsFile
from benchmark.data.sources import build_source
from benchmark.evaluate import Evaluator, spread
from benchmark.pictures import PictureBook
from benchmark.provenance import provenance
from benchmark.runs import Diverged, Run, State, now
from benchmark.train import train
from methods import method_class
from methods.base.model import Model

LOGGER = logging.getLogger("benchmark")


class Listener(Protocol):
    """Who follows a run (the progress bar)."""

    def training(self, step: int, total: int, losses: Mapping[str, float]) -> None: ...

    def evaluating(self, what: str, done: int, total: int) -> None: ...


def failure_state(error: BaseException) -> State:
    """The state that an exception leaves a run in."""
    if isinstance(error, (Diverged, FloatingPointError)):
        return State.DIVERGED
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return State.OUT_OF_MEMORY
    return State.CANCELLED if isinstance(error, KeyboardInterrupt) else State.FAILED


def execute(run: Run, config: Mapping[str, Any], command: str, listener: Listener) -> State:
    """Run to a final state and record it.

    Args:
        run: its folder; an unfinished run goes on from its last checkpoint.
        config: resolved config.
        command: what a person types to repeat exactly this cell.
        listener: progress.

    Returns:
        The state that the run ended in. KeyboardInterrupt passes through after the record is written.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:  # a further device of the same run: trains along, writes nothing
        _run(run, config, listener)
        return State.DONE
    run.folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(run.log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    began = time.monotonic()
    earlier = run.update(config=config, command=command, state=State.RUNNING, reason=None, owner=owner, started=now()).get(
        "wall_seconds", 0.0
    )
    try:
        run.update(**_description(config))
        results = _run(run, config, listener)
        run.update(**results, state=State.DONE, owner=None, finished=now(), wall_seconds=earlier + time.monotonic() - began)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # the weights are kept
    except (Exception, KeyboardInterrupt) as error:
        state = failure_state(error)
        expected = isinstance(error, (DataError, Diverged, KeyboardInterrupt))
        LOGGER.error("%s", error or type(error).__name__, exc_info=None if expected else error)
        run.update(state=state, reason=_reason(error, run, command), owner=None, finished=now(),
                   wall_seconds=earlier + time.monotonic() - began)
        if isinstance(error, KeyboardInterrupt):
            raise
        return state
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    return State.DONE


def _description(config: Mapping[str, Any]) -> dict[str, Any]:
    method = method_class(config["method"]["name"])
    return {
        "name": f"{config['method']['label']} P{config['dataset']['points']['count']}",
        "method": config["method"]["name"],
        "label": config["method"]["label"],
        "note": method.note,
        "seed": config["seed"],
    }


def _reason(error: BaseException, run: Run, command: str) -> dict[str, Any]:
    message = str(error) or ("stopped by the user" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
    log = run.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return {"class": type(error).__name__, "message": message, "where": where, "log_tail": log[-20:], "command": command}


def _fabric(config: Mapping[str, Any]) -> Fabric:
    # an image without a target leaves parameters without gradient in that step
    strategy = "ddp_find_unused_parameters_true" if config["devices"] > 1 else "auto"
    fabric = Fabric(accelerator=config["device"], devices=config["devices"], strategy=strategy)
    fabric.launch()
    return fabric


def _run(run: Run, config: Mapping[str, Any], listener: Listener) -> dict[str, Any]:
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    fabric = _fabric(config)
    _forget_peak_memory()
    origin = provenance(fabric.device.type, torch.get_num_threads())  # now: the checkout may change while the run goes on
    source = build_source(config["dataset"], "train")
    points = points_of(config, "train")
    torch.manual_seed(config["seed"])
    model = build_model(config, source.categories)
    supervision = method_class(config["method"]["name"]).supervision
    timings = _trained(run, config, model, points, supervision, fabric, listener) if model.trainable else None
    model.to(fabric.device)
    if fabric.global_rank > 0:
        return {}
    metrics = _evaluate(run, config, model, source, points, supervision == "masks", fabric.device, listener)
    network = sum(p.numel() for module in model.network_modules() for p in module.parameters())
    return {
        "supervision": _supervision(config, supervision),
        "metrics": metrics,
        "timings": timings,
        "parameters": {"network": network, "labeler": sum(p.numel() for p in model.parameters()) - network},
        "peak_memory_mb": _peak_memory(fabric.device),
        "provenance": {
            **origin,
            "fingerprints": {"data": source.fingerprint, "points": points.fingerprint},
            "seeds": {"run": config["seed"], "points": config["dataset"]["points"]["seed"]},
        },
    }


def _trained(
    run: Run, config: Mapping[str, Any], model: Model, points: PointsFile, supervision: str, fabric: Fabric,
    listener: Listener,
) -> dict[str, Any]:
    """Train the model, or load what an interrupted run had finished training; returns the timings."""
    finished = (run.read() or {}).get("timings") if run.record_file.exists() else None
    if finished and run.weights_file.exists():
        LOGGER.info("%s was trained before; evaluating", run.run_id)
        load_weights(run.weights_file, model)
        return finished
    dataset = training_dataset(config, points, supervision)
    LOGGER.info("training %s on %d images", run.run_id, len(dataset))
    timings = train(run, config, model, dataset, fabric, listener)
    if fabric.global_rank == 0:
        run.update(timings=timings)
    return timings


def _supervision(config: Mapping[str, Any], supervision: str) -> dict[str, Any]:
    masks = supervision == "masks"
    return {
        "kind": supervision,
        "points_per_target": None if masks else config["dataset"]["points"]["count"],
        "boxes": 0,
        "masks": "all training images" if masks else 0,
    }


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
    settings = config["evaluation"]
    evaluator = Evaluator(model, source.categories, device, listener)
    val = build_source(config["dataset"], "val")
    val_points = points_of(config, "val")
    val_data = evaluation_dataset(config, val, val_points, masks)
    labelled = spread(len(val_data), settings["label_images"])
    gallery = [labelled[i] for i in spread(len(labelled), settings["gallery_images"])]
    photographs = config["report"]["photographs"]
    with_images = config["dataset"]["redistributable"] if photographs == "auto" else bool(photographs)
    book = PictureBook(run.pictures, gallery, "val", val.categories, with_images)
    train_data = evaluation_dataset(config, source, points, masks)
    results = {
        "labels_train": evaluator.labels(
            "labels of training images", train_data, spread(len(train_data), settings["label_images"]), None
        ),
        "labels_val": evaluator.labels("labels of validation images", val_data, labelled, book),
        "val": None if config["head"]["name"] == "none" else evaluator.predictions(val_data, book),
    }
    book.write()
    return results


def load_run(run: Run, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """The trained model of a finished run, in eval mode, and the run's config.

    Raises ValueError if the run is not done or its weights are not here (they are never committed).
    """
    record = run.read()
    if record is None or record["state"] != State.DONE:
        raise ValueError(f"Run {run.run_id} is not done; finish it with: {record['command'] if record else 'its grid'}.")
    config = record["config"]
    model = build_model(config, build_source(config["dataset"], "train").categories)
    if model.trainable:
        if not run.weights_file.exists():
            raise ValueError(f"{run.weights_file} is missing; repeat the run with: {record['command']} force={run.run_id}.")
        load_weights(run.weights_file, model)
    return model.to(device).eval(), config
