"""Runs that differ only in what happens after training have the same weights: one trains, the others take those over.

So a comparison of test-time thresholds costs one training. Training is a function of config, points and seed (on a GPU up to
rounding), and a run that shares one says so: ``trained`` in its record names the run that did it, and its code revision.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from benchmark.checkpoint import load_weights, save_weights
from benchmark.runs import Run, State, run_name, training_identity, write_text_atomically
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
            The timings of the training; None, and nothing is written, if the weights cannot be read (torn, or deleted
            meanwhile).
        """
        try:
            load_weights(self.run.weights_file, model)
        except (OSError, SafetensorError) as error:  # raised before anything is loaded
            LOGGER.warning("%s cannot be read (%s); training", self.run.weights_file, error)
            return None
        save_weights(run.weights_file, model, run.guard)
        write_text_atomically(run.metrics_file, self.run.metrics_file.read_text(encoding="utf-8"), run.guard)
        timings = dict(self.record["timings"])
        origin = self.record["provenance"]
        # Who took them over itself names the run that trained them, which may be gone.
        trained = self.record.get("trained") or {
            "run_id": self.run.run_id, "revision": origin.get("revision"), "dirty": origin.get("dirty"),
        }
        run.update(timings=timings, trained=trained)
        return timings


def trained_before(run: Run, config: Mapping[str, Any], points_fingerprint: str, start: str | None) -> Trained | None:
    """A finished run in the same results folder with the weights that this run would train, None if there is none.

    A run that keeps weights along its training (``evaluation.candidates``) always trains: another's may not be kept.

    Args:
        run: that is about to train.
        config: its resolved config.
        points_fingerprint: of the point labels of the training split.
        start: fingerprint of the weights it starts from, None if it starts afresh.
    """
    if config["evaluation"].get("candidates"):
        return None
    wanted = training_identity(config, points_fingerprint, start)
    for folder in sorted(run.folder.parent.glob(f"{run_name(config)}-*")):
        other = Run(run.results_dir, folder.name)
        if other.run_id == run.run_id or not (other.weights_file.exists() and other.metrics_file.exists()):
            continue
        try:
            record = other.read()
            fingerprints = record["provenance"]["fingerprints"] if record and record["state"] == State.DONE else None
        except (ValueError, KeyError, TypeError):
            continue  # its own report says what is wrong with it
        if fingerprints is None or not record.get("timings"):
            continue
        found = training_identity(record["config"], fingerprints["points"], fingerprints.get("start"))
        # A record has passed through JSON, which has lists where a config may have tuples.
        if found == json.loads(json.dumps(wanted)):
            return Trained(other, record)
    return None
