"""One run and its record: who owns it, the state it ends in, and why. A failure ends the run, never the grid."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from benchmark.build import build_model
from benchmark.checkpoint import load_weights
from benchmark.configs import other_versions
from benchmark.data.errors import DataError
from benchmark.data.sources import build_source
from benchmark.initial import start_of
from benchmark.ownership import Elsewhere, Owner, Superseded, assumed_alive, claim
from benchmark.runs import Diverged, Run, State, now
from benchmark.stages import Listener, train_and_evaluate
from benchmark.stopping import Preempted
from methods import method_class
from methods.base.model import Model
from methods.base.types import Categories

LOGGER = logging.getLogger("benchmark")


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
            owned.update(state=State.PLANNED, afresh=True)  # trained even where another run has the weights
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
        train_and_evaluate(run, config, listener)
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
        results = train_and_evaluate(run, config, listener)
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


def _message(error: BaseException) -> str:
    """What an error says; that of a data loader's worker, which torch wraps into the worker's traceback, is its end."""
    message = str(error) or ("stopped by the user" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
    if re.match(r"Caught \w+ in DataLoader worker process", message):
        told = re.split(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", message, flags=re.MULTILINE)
        return told[-1].strip()
    return message


def _reason(error: BaseException, run: Run, command: str) -> dict[str, Any]:
    message = _message(error)
    log = run.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return {"class": type(error).__name__, "message": message, "where": where, "log_tail": log[-20:], "command": command}


def load_run(run: Run, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """The trained model of a finished run, in eval mode, and the run's config. The run's data need not be here.

    Raises ValueError if the run is not done, if its weights are not here (they are never committed) or cannot be read, or if
    the run was made by another version of its method, or of what all methods share, which may read the same weights in
    another way.
    """
    record = run.read()
    if record is None or record["state"] != State.DONE:
        raise ValueError(f"Run {run.run_id} is not done; finish it with: {record['command'] if record else 'its grid'}.")
    config = record["config"]
    if versions := other_versions(config):
        revision = (record.get("provenance") or {}).get("revision") or "an earlier revision"
        raise ValueError(
            f"Run {run.run_id} was made by {versions}; use the code of {revision}, or train a run with this one."
        )
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
