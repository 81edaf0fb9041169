"""Clicked points as a plain CSV: one line a click, ``image,x,y,class,instance`` and, optionally, ``isthing``.

* ``image``: the file, relative to the images folder; ``x``, ``y``: pixel column and row from 0 on, decimals are cut off;
* ``class``: the name of the class;
* ``instance``: which object of its class and image the click belongs to, any word. Clicks without one are an object each;
  clicks on stuff belong together in any case;
* ``isthing``: 1 for a class of countable objects, 0 for stuff, the same in all lines of a class.

A table is read line by line into compact columns. What is wrong with a line is kept beside its image, so that training can
refuse the file and labelling can pass over the image.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from benchmark.data.errors import DataError
from methods.base.types import Categories, Category, PointLabels

COLUMNS = ("image", "x", "y", "class", "instance")
ISTHING = "isthing"
FLAGS = {"1": True, "true": True, "0": False, "false": False}
MAX_COORDINATE = 2**31 - 1


@dataclass(eq=False)
class PointsTable:
    """The clicks of a CSV file.

    Attributes:
        path: the file, for messages.
        images: file names, in order of first appearance.
        problems: image -> what is wrong with its first line that cannot be used, naming file and line.
        stray: what is wrong with lines that name no image.
        is_thing: class -> its ``isthing``, empty without that column.
    """

    path: Path
    images: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    stray: list[str] = field(default_factory=list)
    is_thing: dict[str, bool] = field(default_factory=dict)
    _classes: list[str] = field(default_factory=list)
    _instances: list[str] = field(default_factory=list)
    # one entry a click: line, position of image, class and instance in their lists, column and row
    _lines: array = field(default_factory=lambda: array("q"))
    _image: array = field(default_factory=lambda: array("q"))
    _class: array = field(default_factory=lambda: array("q"))
    _instance: array = field(default_factory=lambda: array("q"))
    _xy: array = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        self._order, self._starts = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)

    @classmethod
    def read(cls, path: Path | str) -> PointsTable:
        """Read a CSV file; DataError if it is missing, no text, without the columns, or empty."""
        table, places = cls(Path(path)), _Places()
        for line, row in _rows(table.path):
            table._add(line, row, places)
        table.images, table._classes, table._instances = places.of("image"), places.of("class"), places.of("instance")
        if not table.images:
            raise DataError(f"The points file {path} has no line that names an image; write one line per click.")
        image = np.asarray(table._image)
        table._order = np.argsort(image, kind="stable")
        table._starts = np.searchsorted(image[table._order], np.arange(len(table.images) + 1))
        return table

    def _add(self, line: int, row: Mapping[str, str | None], places: _Places) -> None:
        try:
            image = image_name(row["image"] or "")
        except ValueError as error:
            self.stray.append(f"{self.path}, line {line}: {error}.")
            return
        place = places.add("image", image)
        try:
            values = _values(row)
            if ISTHING in row:
                self._note_kind(values[2], row[ISTHING])
        except ValueError as error:
            self.problems.setdefault(image, f"{self.path}, line {line}: {error}.")
            return
        x, y, class_name, instance = values
        self._lines.append(line)
        self._image.append(place)
        self._class.append(places.add("class", class_name))
        self._instance.append(places.add("instance", instance))
        self._xy.extend((x, y))

    def _note_kind(self, class_name: str, text: str | None) -> None:
        kind = FLAGS.get((text or "").lower())
        if kind is None:
            raise ValueError(f"isthing is '{text}', it must be 1 or 0")
        if self.is_thing.setdefault(class_name, kind) != kind:
            raise ValueError(f"class '{class_name}' is a thing in one line and stuff in another")

    def categories(self) -> Categories:
        """The classes by the column ``isthing``: things, then stuff, each sorted by name, with the ids 1, 2, ...

        DataError without that column, or if no line that has it can be used.
        """
        if not self.is_thing:
            self.check()
            raise DataError(
                f"{self.path} does not say which classes are things: add a column {ISTHING} (1 or 0), "
                "or name a JSON of COCO categories with dataset.categories=FILE."
            )
        names = sorted(self.is_thing, key=lambda name: (not self.is_thing[name], name))
        return Categories(Category(i, name, self.is_thing[name]) for i, name in enumerate(names, 1))

    @property
    def class_names(self) -> list[str]:
        """The classes of usable lines, in order of first appearance."""
        return list(self._classes)

    def clicks(self, index: int) -> list[tuple[int, int, str, str]]:
        """Column, row, class and instance of an image's usable lines."""
        rows = self._order[self._starts[index] : self._starts[index + 1]].tolist()
        return [
            (self._xy[2 * row], self._xy[2 * row + 1], self._classes[self._class[row]], self._instances[self._instance[row]])
            for row in rows
        ]

    def check(self) -> None:
        """DataError with the first problem of the file, and how many there are."""
        found = [*self.stray, *self.problems.values()]
        if found:
            more = f" ({len(found) - 1} more lines or images have problems)" if len(found) > 1 else ""
            raise DataError(f"{found[0].removesuffix('.')}{more}; correct the file or take the line out.")

    def labels_of(self, index: int, size: tuple[int, int], categories: Categories) -> PointLabels:
        """The labels of an image, targets in order of first appearance with the ids 1, 2, ...

        Args:
            index: place in ``images``.
            size: (height, width) of the image.
            categories: what the class names are looked up in, and which of them are things.

        Raises:
            DataError: a line of the image cannot be used, its class is unknown, or its point is outside.
        """
        if self.images[index] in self.problems:
            raise DataError(self.problems[self.images[index]])
        known = {category.name: label for label, category in enumerate(categories)}
        targets: dict[tuple[int, object], int] = {}
        xy, target = [], []
        for row in self._order[self._starts[index] : self._starts[index + 1]].tolist():
            label = known.get(self._classes[self._class[row]])
            x, y = self._xy[2 * row], self._xy[2 * row + 1]
            if label is None:
                raise DataError(
                    f"{self._place(row)}: class '{self._classes[self._class[row]]}' is not one of {', '.join(known)}."
                )
            if x >= size[1] or y >= size[0]:
                raise DataError(
                    f"{self._place(row)}: the point x={x}, y={y} is outside image {self.images[index]} of "
                    f"{size[1]} x {size[0]} pixels."
                )
            instance = self._instances[self._instance[row]]
            identity = None if not categories[label].is_thing else instance or row
            target.append(targets.setdefault((label, identity), len(targets)))
            xy.append((x, y))
        classes = torch.tensor([label for label, _ in targets], dtype=torch.int64)
        return PointLabels(
            torch.tensor(xy, dtype=torch.int64).reshape(-1, 2), torch.tensor(target, dtype=torch.int64), classes,
            classes < categories.num_things, torch.arange(1, len(targets) + 1),
        )

    def _place(self, row: int) -> str:
        return f"{self.path}, line {self._lines[row]}"


