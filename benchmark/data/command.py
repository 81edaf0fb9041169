"""What the commands about data have in common: ``key=value`` words, a progress bar and a list of problems."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmark.configs import ConfigError, unknown

QUIET_SECONDS = 30.0
"""Without a terminal, a line about progress is printed this often."""

SHOWN_PROBLEMS = 20
"""Problems printed in full; the rest is counted."""

Reader = Callable[[str, str], Any]
"""``(word, its text) -> value``; ConfigError if the text cannot be used."""


def read_words(arguments: Sequence[str], known: Mapping[str, Reader], required: Sequence[str] = ()) -> dict[str, Any]:
    """The values of ``key=value`` words; words that were not given are absent.

    Args:
        arguments: the command line.
        known: how each word is read.
        required: words that must be given.

    Raises:
        ConfigError: a word that is unknown, given twice, missing or of an unusable value.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        key, sign, text = argument.partition("=")
        if not sign:
            raise ConfigError(f"'{argument}' is not understood: write key=value with one of {', '.join(known)}.")
        if key not in known:
            raise unknown("word", key, known)
        if key in values:
            raise ConfigError(f"{key}= is given twice.")
        values[key] = known[key](key, text)
    for key in required:
        if key not in values:
            raise ConfigError(f"{key}= is missing: add {key}=VALUE.")
    return values


def word_path(word: str, text: str) -> Path:
    """A path, ``~`` being the home folder."""
    if not text:
        raise ConfigError(f"{word}= needs a path.")
    return Path(text).expanduser()


def word_text(word: str, text: str) -> str:
    """Any text but none."""
    if not text:
        raise ConfigError(f"{word}= needs a value.")
    return text


def word_names(word: str, text: str) -> list[str]:
    """Names separated by commas, in brackets or not."""
    names = [name.strip() for name in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(names):
        raise ConfigError(f"{word}={text} is not a list of names; write {word}=[first,second].")
    return names


def word_flag(word: str, text: str) -> bool:
    """true or false."""
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{word}={text} is not known; write {word}=true or {word}=false.")
    return text.lower() == "true"


def word_count(word: str, text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{word}={text} is not a number of things; write {word}=1 or more.")
    return int(text)


def word_number(word: str, text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise ConfigError(f"{word}={text} is not a whole number; write {word}=0 or more.")
    return int(text)


@contextmanager
def progress_bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line now and then elsewhere; the result is called with the number of things that are done."""
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console, disable=not console.is_terminal,
    )
    task, began = bars.add_task(what, total=total), time.monotonic()
    spoke = began

    def show(done: int) -> None:
        nonlocal spoke
        bars.update(task, completed=done)
        now = time.monotonic()
        if not console.is_terminal and now - spoke > QUIET_SECONDS and done:
            left = (now - began) / done * (total - done)
            console.print(f"{what}: {done}/{total}, {left:.0f} s left", markup=False, soft_wrap=True)
            spoke = now

    with bars:
        yield show


def print_problems(console: Console, title: str, problems: Sequence[str]) -> None:
    """The first problems in full, the rest as a number; nothing if there is none."""
    if not problems:
        return
    console.print(f"{title}:", style="yellow", markup=False, soft_wrap=True)
    for problem in problems[:SHOWN_PROBLEMS]:
        console.print(f"  {problem}", markup=False, soft_wrap=True)
    if len(problems) > SHOWN_PROBLEMS:
        console.print(f"  and {len(problems) - SHOWN_PROBLEMS} more", markup=False, soft_wrap=True)
