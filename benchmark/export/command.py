"""What ``benchmark.label`` and ``benchmark.predict`` have in common: words, run, work, and what is said at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmark.configs import ConfigError, unknown
from benchmark.data.coco import CocoPanoptic
from benchmark.data.command import (
    print_problems,
    progress_bar,
    read_words,
    word_count,
    word_flag,
    word_number,
    word_path,
    word_text,
)
from benchmark.data.errors import DataError
from benchmark.execute import load_run
from benchmark.export.folder import ExportFolder, Labelled, OutputError
from benchmark.export.inputs import FolderInputs, Inputs, inputs_with_points
from benchmark.export.labelling import Item, Items, label, label_all, predict
from benchmark.export.quality import measure, open_truth
from benchmark.initial import Start
from benchmark.runs import Run, write_json_atomically
from benchmark.stopping import Preempted
from methods import method_class
from methods.base.model import Model
from methods.base.types import Categories

WORDS = {
    "run": word_text, "images": word_path, "points": word_path, "out": word_path, "results_dir": word_path,
    "count": word_count, "truth": word_path, "overlays": word_flag, "device": word_text, "workers": word_number,
}  # fmt: skip
OF_POINTS = ("points", "count")
"""Words of ``benchmark.label`` alone."""


@dataclass(frozen=True, slots=True)
class Verb:
    """What a command does to an image.

    Attributes:
        name: of the command.
        make: labels of an image.
        points: whether it reads points.
        refuse: why it cannot use a model of a method, given its kind of supervision; "" if it can.
    """

    name: str
    make: Callable[[Model, Item, torch.device], Labelled]
    points: bool
    refuse: Callable[[Model, str], str]


def _cannot_label(model: Model, supervision: str) -> str:
    if not model.makes_labels:
        return "predicts classes and makes no labels from points: use python -m benchmark.predict"
    return "makes its labels from masks: use python -m benchmark.predict, if it has a head" if supervision == "masks" else ""


def _cannot_predict(model: Model, supervision: str) -> str:
    needs = "has no head (head=none), so it makes labels from points only: use python -m benchmark.label"
    return "" if model.predicts else needs


LABEL = Verb("label", label, True, _cannot_label)
PREDICT = Verb("predict", predict, False, _cannot_predict)


@dataclass(frozen=True, slots=True)
class Job:
    """A command that is ready to work."""

    verb: Verb
    model: Model
    items: Items
    folder: ExportFolder
    device: torch.device
    workers: int
    truth: CocoPanoptic | None

    @property
    def inputs(self) -> Inputs:
        return self.items.inputs


def command(verb: Verb, usage: str, arguments: Sequence[str] | None) -> int:
    """Exit status 0: every image has its labels; 1: some have none, or the command was stopped; 2: it cannot work."""
    console = Console(highlight=False)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(word in ("-h", "--help", "help") for word in arguments):
        console.print(usage, markup=False)
        return 0
    try:
        job = prepare(verb, arguments)
        reasons = work(job, console)
        if job.truth is not None:
            tell_quality(job, reasons, console)
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on where this one ended.")
        return 1
    except Preempted as error:
        console.print(f"Stopped: {error}. The same command goes on where this one ended.", markup=False, soft_wrap=True)
        return 1
    except (ConfigError, DataError, OutputError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    return 1 if reasons or job.inputs.stray else 0


def prepare(verb: Verb, arguments: Sequence[str]) -> Job:
    """Read the command line, load the run and open the output.

    Raises:
        ConfigError: a word or the run cannot be used.
        DataError, OutputError: input or output cannot be used.
    """
    known = {word: read for word, read in WORDS.items() if verb.points or word not in OF_POINTS}
    words = read_words(arguments, known, ["run", "images", *(["points"] if verb.points else []), "out"])
    run = find_run(words["run"], words.get("results_dir", Path("results")))
    device = device_of(words.get("device", "auto"))
    try:
        model, config = load_run(run, device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if reason := verb.refuse(model, method_class(config["method"]["name"]).supervision):
        raise ConfigError(f"Run {run.run_id} {reason}.")
    inputs = _inputs(verb, words, model.categories)
    panoptic = model.makes_labels
    weights = Start(run.weights_file).fingerprint if run.weights_file.exists() else None
    origin = {"verb": verb.name, "run": run.run_id, "weights": weights}
    folder = ExportFolder(words["out"], model.categories, panoptic, words.get("overlays", True), origin)
    if words.get("truth") and not panoptic:
        raise ConfigError(f"Run {run.run_id} makes class maps, which truth= does not measure; leave that word out.")
    truth = open_truth(words["truth"], folder) if words.get("truth") else None
    folder.open()
    return Job(verb, model, Items(inputs, config["input"]), folder, device, words.get("workers", 0), truth)


def find_run(text: str, results_dir: Path) -> Run:
    """A run by the path of its folder, or by its id; ConfigError with the closest one if there is none."""
    path = Path(text).expanduser()
    run = Run(path.parent.parent, path.name) if path.parent.name == "runs" else Run(results_dir, text)
    if not run.record_file.is_file():
        known = sorted(file.parent.name for file in run.folder.parent.glob("*/run.json"))
        if not known:
            raise ConfigError(f"There is no run '{text}' and no other in {run.folder.parent}: set results_dir=DIR.")
        raise unknown("run", text, known)
    return run


def device_of(text: str) -> torch.device:
    """``auto``, or what torch calls a device; ConfigError if it is not here."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise ConfigError(f"device={text} is not known; write device=auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={text}: there is no GPU here; write device=cpu.")
    return device


