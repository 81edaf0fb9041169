"""Checkpoints from which a killed run goes on to the same numbers as an unbroken one.

A checkpoint is a folder, written under a temporary name and renamed: weights (safetensors), optimiser state and a
manifest with the sizes of both files. The last two are kept; a torn one is passed over for the one before.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import nn

from benchmark.data.errors import DataError
from methods.base.model import Model

KEPT = 2

Guard = Callable[[], None]
"""Called right before a file takes its name; what it raises keeps the file from it (`benchmark.runs.Run.guard`)."""


def _nothing() -> None:
    """The guard of a folder that nobody else writes to."""


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any],
    guard: Guard = _nothing,
) -> None:
    """Write ``folder/step_<step>/``.

    Args:
        folder: the run's checkpoint folder.
        step: optimiser steps done.
        extra: plain JSON values to get back from `load_checkpoint` (timings, seconds spent).
        guard: keeps a copy of the run that lost it from writing.
    """
    final = folder / f"step_{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{final.name}."))
    temporary.chmod(0o755)
    save_model(model, str(temporary / "weights.safetensors"))
    torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
    (temporary / "manifest.json").write_text(json.dumps({"step": step, "sizes": sizes, "extra": extra}))
    guard()
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in _found(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest whole checkpoint into model and optimiser, and delete what a killed process left half written.

    Returns:
        (step, extra), or None if there is no usable checkpoint.
    """
    for partial in folder.glob(".step_*"):
        shutil.rmtree(partial, ignore_errors=True)
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


def save_weights(path: Path, model: nn.Module, guard: Guard = _nothing) -> None:
    """The final weights of network and labeler as one safetensors file, atomically."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        save_model(model, name)
        temporary.chmod(0o644)
        guard()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: Path, model: nn.Module) -> None:
    """Load weights written by `save_weights`; every tensor of the model must be there and nothing else."""
    load_model(model, str(path), strict=True)


def load_network(path: Path, model: Model) -> list[str]:
    """Load only the network (what remains at test time) from weights of another run; the labeler stays as it is.

    Args:
        path: a file of `save_weights`, of the same network; the data set, and so the head's classes, may be another.
        model: to be loaded into.

    Returns:
        Names of the head's tensors that the file does not have in this form: they keep their fresh values.

    Raises:
        DataError: the file cannot be read, or it is of another encoder.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"The weights {path} of init_from cannot be read: {error}.") from None
    network = {id(tensor) for module in model.network_modules() for tensor in (*module.parameters(), *module.buffers())}
    own = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in network}
    fitting = {name for name, tensor in own.items() if name in found and found[name].shape == tensor.shape}
    fresh = [name for name in own if name not in fitting]
    other = [name for name in fresh if name.startswith("encoder.")]
    if other:
        raise DataError(
            f"The weights {path} of init_from are of another network: {other[0]} and {len(other) - 1} more tensors of the "
            "encoder do not fit; name a run with the same model."
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(found[name])
    return fresh
