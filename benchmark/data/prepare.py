"""What every preparation of a data set has in common: ``python -m benchmark.data prepare``.

A preparation is planned first (which images there should be, which files are missing), then worked through image by image,
and a split's JSON is written last: a folder with ``panoptic_train.json`` has all that it lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmark.data.coco import CocoPanoptic
from benchmark.data.command import print_problems, progress_bar
from benchmark.data.conversion import Done, Task, work_through
from benchmark.data.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a preparation.

    Attributes:
        name: "train" or "val".
        tasks: one per image whose files are there.
        expected: number of images of the published split.
        differs: sentences on what is missing or has another number than published.
        description: for the JSON.
    """

    name: str
    tasks: Sequence[Task]
    expected: int
    differs: list[str]
    description: str


@dataclass(frozen=True, slots=True)
class Preparation:
    """What there is to do for a data set.

    Attributes:
        name: for ``dataset.name=``.
        out: the folder to make.
        splits: train and val.
        publish: ``(split, what was done)`` writes the split's JSON, once its images are done.
    """

    name: str
    out: Path
    splits: list[Split]
    publish: Callable[[Split, Done], None]


@dataclass(slots=True)
class Files:
    """Which of the files that lists ask for are there."""

    missing: dict[tuple[Path, str], list[str]] = field(default_factory=dict)
    asked: dict[Path, int] = field(default_factory=dict)
    _present: dict[Path, set[str]] = field(default_factory=dict)

    def have(self, paths: Iterable[Path], archive: Callable[[Path], str]) -> bool:
        """Whether all these files exist; those that do not are noted with the archive that has them."""
        return all([self._has(path, archive) for path in paths])  # a list: each is looked for

    def _has(self, path: Path, archive: Callable[[Path], str]) -> bool:
        folder = path.parent
        if folder not in self._present:
            self._present[folder] = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        self.asked[folder] = self.asked.get(folder, 0) + 1
        if path.name in self._present[folder]:
            return True
        self.missing.setdefault((folder, archive(path)), []).append(path.name)
        return False

    def sentences(self) -> list[str]:
        """One per folder that lacks files."""
        return [
            f"{folder} lacks {len(names)} of {self.asked[folder]} files, the first is {min(names)}; they are in {archive}."
            for (folder, archive), names in self.missing.items()
        ]


def found_folder(root: Path, word: str, below: Iterable[str], needs: str, archive: str) -> Path:
    """The first of some folders below ``root`` that has a folder ``needs``; DataError naming the archive if none has."""
    if not root.is_dir():
        raise DataError(f"The folder {word}={root} does not exist.")
    for place in below:
        if (root / place / needs).is_dir():
            return root / place
    raise DataError(f"The folder {word}={root} has no folder {needs} in it; unpack {archive} and name the folder it makes.")


def carry_out(preparation: Preparation, jobs: int, allow_partial: bool, console: Console) -> bool:
    """Convert or check every image, publish the splits, and say what was done; whether all splits are ready for use.

    Args:
        preparation: what there is to do.
        jobs: processes.
        allow_partial: publish what there is, also where it differs from what was published.
        console: where to report.

    Raises:
        OutputError: results cannot be stored.
    """
    for split in preparation.splits:
        print_problems(console, f"{split.name} differs from the published split", split.differs)
    if any(split.differs for split in preparation.splits) and not allow_partial:
        console.print(
            "Nothing was converted. Add what is missing, or go on with what there is: allow_partial=true", soft_wrap=True
        )
        return False
    return all([_carry_out(split, preparation, jobs, allow_partial, console) for split in preparation.splits])


def _carry_out(split: Split, preparation: Preparation, jobs: int, allow_partial: bool, console: Console) -> bool:
    out, json_path = preparation.out, preparation.out / f"panoptic_{split.name}.json"
    with progress_bar(console, split.name, len(split.tasks)) as show:
        done = work_through(split.tasks, out / ".prepared" / f"{split.name}.jsonl", jobs, show)
    print_problems(console, f"{len(done.problems)} images of {split.name} cannot be used", done.problems)
    if not done.results:
        console.print(f"{split.name}: no image is left, {json_path.name} was not written.", markup=False, soft_wrap=True)
        return False
    if done.problems and not allow_partial:
        console.print(
            f"{split.name}: {json_path.name} was not written. Repair these files and repeat the command, which keeps what "
            "is done, or leave the images out: allow_partial=true", markup=False, soft_wrap=True,
        )  # fmt: skip
        return False
    preparation.publish(split, done)
    source = CocoPanoptic(json_path, json_path.with_suffix(""), out / split.name, preparation.name)
    segments = sum(len(source.listed(record)["segments_info"]) for record in source.records)
    console.print(
        f"{split.name}: {len(source.records)} of {split.expected} images, {segments} segments of {len(source.categories)} "
        f"classes in {json_path} ({done.known} images were done before)", markup=False, soft_wrap=True,
    )  # fmt: skip
    return True
