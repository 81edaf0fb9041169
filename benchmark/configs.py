"""Configs of single runs: Hydra groups composed once per combination, plain values merged per cell.

Composing costs tens of milliseconds, setting a value and resolving interpolations some more, and a grid may have ten
thousand cells that differ in a value or two. So each combination of group choices (``method=psps``) is composed once, and
resolved once for the values that some interpolation refers to (``seed``); all other values (``method.temperature=0.1``) are
set on a copy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict

CONF = Path(__file__).resolve().parent / "conf"
GROUPS = ("dataset", "model", "head", "method", "scale")
WORDS_FOR_NUMBERS = {"dataset.points.count": ("all",)}
"""Keys whose default is a number, and the words that they may have instead."""


class ConfigError(ValueError):
    """A key, value, method, data set or grid that does not exist, said in one sentence with the valid names."""


@lru_cache(maxsize=64)
def _names(folder: Path, _changed: int) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def names_in(group: str) -> list[str]:
    """The valid choices of a config group, sorted."""
    folder = CONF / group
    return list(_names(folder, folder.stat().st_mtime_ns))


def versions_of(method: str) -> set[int]:
    """The ``version`` of a method, by its ``name``, in the config files that are here; empty if none has that name."""
    files = (OmegaConf.load(CONF / "method" / f"{name}.yaml") for name in names_in("method"))
    return {file["version"] for file in files if file["name"] == method}


def other_versions(config: Mapping[str, Any], network_only: bool = False) -> str:
    """What made a run, and what this code has instead: "version 1 of method 'fdd', and this code has version 2"; "" if the
    versions are those of this code.

    Args:
        config: of the run's record; a version that it does not have is this code's.
        network_only: the method's version does not count.
    """
    shared, base = OmegaConf.load(CONF / "config.yaml")["base_version"], config.get("base_version")
    if base not in (None, shared):
        return f"version {base} of what all methods share, and this code has version {shared}"
    method, version = config["method"]["name"], config["method"]["version"]
    here = versions_of(method)
    if network_only or not here or version in here:
        return ""
    return f"version {version} of method '{method}', and this code has version {max(here)}"


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not known: the closest one, then all of them."""
    known = sorted(known)
    siblings = [other for other in known if other.split(".")[:-1] == name.split(".")[:-1]]
    close = difflib.get_close_matches(name, siblings or known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return ConfigError(f"Unknown {what} '{name}'{hint} Known: {', '.join(known)}.")


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Command-line words in Hydra's override grammar (quoting, lists, ``a=1,2`` sweeps)."""
    return [_parsed(argument) for argument in arguments]


@lru_cache(maxsize=2**16)
def _parsed(argument: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([argument])[0]
    except OverrideParseException as error:
        reason = str(error).splitlines()[0]
        hint = "write key=value, with quotes around special characters"
        raise ConfigError(f"Cannot read '{argument}' ({reason}); {hint}.") from None


@dataclass(frozen=True, slots=True)
class _Composed:
    """A combination of group choices.

    Attributes:
        config: with its interpolations.
        keys: dotted paths of all keys.
        references: dotted paths that interpolations mention; None if they cannot be told (relative ones).
    """

    config: DictConfig
    keys: frozenset[str]
    references: frozenset[str] | None

    def referred(self, key: str) -> bool:
        """Whether a value of this key may show in an interpolation."""
        return self.references is None or any(_related(key, other) for other in self.references)


@lru_cache(maxsize=256)
def _composed(groups: tuple[str, ...]) -> _Composed:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(groups))
    OmegaConf.set_struct(config, True)
    texts = [text for text in _leaves(OmegaConf.to_container(config)) if isinstance(text, str) and "${" in text]
    names = [name for text in texts for name in re.findall(r"[A-Za-z_][\w.]*", text)]
    relative = any("${." in text for text in texts)
    return _Composed(config, frozenset(flat_keys(config)), None if relative else frozenset(names))


def _leaves(node: Any) -> list[Any]:
    if isinstance(node, (dict, list)):
        return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in _leaves(child)]
    return [node]


