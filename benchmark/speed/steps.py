"""Section ``steps``: training steps of every panoptic method, split into stages, beside the step with full masks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.speed.harness import Budget, Settings, collector_between_rounds, give_back_memory
from benchmark.speed.inputs import write_photographs
from benchmark.speed.rows import STEPS, Table, error_row, ratios, summary
from benchmark.speed.tables import STAGES
from benchmark.speed.targets import PSEUDO_LABEL_SHARE, STEP_RATIO, WITHOUT_LABEL_BRANCH
from benchmark.speed.training import Trainer, cells

IMAGES = 8
DATA = ("dataset=coco_panoptic", "dataset.name=photographs", "model.backbone.pretrained=false")
MASKS = "masks"
"""The supervision of the method whose step is the reference."""

Rounds = list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Setting:
    """A size at which steps are measured.

    Attributes:
        title: for the table. words: config words beside those of `DATA`.
        size: (height, width) of the image files.
        seconds: the budget of all methods in turn.
        pair_seconds: the budget of each method whose ratio has a target, in turn with the reference alone.
        large: on a CPU a step takes so long that one round of all methods has to do; all but one warm up on a small input.
    """

    title: str
    words: tuple[str, ...]
    size: tuple[int, int]
    seconds: float
    pair_seconds: float = 0
    large: bool = False


PAPER = Setting(
    "600 x 800, batch 2, the papers' network", ("scale=paper", "schedule.batch_size=2"), (375, 500), 120,
    pair_seconds=80, large=True,
)  # fmt: skip
SMALL_NETWORK = ("scale=mini", "model.layers=3")
"""With half of the papers' encoder layers. With the single one of short runs a step costs less, its labels the same."""
SETTINGS = (
    Setting(
        "320 px, batch 4, with a head", (*SMALL_NETWORK, "head=panoptic_segformer_tiny"), (500, 500), 60, pair_seconds=70
    ),
    Setting("320 px, batch 4, head=none", (*SMALL_NETWORK, "head=none"), (500, 500), 35),
    PAPER,
)


def measure(settings: Settings, _: Any) -> Iterator[Table]:
    """A table for each size."""
    for setting in SETTINGS:
        if not (setting.large and settings.quick and settings.device.type == "cpu"):
            table = _at(setting, settings)
            give_back_memory()
            yield table


def _at(setting: Setting, settings: Settings) -> Table:
    table = Table(
        setting.title, STEPS,
        "Steps late in a run, on scenes in JPEG files with one point per target, loaded in the training process; random "
        "weights. The share of pseudo labels is that of the step without loading. Of the two ratios to the step with full "
        "masks, with and without loading, the higher one is judged"
        + (", in rounds of the method and full masks alone" if setting.pair_seconds else "")
        + ". The head runs in the stage of its losses.",
    )
    small = setting.large and settings.device.type == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        trainers = _warm_trainers(setting, settings, Path(folder), small, table.rows)
        if small and trainers:
            settings.tell(f"{setting.title}: a whole step to give the heap its size")
            next(iter(trainers.values())).step()
        settings.tell(f"{setting.title}: {len(trainers)} methods in turn")
        rounds = take_turns(trainers, settings.budget(setting.seconds, least=1 if small else 3))
        reference = next((label for label, trainer in trainers.items() if trainer.supervision == MASKS), None)
        for label, trainer in trainers.items():
            targeted = reference is not None and trainer.config["method"]["name"] in WITHOUT_LABEL_BRANCH
            compared = rounds
            if targeted and setting.pair_seconds:
                settings.tell(f"{setting.title}: {label} and {reference} in turn")
                pair = {label: trainer, reference: trainers[reference]}
                compared = take_turns(pair, settings.budget(setting.pair_seconds))
            against = (compared[label], compared[reference]) if reference is not None else None
            table.rows.append(step_row(label, rounds[label], against, trainer.supervision != MASKS, targeted))
    return table


def _warm_trainers(
    setting: Setting, settings: Settings, root: Path, small: bool, errors: list[dict[str, Any]]
) -> dict[str, Trainer]:
    """Label -> trainer of each method of the grid that trains at all, after steps that nobody times.

    Args:
        setting, settings: what to train. root: an empty folder for the data. small: warm up on a small input.
        errors: gets a row for each method that cannot take a step.
    """
    write_photographs(root / "data", setting.size, IMAGES)
    trainers: dict[str, Trainer] = {}
    for cell in cells([*DATA, f"dataset.root={root / 'data'}", *setting.words], root / "results"):
        label, trainer = cell.config["method"]["label"], Trainer(cell.config, settings.device)
        if not trainer.trainable:
            continue
        settings.tell(f"{setting.title}: {label}")
        try:
            for _ in range(1 if settings.device.type == "cpu" else 3):
                trainer.warm_up(small)
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            errors.append(error_row(label, str(error).partition("\n")[0]))
            continue
        trainers[label] = trainer
    return trainers


def take_turns(trainers: Mapping[str, Trainer], budget: Budget) -> dict[str, Rounds]:
    """Seconds of the stages of each trainer's step in each round, one step a round."""
    taken: dict[str, Rounds] = {label: [] for label in trainers}
    rounds, began = 0, time.perf_counter()
    with collector_between_rounds() as collect:
        while trainers and not budget.enough(rounds, time.perf_counter() - began):
            for label, trainer in trainers.items():
                taken[label].append(trainer.step())
            rounds += 1
            collect()
    return taken


def step_row(
    label: str, rounds: Rounds, against: tuple[Rounds, Rounds] | None, from_points: bool, targeted: bool
) -> dict[str, Any]:
    """The row of a method.

    Args:
        label: of the method.
        rounds: its steps.
        against: its steps and those with full masks in the same rounds, of which the ratio is taken; None without any.
        from_points: pseudo labels have to be made; else their stage is no subject.
        targeted: whether the ratio has a target.
    """
    without_data = _without_data(rounds)
    share = summary(ratios([each.get("pseudo_labels", 0.0) for each in rounds], without_data))
    row: dict[str, Any] = {
        "case": label, "stages": {stage: summary(_column(rounds, stage)) for stage in (*STAGES, "rest")},
        "step": summary(_column(rounds, "step")), "step_without_data": summary(without_data), "share": share,
        "share_target": str(PSEUDO_LABEL_SHARE) if from_points else None,
        "share_met": PSEUDO_LABEL_SHARE.met(share["median"]) if from_points else None,
        "ratio": None, "ratio_without_data": None, "target": None, "met": None,
    }  # fmt: skip
    if against is not None:
        own, reference = against
        row["ratio"] = summary(ratios(_column(own, "step"), _column(reference, "step")))
        row["ratio_without_data"] = summary(ratios(_without_data(own), _without_data(reference)))
        if targeted:
            worse = max(row[ratio]["median"] for ratio in ("ratio", "ratio_without_data"))
            row |= {"target": str(STEP_RATIO), "met": STEP_RATIO.met(worse)}
    return row


def _column(rounds: Sequence[Mapping[str, float]], stage: str) -> list[float]:
    return [each.get(stage, 0.0) for each in rounds]


def _without_data(rounds: Sequence[Mapping[str, float]]) -> list[float]:
    return [each["step"] - each["data"] for each in rounds]
