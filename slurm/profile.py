"""Profiles: what a run asks of a cluster. ``slurm/profiles/*.yaml``; every key is explained in ``example_gpu.yaml``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.configs import ConfigError, parse_overrides, unknown

FOLDER = Path(__file__).resolve().parent / "profiles"
PER_RUN = ("gpus", "cpus", "memory", "time", "partition", "qos", "constraint")
"""Keys that an exception may set."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run gets. Runs with equal resources share an array.

    Attributes:
        nodes: how many.
        processes: of each node.
        gpus, cpus: of each process.
        memory_mb: of each process, MiB.
        minutes: time limit.
        partition, qos, constraint: where; None is left to the cluster.
    """

    nodes: int
    processes: int
    gpus: int
    cpus: int
    memory_mb: int
    minutes: int
    partition: str | None
    qos: str | None
    constraint: str | None

    def __str__(self) -> str:
        shape = f"{self.nodes} node{'s' * (self.nodes > 1)} × {self.processes} process{'es' * (self.processes > 1)}"
        gpus = f"{self.gpus} GPU{'s' * (self.gpus > 1)}, " if self.gpus else ""
        hours, minutes = divmod(self.minutes, 60)
        return f"{shape} of {gpus}{self.cpus} CPU{'s' * (self.cpus > 1)} and {self.memory_mb} MB, {hours}:{minutes:02d} h"


@dataclass(frozen=True, slots=True)
class Profile:
    """A cluster's profile; the keys of its file."""

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    gpus: int = 1
    cpus: int = 8
    memory: str = "60G"
    processes_per_node: int = 8
    time: str = "23:00:00"
    signal_seconds: int = 180
    resumes: int = 10
    array_parallelism: int = 16
    setup: Sequence[str] = ()
    container: str | None = None
    python: str | None = None
    exceptions: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for key, least in (("gpus", 0), ("cpus", 1), ("processes_per_node", 1), ("signal_seconds", 1), ("resumes", 0),
                           ("array_parallelism", 1)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise ConfigError(f"Profile '{self.name}' has {key}={value}; it is a whole number from {least} on.")
        for key in ("setup", "exceptions"):
            if isinstance(getattr(self, key), str) or not isinstance(getattr(self, key), Sequence):
                raise ConfigError(f"Profile '{self.name}' has {key}={getattr(self, key)}; it is a list.")
        for exception in self.exceptions:
            for key in exception:
                if key not in ("where", *PER_RUN):
                    raise unknown(f"key of an exception in profile '{self.name}'", key, ("where", *PER_RUN))
        minutes_of(self.time, self.name)
        megabytes_of(self.memory, self.name)

    def resources(self, config: Mapping[str, Any]) -> Resources:
        """What a run with this config asks for."""
        chosen = self
        for exception in self.exceptions:
            if all(_matches(config, key, wanted) for key, wanted in exception.get("where", {}).items()):
                chosen = replace(chosen, **{key: value for key, value in exception.items() if key != "where"})
        devices = config["devices"]
        if type(devices) is not int or devices < 1:
            raise ConfigError(f"devices={devices} is not a number of processes; write devices=1 or more.")
        nodes = math.ceil(devices / self.processes_per_node)
        if devices % nodes:
            most = self.processes_per_node
            raise ConfigError(
                f"devices={devices} can't be shared evenly by {nodes} nodes (profile '{self.name}' puts at most {most} "
                f"processes on one); choose {devices // nodes * nodes} or {-(-devices // nodes) * nodes}."
            )
        return Resources(
            nodes, devices // nodes, chosen.gpus, chosen.cpus, megabytes_of(chosen.memory, self.name),
            minutes_of(chosen.time, self.name), chosen.partition, chosen.qos, chosen.constraint,
        )


def _matches(config: Mapping[str, Any], key: str, wanted: Any) -> bool:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return node in wanted if isinstance(wanted, (list, tuple)) else node == wanted


def minutes_of(time: Any, profile: str) -> int:
    """Minutes, rounded up, of ``D-HH[:MM[:SS]]`` or ``HH:MM:SS``; ConfigError for anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time) if isinstance(time, str) else None
    if match is None or (match[1] is None and match[4] is None):
        raise ConfigError(f"Profile '{profile}' has time={time}; write D-HH:MM:SS or HH:MM:SS, in quotes in a file.")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = math.ceil(((days * 24 + hours) * 60 + minutes) + seconds / 60)
    if total < 1:
        raise ConfigError(f"Profile '{profile}' has time={time}; a run needs a minute at least.")
    return total


def megabytes_of(memory: Any, profile: str) -> int:
    """MiB of ``1800M``, ``60G`` or ``1T``; ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)([MGT])B?", memory) if isinstance(memory, str) else None
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"Profile '{profile}' has memory={memory}; write a number with M, G or T, such as 60G.")
    return int(match[1]) * 1024 ** "MGT".index(match[2])


def profile_names() -> list[str]:
    """The profiles that come with the project, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(words: Sequence[str]) -> Profile:
    """The profile of a command line.

    Args:
        words: ``slurm=NAME`` or ``slurm=path/to/file.yaml``, and ``slurm.key=value`` that win over the file.

    Raises:
        ConfigError: no or an unknown profile, an unknown key, or a value of the wrong kind.
    """
    name, changes = None, {}
    for override in parse_overrides(words):
        key = override.key_or_group
        if override.is_sweep_override():
            raise ConfigError(f"'{override.input_line}' lists several values where a command has one.")
        if key == "slurm":
            name = str(override.value())
        else:
            changes[key.removeprefix("slurm.")] = override.value()
    if name is None:
        raise ConfigError(f"Say which cluster: slurm=PROFILE. Known: {', '.join(profile_names())}; or the path of a file.")
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise unknown("profile", name, profile_names())
    content = {**OmegaConf.to_container(OmegaConf.load(path), resolve=True), **changes}  # type: ignore[dict-item]
    known = [one.name for one in fields(Profile) if one.name != "name"]
    for key in content:
        if key not in known:
            raise unknown(f"key of profile '{name}'", str(key), known)
    return Profile(path.stem, **content)