class _Places:
    """Numbers the different texts of each kind in order of first appearance."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, int]] = {}

    def add(self, kind: str, text: str) -> int:
        known = self._found.setdefault(kind, {})
        return known.setdefault(text, len(known))

    def of(self, kind: str) -> list[str]:
        return list(self._found.get(kind, {}))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Line number and stripped values by column of each line; a cell that a line lacks is None."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise DataError(
                    f"The points file {path} has no column {', '.join(missing)}: its first line must be {','.join(COLUMNS)}."
                )
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, dict.fromkeys(header) | dict(zip(header, map(str.strip, cells), strict=False))
    except FileNotFoundError:
        raise DataError(f"The points file {path} does not exist.") from None
    except OSError as error:
        raise DataError(f"The points file {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The points file {path} is no CSV text in UTF-8: {error}.") from error


def _values(row: Mapping[str, str | None]) -> tuple[int, int, str, str]:
    lacking = [name for name in COLUMNS[1:4] if not row[name]]
    if lacking:
        raise ValueError(f"it has no {', '.join(lacking)}")
    x, y = (_pixel(name, row[name] or "") for name in ("x", "y"))
    return x, y, row["class"] or "", row["instance"] or ""


def _pixel(name: str, text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is '{text}', which is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {text}, which is no place in an image")
    if not 0 <= value <= MAX_COORDINATE:
        raise ValueError(f"{name} is {text}, which is outside any image")
    return int(value)


def image_name(text: str) -> str:
    """A file name below a folder, with ``/``; ValueError if it is empty, absolute or leads out of the folder."""
    path = PurePosixPath(text.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{text}' is no file below the images folder" if text else "it names no image")
    return str(path)
