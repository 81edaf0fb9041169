"""Checkpoints from which a killed run goes on to the same numbers as an unbroken one.

A checkpoint is a folder, written under a temporary name and renamed: weights (safetensors), optimiser state and a
manifest with the sizes of both files. The last two are kept; a torn one is passed over for the one before.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import nn

KEPT = 2


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]
) -> None:
    """Write ``folder/step_<step>/``.

    Args:
        folder: the run's checkpoint folder.
        step: optimiser steps done.
        extra: plain JSON values to get back from `load_checkpoint` (timings, seconds spent).
    """
    final = folder / f"step_{step:08d}"
    temporary = folder / f".{final.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_model(model, str(temporary / "weights.safetensors"))
    torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
    (temporary / "manifest.json").write_text(json.dumps({"step": step, "sizes": sizes, "extra": extra}))
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in _found(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest whole checkpoint into model and optimiser.

    Returns:
        (step, extra), or None if there is no usable checkpoint.
    """
    for candidate in _found(folder):
        manifest = _manifest(candidate)
        if manifest is None:
            continue
        try:
            state = torch.load(candidate / "optimizer.pt", map_location=device, weights_only=True)
            weights = load_file(candidate / "weights.safetensors")
        except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError):
            continue  # torn after all (right size, wrong content): the one before is whole
        del weights  # read only to see that it is whole; a model that does not fit is an error, not a torn file
        load_model(model, str(candidate / "weights.safetensors"), device=str(device))
        optimizer.load_state_dict(state)
        return manifest["step"], manifest["extra"]
    return None


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"), reverse=True)


def _manifest(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest, or None if the checkpoint is not whole."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        whole = all((checkpoint / name).stat().st_size == size for name, size in manifest["sizes"].items())
    except (OSError, ValueError, KeyError):
        return None
    return manifest if whole else None


def save_weights(path: Path, model: nn.Module) -> None:
    """The final weights of network and labeler as one safetensors file, atomically."""
    temporary = path.with_name(f".{path.name}.partial")
    save_model(model, str(temporary))
    temporary.replace(path)


def load_weights(path: Path, model: nn.Module) -> None:
    """Load weights written by `save_weights`; every tensor of the model must be there and nothing else."""
    load_model(model, str(path), strict=True)
