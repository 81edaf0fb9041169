"""Config options become keyword arguments, checked by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any


def call_with_options(function: Callable, options: Mapping[str, Any], what: str, *args: Any) -> Any:
    """``function(*args, **options)``, with an error that lists the valid names if an option is unknown or missing.

    Where the default of a parameter is a dataclass, a mapping given for it becomes an object of this class, checked alike:
    a group of options of a config.

    Args:
        function: a function or class; its parameters after ``args`` are the options.
        options: keyword arguments from a config group.
        what: where the options come from, for the message ("head 'mask2former'").

    Raises:
        ValueError: naming the unknown or missing options and the valid ones.
    """
    parameters = list(inspect.signature(function).parameters.values())[len(args):]
    valid = {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    unknown = sorted(set(options) - set(valid))
    missing = sorted(name for name, required in valid.items() if required and name not in options)
    for problem, names in (("has no option", unknown), ("needs the option", missing)):
        if names:
            raise ValueError(f"The {what} {problem} {', '.join(names)}; its options are {', '.join(valid) or 'none'}.")
    groups = {p.name: type(p.default) for p in parameters if is_dataclass(p.default)}
    built = {
        name: call_with_options(groups[name], value, f"{what}, group '{name}',")
        if name in groups and isinstance(value, Mapping) else value
        for name, value in options.items()
    }
    return function(*args, **built)
