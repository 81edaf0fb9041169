"""The code that jobs run is a copy made at submission: later edits, and switching branches, do not leak into a queue."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

PARTS = ("methods", "benchmark", "reports", "slurm", "pyproject.toml")
"""What jobs run, below the root of the checkout (or of the folder that the packages are installed in)."""


def freeze(folder: Path) -> Path:
    """Copy this code to ``folder/<hash of its content>``, unless it is there already; returns that folder.

    Files of a checkout that are new and not ignored belong to the code, tracked or not: what runs here runs there. Its
    revision goes along as ``revision.json``, from which `benchmark.provenance` answers in a job.
    """
    from benchmark.provenance import FROZEN, ROOT, code_revision

    contents = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in _files(ROOT)}
    contents[FROZEN.name] = json.dumps(code_revision()).encode()
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(f"{name}\0{len(contents[name])}\0".encode() + contents[name])
    final = folder / digest.hexdigest()[:12]
    if final.is_dir():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder, prefix=".code."))
    try:
        fresh.chmod(0o755)
        for name, content in contents.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        fresh.rename(final)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not final.is_dir():  # else another command froze the same code meanwhile
            raise
    return final


def _files(root: Path) -> list[Path]:
    """The files of the code: what git knows or would add in a checkout, else all but what Python makes itself."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS]
        try:
            listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            pass  # no git on this machine, or not this user's checkout
        else:
            paths = [root / name for name in listed.split("\0") if name]
            return [path for path in paths if path.is_file()]  # one that was deleted and not committed is still listed
    return [
        path for part in PARTS for path in ([root / part] if (root / part).is_file() else (root / part).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
