"""What tells a process from every other one: its machine's boot, its namespace, its id and when it started.

Read from ``/proc``, so on Linux; elsewhere a process is known by its id alone.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def boot() -> str | None:
    """The id of this machine's boot."""
    return _text(Path("/proc/sys/kernel/random/boot_id"))


def namespace() -> str | None:
    """The namespace of this process's ids; containers on one machine have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none, or the system does not tell."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def exists(pid: int) -> bool:
    """Whether a process of this id runs; one that ended, and whose parent has not asked how, does not."""
    if _stat(pid)[:1] == ["Z"]:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` from the third (state) on, behind a name that may hold anything; [] without a file."""
    text = _text(Path(f"/proc/{pid}/stat"))
    return text.rpartition(")")[2].split() if text else []


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
