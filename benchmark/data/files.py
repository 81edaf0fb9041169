"""Reading and writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from benchmark.data.errors import DataError, OutputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name ``path`` only once it is complete; missing parent folders are made.

    After an exception inside the block an older file of that name is untouched and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns what the system says while ``path`` is written (no room, no permission) into an `OutputError`."""
    try:
        yield
    except OSError as error:
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a file is where a folder should be" if blocked else error.strerror or error
        raise OutputError(f"{path} cannot be written: {reason}; make room or choose another place (out=...).") from error


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file; DataError naming ``what`` and the file if it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"The {what} {path} does not exist.") from None
    except OSError as error:
        raise DataError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise DataError(f"The {what} {path} is not valid JSON: {error}.") from error


def content_hash(*parts: Any) -> str:
    """Hexadecimal SHA-256 of values that JSON can express, independent of the process and of dict order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
