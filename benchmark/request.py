"""What a command line of ``benchmark.run`` asks for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from benchmark.configs import ConfigError, names_in, parse_overrides, unknown
from benchmark.launcher import LAUNCHERS

if TYPE_CHECKING:
    from benchmark.grid import Cell

WORDS = ("grid", "seeds", "cell", "plan", "why", "retry", "force", "fail_fast", "collect", "report", "launcher")


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for.

    Attributes:
        grid: name of the grid.
        overrides: config overrides in Hydra's grammar, as written.
        seeds: instead of the grid's.
        cell: only the cells that have exactly these axis values.
        plan: print what would run, and stop.
        why: print what keeps this run from being a cell of the grid, and stop.
        retry: "failed" repeats cells that failed as well.
        force: this run is made again from the start.
        fail_fast: no cell begins after one failed.
        collect: run nothing, only gather what there is.
        report: build the report at the end.
        launcher: a name of `benchmark.launcher.LAUNCHERS`.
        launcher_words: the words that are the launcher's own.
    """

    grid: str
    overrides: list[str]
    seeds: list[int] | None = None
    plan: bool = False
    why: str | None = None
    retry: str | None = None
    force: str | None = None
    fail_fast: bool = False
    collect: bool = False
    report: bool = True
    launcher: str = "local"
    launcher_words: tuple[str, ...] = ()
    cell: dict[str, Any] | None = None


def read_request(arguments: Sequence[str]) -> Request:
    """Split a command line into the words of this command, its launcher's and config overrides; ConfigError says what is
    wrong."""
    words: dict[str, Any] = {}
    others = []
    for override in parse_overrides(arguments):
        if override.key_or_group == "seed":
            value = override.get_value_element_as_str()
            raise ConfigError(f"'{override.input_line}' would hold for one run; write seeds=[{value}].")
        if override.key_or_group not in WORDS:
            others.append(override)
        elif override.key_or_group == "cell":
            words["cell"] = _axis_values(override)
        elif override.is_sweep_override():  # seeds=0,1 means seeds=[0,1]
            words[override.key_or_group] = f"[{','.join(override.sweep_string_iterator())}]"
        else:
            words[override.key_or_group] = override.get_value_element_as_str()
    if "grid" not in words:
        raise ConfigError(f"Say which grid to run: grid=NAME. Known: {', '.join(names_in('grid'))}.")
    if words.get("retry") not in (None, "failed"):
        raise ConfigError(f"retry={words['retry']} is not known; write retry=failed.")
    launcher = words.get("launcher", "local")
    if launcher not in LAUNCHERS:
        raise unknown("launcher", launcher, LAUNCHERS)
    overrides, launcher_words = [], []
    for override in others:
        owner = override.key_or_group.split(".", 1)[0]
        if owner in LAUNCHERS and owner != launcher:
            raise ConfigError(f"'{override.input_line}' is for launcher={owner}; add that word or leave this one out.")
        (launcher_words if owner in LAUNCHERS else overrides).append(override.input_line)
    return Request(
        words["grid"], overrides, _seeds(words.get("seeds")), _flag(words, "plan", False), words.get("why"),
        words.get("retry"), words.get("force"), _flag(words, "fail_fast", False), _flag(words, "collect", False),
        _flag(words, "report", True), launcher, tuple(launcher_words), words.get("cell"),
    )


def _axis_values(override: Override) -> dict[str, Any]:
    value = override.value()
    if override.is_sweep_override() or not isinstance(value, dict):
        raise ConfigError(f"'{override.input_line}' is not known; write the axis values of a cell, cell={{axis:value,...}}.")
    return value


def _flag(words: dict[str, Any], name: str, default: bool) -> bool:
    text = words.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise ConfigError(f"{name}={words[name]} is not known; write {name}=true or {name}=false.")
    return text == "true"


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    value = OmegaConf.to_container(OmegaConf.create({"seeds": OmegaConf.create(f"v: {text}").v}))["seeds"]
    seeds = value if isinstance(value, list) else [value]
    if not seeds or not all(type(seed) is int for seed in seeds):  # bool is an int, but no seed
        raise ConfigError(f"seeds={text} is not a list of whole numbers; write seeds=[0,1,2].")
    return seeds


def is_chosen(cell: Cell, request: Request) -> bool:
    """Whether a cell is among those that a command asks for."""
    if request.cell is None:
        return True
    values = {axis: parse_overrides([f"{axis}={text}"])[0].value() for axis, text in _own_axes(cell).items()}
    return values == request.cell


def _own_axes(cell: Cell) -> dict[str, str]:
    """The axes of a cell in the grid that it comes from."""
    return {axis: text for axis, text in cell.axes.items() if axis != "grid"}


def command_for(request: Request, cell: Cell) -> str:
    """The command line that repeats exactly one cell, where it was run; for a run that others start from, both."""
    axes = ",".join(f"{axis}:{text}" for axis, text in _own_axes(cell).items())
    where = [] if request.launcher == "local" else [f"launcher={request.launcher}", *request.launcher_words]
    words = [f"grid={cell.grid}", *cell.words, f"cell={{{axes}}}", f"seeds=[{cell.seed}]", *where, "retry=failed"]
    return "python -m benchmark.run " + " ".join(shlex.quote(word) for word in words)
