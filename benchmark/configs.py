"""Configs of single runs: Hydra groups composed once per combination, plain values merged per cell.

Composing costs tens of milliseconds and a grid has many cells that differ in a value or two, so group choices
(``method=psps``) are composed and cached, values (``method.temperature=0.1``) are set on a copy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
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


class ConfigError(ValueError):
    """A key, value, method, data set or grid that does not exist, said in one sentence with the valid names."""


def names_in(group: str) -> list[str]:
    """The valid choices of a config group, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not known: the closest one, then all of them."""
    known = sorted(known)
    siblings = [other for other in known if other.split(".")[:-1] == name.split(".")[:-1]]
    close = difflib.get_close_matches(name, siblings or known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return ConfigError(f"Unknown {what} '{name}'{hint} Known: {', '.join(known)}.")


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Command-line words in Hydra's override grammar (quoting, lists, ``a=1,2`` sweeps)."""
    parsed = []
    for argument in arguments:
        try:
            parsed += OverridesParser.create().parse_overrides([argument])
        except OverrideParseException as error:
            reason = str(error).splitlines()[0]
            hint = "write key=value, with quotes around special characters"
            raise ConfigError(f"Cannot read '{argument}' ({reason}); {hint}.") from None
    return parsed


@lru_cache(maxsize=256)
def _composed(groups: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(groups))
    OmegaConf.set_struct(config, True)
    return config


def compose_run(overrides: Sequence[str]) -> dict[str, Any]:
    """The fully resolved config of one run as plain containers.

    Args:
        overrides: words in Hydra's grammar without sweeps; later ones win.

    Raises:
        ConfigError: an unknown group choice or key, or a value that cannot be resolved.
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
    try:
        config = _composed(tuple(sorted(groups.values()))).copy()
    except (MissingConfigException, ConfigCompositionException, HydraException) as error:
        raise ConfigError(f"The config {' '.join(sorted(groups.values()))} cannot be composed: {error}") from None
    for override in values:
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
    with open_dict(config):
        OmegaConf.update(config, key, override.value(), merge=True, force_add=override.is_add())


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
