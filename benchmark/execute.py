"""One run from its resolved config to its record: build, train, evaluate, write. A failure ends the run, never the grid."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from safetensors import SafetensorError

from benchmark.build import build_model, evaluation_dataset, points_of, supervision_of, training_dataset
from benchmark.candidates import further_predictions
from benchmark.checkpoint import load_network, load_weights
from benchmark.data.errors import DataError
from benchmark.data.points_file import PointsFile
from benchmark.data.points_folder import ALL
from benchmark.data.sources import AnnotatedSource, PointsFolder, build_source
from benchmark.data.sparse_labels import sparse_supervision
from benchmark.evaluate import Evaluator, spread
from benchmark.initial import start_of
from benchmark.ownership import Elsewhere, Owner, Superseded, assumed_alive, claim
from benchmark.pictures import PictureBook
from benchmark.provenance import provenance
from benchmark.runs import Diverged, Run, State, now
from benchmark.stopping import Preempted
from benchmark.train import train
from methods import method_class
from methods.base.model import Model
from methods.base.types import Categories

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
    return State.CANCELLED if isinstance(error, (KeyboardInterrupt, Preempted)) else State.FAILED


def run_cell(
    run: Run, config: Mapping[str, Any], command: str, listener: Listener, job: str | None = None, *, fresh: bool = False,
    elsewhere: Elsewhere = assumed_alive,
) -> State:
    """Become the owner of a run, execute it, and let it go.

    A run that somebody else owns, or that is done by now, is not touched. One whose start (``init_from``) is not there is
    skipped, with the reason in its record.

    Args:
        run, config, command, listener: as for `execute`.
        job: ``<job id>.<restart count>`` where a scheduler runs this process: it takes over from an earlier restart.
        fresh: make the run again from the start, whoever owns it.
        elsewhere: whether an owner that cannot be seen from here still exists.

    Returns:
        The state that the run is in. KeyboardInterrupt and Preempted pass through after the record is written.
    """
    if further_device():
        return execute(run, config, command, listener)
    token = claim(run, job, elsewhere=elsewhere, seize=fresh)
    if token is None:
        return _state(run)
    owned = replace(run, token=token)
    try:
        if fresh:
            owned.clear()
        elif _state(run) == State.DONE:  # by somebody else, after the decision to run it
            return State.DONE
        start = start_of(config)
        if start is not None and (missing := start.missing()):
            reason = {"class": "NoStart", "message": f"{missing}.", "command": command}
            owned.update(
                config=config, command=command, state=State.SKIPPED, reason=reason, owner=None, **_description(config)
            )
            return State.SKIPPED
        return execute(owned, config, command, listener, job)
    except Superseded as error:
        LOGGER.error("%s", error)
        return _state(run)
    finally:
        token.release()


def _state(run: Run) -> State:
    """The recorded state; a record that cannot be read is that of a run which has to be made again."""
    try:
        return run.state
    except ValueError:
        return State.PLANNED


def further_device() -> bool:
    """Whether this process is a further one of those that train a run on several devices: it trains, and writes nothing."""
    return any(int(os.environ.get(name, "0")) > 0 for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def execute(run: Run, config: Mapping[str, Any], command: str, listener: Listener, job: str | None = None) -> State:
    """Run to a final state and record it.

    Args:
        run: its folder, with the claim of this process; an unfinished run goes on from its last checkpoint.
        config: resolved config.
        command: what a person types to repeat exactly this cell.
        listener: progress.
        job: ``<job id>.<restart count>`` of a scheduler, which starts the run again if it ends the process.

    Returns:
        The state that the run ended in. KeyboardInterrupt and Preempted pass through after the record is written.

    Raises:
        Superseded: another process took the run over; nothing is written.
    """
    if further_device():
        _run(run, config, listener)
        return State.DONE
    run.folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(run.log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    _log_warnings()
    began = time.monotonic()
    owner = asdict(Owner.here(job))
    earlier = run.update(config=config, command=command, state=State.RUNNING, reason=None, owner=owner, started=now()).get(
        "wall_seconds", 0.0
    )
    try:
        run.update(**_description(config))
        results = _run(run, config, listener)
        run.update(**results, state=State.DONE, owner=None, finished=now(), wall_seconds=earlier + time.monotonic() - began)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # the weights are kept
    except Superseded:
        raise
    except (Exception, KeyboardInterrupt) as error:
        state = failure_state(error)
        expected = isinstance(error, (DataError, Diverged, KeyboardInterrupt, Preempted))
        LOGGER.error("%s", error or type(error).__name__, exc_info=None if expected else error)
        waits = isinstance(error, Preempted) and job is not None
        run.update(
            state=State.SUBMITTED if waits else state, reason=_reason(error, run, command),
            owner=asdict(Owner(job=job)) if waits else None, finished=now(), wall_seconds=earlier + time.monotonic() - began,
        )
        if isinstance(error, (KeyboardInterrupt, Preempted)):
            raise
        return state
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    return State.DONE


def _log_warnings() -> None:
    """Warnings go into the log by kind and text alone: where libraries are installed is no part of a record."""
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}"
    # Lightning's hint quotes the paths of the command line; what is installed beside a local run does not concern it
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    logging.captureWarnings(True)


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


def _run(run: Run, config: Mapping[str, Any], listener: Listener) -> dict[str, Any]:
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
    timings = _trained(run, config, model, points, supervision, fabric, listener) if model.trainable else None
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
    start = start_of(config)
    if start is not None:
        fresh = load_network(start.weights, model)
        LOGGER.info("starting from the network of %s; fresh tensors of the head: %s", start.fingerprint, fresh or "none")
    dataset = training_dataset(config, points, supervision)
    LOGGER.info("training %s on %d images", run.run_id, len(dataset))
    timings = train(run, config, model, dataset, fabric, listener)
    if fabric.global_rank == 0:
        run.update(timings=timings)
    return timings


def _supervision(config: Mapping[str, Any], supervision: str, points: PointsFile) -> dict[str, Any]:
    if supervision == "masks":
        return {"kind": supervision, "points_per_target": None, "boxes": 0, "masks": "all training images"}
    settings = config["dataset"]["points"]
    if settings["count"] == ALL:
        settings = {**settings, "count": points.count}
    return {**sparse_supervision(settings), "boxes": 0, "masks": 0}


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


def load_run(run: Run, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """The trained model of a finished run, in eval mode, and the run's config. The run's data need not be here.

    Raises ValueError if the run is not done, or its weights are not here (they are never committed) or cannot be read.
    """
    record = run.read()
    if record is None or record["state"] != State.DONE:
        raise ValueError(f"Run {run.run_id} is not done; finish it with: {record['command'] if record else 'its grid'}.")
    config = record["config"]
    known = record.get("categories")  # records that are older than this key do not have it
    categories = Categories.from_coco(known) if known else build_source(config["dataset"], "train").categories
    model = build_model(config, categories)
    if model.trainable:
        if not run.weights_file.exists():
            raise ValueError(f"{run.weights_file} is missing; repeat the run with: {record['command']} force={run.run_id}.")
        try:
            load_weights(run.weights_file, model)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason, again = " ".join(str(error).split()), f"{record['command']} force={run.run_id}"
            raise ValueError(f"{run.weights_file} cannot be loaded ({reason}); repeat the run with: {again}.") from error
    return model.to(device).eval(), config
