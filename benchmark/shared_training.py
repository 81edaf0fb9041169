"""Runs that differ only in what happens after training have the same weights: one trains, the others take those over.

So a comparison of thresholds of the merging costs one training. Weights are taken over only where training again would give
the same ones: same config but for `benchmark.runs.AFTER_TRAINING`, same points, and the same code, packages, processor and
number of threads. ``trained`` in a record names the run that trained.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from benchmark.checkpoint import load_weights, save_weights
from benchmark.runs import Run, State, run_name, training_id, write_text_atomically
from methods.base.model import Model

LOGGER = logging.getLogger("benchmark")


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run with the weights that another would train.

    Attributes:
        run: its folder.
        record: its record.
    """

    run: Run
    record: Mapping[str, Any]

    def hand_over(self, run: Run, model: Model) -> dict[str, Any] | None:
        """Load the weights into the model, copy them and the log of their training, and record where they come from.

        Args:
            run: that takes them over; this process owns it.
            model: of the run's config.

        Returns:
            The timings of the training; None, and nothing is changed, if weights or log cannot be read or do not fit.
        """
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            log = self.run.metrics_file.read_text(encoding="utf-8")
            load_weights(self.run.weights_file, model)
        except (OSError, UnicodeDecodeError, SafetensorError, RuntimeError) as error:
            model.load_state_dict(before)
            LOGGER.warning("the weights of %s cannot be taken over (%s); training", self.run.run_id, error)
            return None
        save_weights(run.weights_file, model, run.guard)
        write_text_atomically(run.metrics_file, log, run.guard)
        timings = dict(self.record["timings"])
        run.update(timings=timings, trained={"run_id": self.run.run_id})
        return timings


def trained_before(
    run: Run, config: Mapping[str, Any], points_fingerprint: str, start: str | None, origin: Mapping[str, Any]
) -> Trained | None:
    """A finished run in the same results folder that trained what this run would train, None if there is none.

    Args:
        run: that is about to train.
        config: its resolved config.
        points_fingerprint: of the point labels of the training split.
        start: fingerprint of the weights it starts from, None if it starts afresh.
        origin: code, packages and hardware of this process (`benchmark.provenance.provenance`). Code that is not committed,
            or not known, may be another than it was.
    """
    # Of weights that are kept along a training (candidates) another run may not have kept the same.
    if origin["dirty"] is not False or config["evaluation"].get("candidates"):
        return None
    wanted = training_id(config, points_fingerprint, start)
    for folder in sorted(run.folder.parent.glob(f"{glob.escape(run_name(config))}-*")):
        other = Run(run.results_dir, folder.name)
        if other.run_id == run.run_id or not other.weights_file.exists():
            continue
        try:
            record = other.read()
            if record and _has_trained(record, origin) and _training_of(record) == wanted:
                return Trained(other, record)
        except (ValueError, KeyError, TypeError):
            continue  # its own report says what is wrong with it
    return None


def _has_trained(record: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
    """Whether a run is done, trained itself, and did so where ``origin`` says."""
    known = {key: record["provenance"][key] for key in origin} if record["state"] == State.DONE else {}
    return bool(known and record.get("timings")) and not record.get("trained") and known == json.loads(json.dumps(origin))


def _training_of(record: Mapping[str, Any]) -> str:
    fingerprints = record["provenance"]["fingerprints"]
    return training_id(record["config"], fingerprints["points"], fingerprints.get("start"))
