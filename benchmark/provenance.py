"""Where numbers come from: code revision, package versions, hardware."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
FROZEN = ROOT / "revision.json"
"""Of a copy of the code that submitted jobs run: the revision that it was taken from."""

PACKAGES = ("torch", "torchvision", "timm", "mmdet", "mmcv-lite", "mmengine", "lightning-fabric", "numpy", "scipy", "numba")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # not a checkout, or no git: the record says so
    return done.stdout.strip()


def code_revision() -> dict[str, str | bool | None]:
    """``revision`` and ``dirty`` of this code; None where it is no checkout."""
    if FROZEN.exists():
        return json.loads(FROZEN.read_text())
    status = _git("status", "--porcelain", "--", "methods", "benchmark", "reports", "slurm", "pyproject.toml")
    return {"revision": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"  # such as mmcv-lite beside a compiled mmcv
    return found


def provenance(device: str, threads: int) -> dict[str, Any]:
    """The part of a run record that says what made it; ``fingerprints`` and ``seeds`` are added by the run.

    Args:
        device: device type that the run uses, ``cpu`` or ``cuda``.
        threads: torch threads of the process.
    """
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        **code_revision(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": threads,
            "device": device,
            "gpu": gpu,
            "system": f"{platform.system()} {platform.machine()}",
        },
    }
