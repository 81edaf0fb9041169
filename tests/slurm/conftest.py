"""A real SLURM for these tests: two nodes on this machine, started once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.queue import run as ask
from tests.slurm import fake_grid

SCRIPT = fake_grid.ROOT / "slurm" / "local_cluster.sh"
PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge",
            "slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core"}
"""What has to be there, and the Debian package that brings it (beside them: slurm-wlm-mysql-plugin)."""

PATIENCE = 600.0
"""Seconds after which something that has not happened never will, on a slow machine."""


class Cluster:
    """A running cluster.

    Attributes:
        folder: where all of it lies.
    """

    def __init__(self, folder: Path, accounting: str = "dbd"):
        self.folder = folder
        ports = str(free_ports(10))
        self.environment = {"CLUSTER_DIR": str(folder), "SLURM_PORT_BASE": ports, "SLURM_ACCOUNTING": accounting}

    @property
    def conf(self) -> str:
        return str(self.folder / "etc" / "slurm.conf")

    def script(self, verb: str) -> None:
        done = self._run(verb)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> str:
        """Start the daemons; what they say if they do not start, "" if they do."""
        done = self._run("up")
        return "" if done.returncode == 0 else " ".join((done.stdout + done.stderr).split())[-600:]

    def _run(self, verb: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run([SCRIPT, verb], env=environment, capture_output=True, text=True, timeout=300)

    def lose(self, node: str) -> None:
        """Kill a node's daemon; what it has started goes on, as behind a broken network."""
        os.kill(int((self.folder / "run" / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)

    def bring_back(self, node: str) -> None:
        subprocess.run(["slurmd", "-N", node], env=with_daemons(SLURM_CONF=self.conf), check=True)

    def idle(self) -> bool:
        """Whether both nodes are free."""
        return len(set(ask("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())) == 2


def with_daemons(**changes: str) -> dict[str, str]:
    """The environment with the folders where Debian keeps daemons."""
    return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **changes}


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody listens on."""
    for base in range(27000 + os.getpid() % 500 * 20, 60000, 20):
        with socket.socket() as first, socket.socket() as last:
            try:
                first.bind(("127.0.0.1", base))
                last.bind(("127.0.0.1", base + count - 1))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")


def started(accounting: str) -> Iterator[Cluster]:
    path = with_daemons()["PATH"]
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None})
    if missing:
        packages = " ".join([*missing, "slurm-wlm-mysql-plugin"])
        pytest.skip(f"install: RUNLEVEL=1 apt-get install --no-install-recommends {packages}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path is short, and munge wants it reachable
    cluster = Cluster(folder, accounting)
    before = os.environ.get("SLURM_CONF")
    try:
        refusal = cluster.start()
        if refusal:  # a container may forbid what the daemons need; the summary of the tests shows the reason
            pytest.skip(f"the packages are here, but the cluster does not start on this machine: {refusal}")
        os.environ["SLURM_CONF"] = cluster.conf
        yield cluster
    finally:
        cluster.script("down")
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A cluster with accounting; the environment says where it is."""
    fake_grid.hurry()
    yield from started("dbd")


@pytest.fixture
def cluster_without_accounting(cluster) -> Iterator[Cluster]:
    """A second cluster, without slurmdbd, that the environment names meanwhile."""
    yield from started("none")


def wait_until(condition: Callable[[], object], what: str = "") -> None:
    """Until something is true; fails after `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain {what}"
        time.sleep(0.1)
