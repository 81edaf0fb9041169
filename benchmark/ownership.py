"""Who works on a run folder: one process at a time, known by a number that only grows.

``results/runs/<run_id>/owner/<number>.json`` is one claim, made with an atomic link: of two claimants of a number one wins.
The highest number owns the run, until it is released or its process is gone. A claim over another one has the next number,
so whoever holds a lower one finds out before its next write (`Token.check`): a second copy of a job that lost its run, on a
node that was given up for instance, overwrites nothing.

A process is known by host, boot, process id and start time, so a process id that is used again is not taken for the owner.
What cannot be seen from here, a process on another host, is asked of a function that the launcher gives; it counts as alive
where nothing better is known.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import processes
from benchmark.runs import now, write_json_atomically

if TYPE_CHECKING:
    from benchmark.runs import Run


class Superseded(RuntimeError):
    """A newer claim took the run over: this copy of it stops and leaves the folder alone."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process, or the job that will become one, that works on a run.

    Attributes:
        host: name of its machine, None for a job that has not begun.
        pid: process id, None for a job that has not begun.
        started: start of the process in clock ticks since boot, None where the system does not tell.
        boot: id of the machine's boot, None where the system does not tell.
        namespace: of process ids, None where the system does not tell; containers have their own.
        job: ``<job id>.<restart count>`` of a scheduler, None for a process that a person started.
    """

    host: str | None = None
    pid: int | None = None
    started: int | None = None
    boot: str | None = None
    namespace: str | None = None
    job: str | None = None

    @classmethod
    def here(cls, job: str | None = None) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(
            socket.gethostname(), pid, processes.started(pid), processes.boot(), processes.namespace(), job
        )

    @classmethod
    def of(cls, content: dict[str, Any]) -> Owner:
        """From a claim or a record; unknown keys are passed over."""
        return cls(**{name: content.get(name) for name in cls.__slots__})

    def __str__(self) -> str:
        process = f"process {self.pid} on {self.host}" if self.pid is not None else ""
        job = f"job {self.job}" if self.job else ""
        return " as ".join(part for part in (job, process) if part) or "an unknown process"


Elsewhere = Callable[[Owner], bool]
"""Whether an owner that cannot be seen from this process still exists."""


def assumed_alive(_owner: Owner) -> bool:
    """The answer about owners elsewhere where nothing is known of them."""
    return True


@dataclass(frozen=True, slots=True)
class Token:
    """A claim that was won.

    Attributes:
        folder: ``owner/`` of the run.
        number: the fencing number.
    """

    folder: Path
    number: int

    def holds(self) -> bool:
        """Whether no newer claim exists; one look at a folder."""
        return _newest(self.folder) == self.number

    def check(self) -> None:
        """Superseded if a newer claim exists: to be called before every write to the run folder."""
        newest = _newest(self.folder)
        if newest != self.number:
            by = _read(self.folder, newest)[0] if newest else "nobody: its claims were deleted"
            raise Superseded(
                f"Claim {self.number} of {self.folder.parent} is no longer valid, {by} took it over with claim {newest}; "
                "this copy stops without writing."
            )

    def release(self) -> None:
        """The run is free for the next claim. Nothing happens if it was taken over meanwhile."""
        if self.holds():
            content = json.loads(_claim_file(self.folder, self.number).read_text(encoding="utf-8"))
            write_json_atomically(_claim_file(self.folder, self.number), {**content, "released": now()})


def claim(
    run: Run, job: str | None = None, *, elsewhere: Elsewhere = assumed_alive, seize: bool = False
) -> Token | None:
    """Become the owner of a run folder, or None if somebody else is.

    A restart of a job takes over from an earlier restart of the same job, alive or not, and never from a later one.

    Args:
        run: the run; its folder is made if needed.
        job: ``<job id>.<restart count>`` where a scheduler runs this process.
        elsewhere: whether an owner that cannot be seen from here still exists.
        seize: take over from a live owner too, on a person's word.

    Raises:
        OSError: the file system has no hard links.
    """
    folder = run.owner_folder
    folder.mkdir(parents=True, exist_ok=True)
    newest = _newest(folder)
    if newest:
        owner, released = _read(folder, newest)
        order = _restarts(job, owner.job)
        if order < 0:
            return None
        if not (released or seize or order > 0) and alive(owner, elsewhere):
            return None
    token = Token(folder, newest + 1)
    if not _link(folder, token.number, Owner.here(job)):
        return None
    if not token.holds():  # decided on an old look at the folder, and others came and went since
        return None
    for old in folder.glob("*.json"):
        if int(old.stem) < newest:  # the one before stays: it says who was superseded
            old.unlink(missing_ok=True)
    return token


def owner_of(run: Run) -> Owner | None:
    """The owner of the newest claim that was not released, alive or not; None if the run is free."""
    newest = _newest(run.owner_folder)
    if not newest:
        return None
    owner, released = _read(run.owner_folder, newest)
    return None if released else owner


def alive(owner: Owner, elsewhere: Elsewhere = assumed_alive) -> bool:
    """Whether the process of an owner still exists.

    Args:
        owner: of a claim.
        elsewhere: asked if its process cannot be seen from here: another host, another namespace, a job that has not begun.
    """
    if owner == Owner():  # a claim that a crashing machine left half written: nobody is there to go on with it
        return False
    if owner.host != socket.gethostname() or owner.pid is None:
        return elsewhere(owner)
    if rebooted(owner):
        return False
    if owner.namespace not in (None, processes.namespace()):
        return elsewhere(owner)
    return processes.exists(owner.pid) and (owner.started is None or processes.started(owner.pid) == owner.started)


def rebooted(owner: Owner) -> bool:
    """Whether an owner is gone because its machine, this one, was started again."""
    return owner.host == socket.gethostname() and owner.boot is not None and owner.boot != processes.boot()


def _restarts(job: str | None, other: str | None) -> int:
    """1 if ``job`` is a later restart of the job ``other``, -1 if it is an earlier one, else 0."""
    if not job or not other:
        return 0
    (name, restart), (other_name, other_restart) = (text.rsplit(".", 1) for text in (job, other))
    if name != other_name:
        return 0
    return (int(restart) > int(other_restart)) - (int(restart) < int(other_restart))


def _claim_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


def _newest(folder: Path) -> int:
    """The highest number that was ever claimed, 0 for none."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return max((int(name[:-5]) for name in names if name.endswith(".json") and name[0] != "."), default=0)


def _read(folder: Path, number: int) -> tuple[Owner, bool]:
    """(owner, whether it released the run); nobody for a claim that a crash of the machine tore, or that is gone."""
    try:
        content = json.loads(_claim_file(folder, number).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return Owner(), False
    return Owner.of(content), "released" in content


def _link(folder: Path, number: int, owner: Owner) -> bool:
    """Publish a whole claim under its number; False if the number is taken."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".claim.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"number": number, **asdict(owner), "claimed": now()}, file)
        os.chmod(temporary, 0o644)
        os.link(temporary, _claim_file(folder, number))
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(
                error.errno, f"The file system of {folder} has no hard links, which keep two commands off one run; "
                "choose another folder with results_dir=FOLDER."
            ) from None
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)
    return True
