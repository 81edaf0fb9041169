"""A memory of finished work, so that an interrupted command goes on and a repeated one only looks at sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from benchmark.data.files import replacing, storing

FORMAT = 1
"""Rises when the same files give other results."""


def stamps(paths: Sequence[Path], times: bool) -> list[list[Any]] | None:
    """Path, size in bytes and (``times``) time of change of each file; None if one is missing."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            return None
        found.append([str(path), stat.st_size, *([stat.st_mtime_ns] if times else [])])
    return found


class Ledger:
    """Results by name, each with the stamps of the files that it came from and that it made.

    One line is appended per result; a line that an interruption left unfinished is dropped when the ledger is opened.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}
        self._file: IO[str] | None = None
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []  # what is not remembered is done again
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("format") == FORMAT:
                self._entries[entry["name"]] = entry

    def __enter__(self) -> Ledger:
        content = "".join(json.dumps(entry) + "\n" for entry in self._entries.values())
        with storing(self.path):
            with replacing(self.path) as file:
                file.write(content.encode())
            self._file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def result(self, name: str, inputs: Sequence[Path], outputs: Sequence[Path]) -> Any | None:
        """What was noted under a name, None unless its files are as they were: inputs unchanged, outputs of their size."""
        entry = self._entries.get(name)
        if entry is None or None in (entry["inputs"], entry["outputs"]):
            return None
        same = entry["inputs"] == stamps(inputs, times=True) and entry["outputs"] == stamps(outputs, times=False)
        return entry["result"] if same else None

    def note(self, name: str, inputs: Sequence[Path], outputs: Sequence[Path], result: Any) -> None:
        """Remember a result that JSON can express; the ledger must have been entered. OutputError if it cannot be stored."""
        assert self._file is not None
        entry = {"format": FORMAT, "name": name, "inputs": stamps(inputs, times=True),
                 "outputs": stamps(outputs, times=False), "result": result}
        self._entries[name] = entry
        with storing(self.path):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
