"""Weights kept along a training, for the habit of reporting the best of them; and what is measured beside the last weights.

Several released codes keep the checkpoint that is best on the validation images and report its number. Such a number is
optimistic: it is chosen on the images that it is measured on. Here it is measured after training, beside the last weights
and apart from them. Training itself never sees a validation image: it saves weights, evaluation chooses.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark.checkpoint import load_weights, save_weights
from benchmark.data.datasets import EvaluationDataset
from benchmark.evaluate import Evaluator, Listener
from benchmark.mean_iou import mean_iou_result
from benchmark.runs import Run
from methods.base.model import Model
from methods.base.types import Categories

CHOSEN_BY = "mIoU on the validation images that it is measured on"
BEST = "best.safetensors"


def candidate_steps(evaluation: Mapping[str, Any], total: int) -> frozenset[int]:
    """Steps after which weights are kept: ``candidates`` of the ``evaluation`` config (0 if it has none), evenly spread, the
    last step among them."""
    count = evaluation.get("candidates", 0)
    return frozenset(-(-total * (i + 1) // count) for i in range(count))


def candidates(run: Run) -> dict[int, Path]:
    """Weights kept so far, by step. They lie beside the checkpoints and go with them once the run is done."""
    return {int(path.stem.removeprefix("step_")): path for path in sorted(_folder(run).glob("step_*.safetensors"))}


def save_candidate(run: Run, step: int, model: Model) -> None:
    """Keep the weights of a step."""
    _folder(run).mkdir(parents=True, exist_ok=True)
    save_weights(_folder(run) / f"step_{step:08d}.safetensors", model)


def _folder(run: Run) -> Path:
    return run.checkpoints / "candidates"


def further_predictions(
    run: Run, model: Model, dataset: EvaluationDataset, categories: Categories, device: torch.device, listener: Listener
) -> dict[str, Any]:
    """What is measured beside the usual prediction with the last weights.

    Args:
        run: with its last weights and its candidates.
        model: with the last weights, which it has again afterwards.
        dataset: validation images.
        categories, device, listener: as for `Evaluator`.

    Returns:
        Empty for a model without variants in a run without candidates. Else ``variants``: the predictions of each of the
        model's variants (``multi_scale``), and ``best`` and ``best_multi_scale`` with the best candidate's weights;
        ``selection``: how that one was chosen (``chosen_by``), its ``step`` and ``miou_by_step`` of all.
    """
    found = _variants(model, "", dataset, categories, device, listener)
    kept = candidates(run)
    if not kept:
        return {"variants": found} if found else {}
    measured = {}
    for step, path in kept.items():
        load_weights(path, model)
        what = f"weights of step {step}"
        measured[step] = Evaluator(model, categories, device, listener).predictions(dataset, None, what)
    quality = {step: _miou(result) for step, result in measured.items()}
    best = max(quality, key=lambda step: (quality[step], -step))
    load_weights(kept[best], model)
    found |= {"best": measured[best], **_variants(model, "best_", dataset, categories, device, listener)}
    shutil.copyfile(kept[best], run.folder / BEST)
    load_weights(run.weights_file, model)
    by_step = {str(step): value for step, value in quality.items()}
    return {"variants": found, "selection": {"chosen_by": CHOSEN_BY, "step": best, "miou_by_step": by_step}}


def _variants(
    model: Model, prefix: str, dataset: EvaluationDataset, categories: Categories, device: torch.device, listener: Listener
) -> dict[str, Any]:
    return {
        f"{prefix}{name}": Evaluator(view, categories, device, listener).predictions(dataset, None, name.replace("_", " "))
        for name, view in model.variants().items()
    }


def _miou(result: Mapping[str, Any]) -> float:
    return mean_iou_result(result["semantic"]["confusion"]).miou or 0.0