def _inputs(verb: Verb, words: Mapping[str, Any], categories: Categories) -> Inputs:
    folder = words["images"]
    if not folder.is_dir():
        raise DataError(f"The images folder {folder} does not exist: correct images=DIR.")
    if not verb.points:
        return FolderInputs(folder, besides=words["out"])
    return inputs_with_points(folder, words["points"], categories, words.get("count"))


def work(job: Job, console: Console) -> dict[int, str]:
    """Label what has no labels, put the JSON files together, and say what was left out; the reason by place of image."""
    inputs, folder = job.inputs, job.folder
    with progress_bar(console, f"{job.verb.name}: images", len(inputs)) as show:
        reasons = label_all(job.model, job.items, folder, job.verb.make, job.device, job.workers, colliding(inputs), show)
    folder.assemble(lambda: ((inputs.image_id(i), inputs.names[i]) for i in range(len(inputs)) if i not in reasons))
    told = {inputs.names[i]: reason for i, reason in reasons.items()}
    folder.write_skipped(told)
    print_problems(console, "Lines that name no image", inputs.stray)
    print_problems(console, "Images without labels", [f"{name}: {reason}" for name, reason in told.items()])
    made = f"{len(inputs) - len(told)} of {len(inputs)} images have labels in {folder.root}"
    console.print(made, markup=False, soft_wrap=True)
    return reasons


def colliding(inputs: Inputs) -> dict[int, str]:
    """Images whose maps would have the names of an earlier image's, by place."""
    owner: dict[str, str] = {}
    reasons = {}
    for place, name in enumerate(inputs.names):
        first = owner.setdefault(str(Path(name).with_suffix("")), name)
        if first != name:
            reasons[place] = f"its labels would replace those of {first}; file names must differ in more than their ending."
    return reasons


def tell_quality(job: Job, reasons: Mapping[int, str], console: Console) -> None:
    """Measure the labels with the given masks, print the numbers and keep them in ``quality.json``."""
    assert job.truth is not None
    inputs = job.inputs
    names = {name: None for place, name in enumerate(inputs.names) if place not in reasons}
    with progress_bar(console, "measuring", len(names)) as show:
        values = measure(job.folder, names, job.truth, inputs.truth, show)
    write_json_atomically(job.folder.root / "quality.json", values)
    for key, value in values.items():
        shown = "none" if value is None else f"{100 * value:.2f} %" if isinstance(value, float) else value
        console.print(f"  {key.replace('_', ' ')}: {shown}", markup=False)