def compose_run(overrides: Sequence[str]) -> dict[str, Any]:
    """The fully resolved config of one run as plain containers.

    Args:
        overrides: words in Hydra's grammar without sweeps; later ones win.

    Raises:
        ConfigError: an unknown group choice or key, a value that cannot be resolved, or one of another kind than the default
            (a text for a number, a single value for a list).
    """
    groups: dict[str, str] = {}
    values: list[Override] = []
    for override in parse_overrides(overrides):
        if override.is_sweep_override():
            raise ConfigError(f"'{override.input_line}' lists several values where one run needs one.")
        if override.key_or_group in GROUPS:
            choice = str(override.value())
            if choice not in names_in(override.key_or_group):
                raise unknown(override.key_or_group, choice, names_in(override.key_or_group))
            groups[override.key_or_group] = f"{override.key_or_group}={choice}"
        else:
            values.append(override)
    chosen = tuple(sorted(groups.values()))
    try:
        _composed(chosen)
    except (MissingConfigException, ConfigCompositionException, HydraException) as error:
        raise ConfigError(f"The config {' '.join(chosen)} cannot be composed: {error}") from None
    # an interpolation that a word brings in may refer to what any other word sets
    brought = any("${" in override.input_line for override in values)
    plain = {o.input_line: not brought and _is_plain(chosen, o.input_line) for o in values}
    early_keys = {override.key_or_group for override in values if not plain[override.input_line]}
    late, early = [], []
    for override in values:  # what lies on the path of a value that is not plain is set in order with it
        crossed = any(_related(override.key_or_group, key) for key in early_keys)
        (early if crossed else late).append(override)
    config = _copied(_resolved(chosen, tuple(override.input_line for override in early)))
    for override in late:
        _place(config, override.key_or_group, override.value())
    if values:
        defaults = _resolved(chosen, ())
        for key, override in {override.key_or_group: override for override in values}.items():  # the last one wins
            _check_kind(override, value_at(defaults, key), value_at(config, key))
    return config


def _check_kind(override: Override, default: Any, value: Any) -> None:
    """ConfigError if a value is of another kind than the default; null, and a default of null or text, say nothing."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"), ((int, float), "a number"), (list, "a list, [...]")
    )  # fmt: skip
    if value is None or value in WORDS_FOR_NUMBERS.get(override.key_or_group, ()):
        return
    for kind, name in kinds:
        if isinstance(default, kind):  # a flag is an int as well, but no number
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ConfigError(f"'{override.input_line}' is not {name}, as its default {default} is.")
            return


def value_at(config: Any, key: str) -> Any:
    """The value at a dotted path of a resolved config; None if it does not exist."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _related(key: str, other: str) -> bool:
    """Whether one dotted path is the other or leads to it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


@lru_cache(maxsize=2**16)
def _is_plain(groups: tuple[str, ...], word: str) -> bool:
    """Whether an override puts a number, text, flag or null in the place of another one that nothing refers to."""
    override, composed = _parsed(word), _composed(groups)
    key, value = override.key_or_group, override.value()
    if override.is_add() or override.is_delete() or key not in composed.keys or composed.referred(key):
        return False
    if not (value is None or isinstance(value, (bool, int, float, str))) or value == "???":
        return False
    node = OmegaConf.select(composed.config, key, throw_on_missing=False)
    return node is None or isinstance(node, (bool, int, float, str))


@lru_cache(maxsize=1024)
def _resolved(groups: tuple[str, ...], words: tuple[str, ...]) -> dict[str, Any]:
    """The config of some group choices under some values, for reading only."""
    config = _composed(groups).config.copy()
    for override in parse_overrides(words):
        _set(config, override)
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except ValueError as error:
        raise ConfigError(f"The config cannot be resolved: {str(error).splitlines()[0]}") from None


def _set(config: DictConfig, override: Override) -> None:
    key = override.key_or_group
    if override.is_delete():
        raise ConfigError(f"'{override.input_line}' removes a key; set it to null instead.")
    if not override.is_add() and key not in flat_keys(config):
        raise unknown("key", key, flat_keys(config))
    value = override.value()
    node = OmegaConf.select(config, key)
    if isinstance(value, str) and isinstance(node, DictConfig) and "file" in node:
        key = f"{key}.file"  # dataset.points=FILE
    with open_dict(config):
        OmegaConf.update(config, key, value, merge=True, force_add=override.is_add())


def _place(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


def _copied(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copied(child) for key, child in node.items()}
    return [_copied(child) for child in node] if isinstance(node, list) else node


def flat_keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Dotted paths of all keys, inner nodes included."""
    keys = []
    for key in config:
        path = f"{prefix}{key}"
        keys.append(path)
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            keys += flat_keys(node, f"{path}.")
    return keys
