"""Where numbers come from: code revision, package versions, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "timm", "mmdet", "mmcv-lite", "mmengine", "lightning-fabric", "numpy", "scipy", "numba")


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # not a checkout, or no git: the record says so
    return done.stdout.strip()


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
    status = _git("status", "--porcelain", "--", "methods", "benchmark", "reports", "slurm", "pyproject.toml")
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "revision": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
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
