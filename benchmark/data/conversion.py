"""Images and annotations of any layout to COCO panoptic format, image by image, in several processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from benchmark.data.coco import read_annotation
from benchmark.data.errors import DataError, OutputError
from benchmark.data.files import replacing, storing
from benchmark.data.images import ImageRecord, describe_segments, read_rgb
from benchmark.data.ledger import Ledger
from benchmark.data.panoptic_png import write_panoptic_png
from methods.base.types import Categories

LEAST_PER_PROCESS = 16
"""With fewer images for each process, starting processes takes longer than the work."""

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Labelled:
    """What an annotation says, in the terms of the panoptic format.

    Attributes:
        ids: (H, W) int64 segment ids, 0 = void.
        category_of: category id of each segment id.
        crowd: segment ids of crowd regions.
    """

    ids: np.ndarray
    category_of: Mapping[int, int]
    crowd: frozenset[int] = frozenset()


class Task(Protocol):
    """One image's share of the work; it is sent to another process, and its result comes back as plain values."""

    name: str

    @property
    def inputs(self) -> tuple[Path, ...]: ...

    @property
    def outputs(self) -> tuple[Path, ...]: ...

    def work(self) -> dict[str, Any]:
        """The result; DataError says what is wrong with the inputs, OutputError that it cannot be stored."""
        ...


@dataclass(frozen=True, slots=True)
class Conversion:
    """Write the panoptic PNG of an image and link the image beside it.

    Attributes:
        name: of the image in lists and problems.
        id: of the image in the JSON.
        file_name: of the image below the images folder of the prepared data set.
        image: the image file.
        annotations: the files that ``read`` takes.
        read: from annotation files to ids; a function of a module, so that it can be sent.
        images_folder: gets a link to the image; None where the folder itself is a link.
        masks_folder: gets the PNG.
    """

    name: str
    id: int | str
    file_name: str
    image: Path
    annotations: tuple[Path, ...]
    read: Callable[..., Labelled]
    images_folder: Path | None
    masks_folder: Path

    @property
    def png(self) -> str:
        """Name of the PNG below the masks folder."""
        return str(PurePosixPath(self.file_name).with_suffix(".png"))

    @property
    def inputs(self) -> tuple[Path, ...]:
        return (self.image, *self.annotations)

    @property
    def outputs(self) -> tuple[Path, ...]:
        return (self.masks_folder / self.png, *([self.images_folder / self.file_name] if self.images_folder else []))

    def work(self) -> dict[str, Any]:
        """Height, width and segments."""
        labelled = self.read(*self.annotations)
        height, width = labelled.ids.shape
        read_rgb(self.image, height, width)  # whole, and of this size
        segments = describe_segments(labelled.ids, labelled.category_of, labelled.crowd)
        png = self.masks_folder / self.png
        with storing(png):
            write_panoptic_png(png, labelled.ids)
        if self.images_folder is not None:
            link(self.image, self.images_folder / self.file_name)
        return {"height": height, "width": width, "segments": segments}


@dataclass(frozen=True, slots=True)
class Check:
    """Look whether an image and its panoptic PNG are whole and agree with what the JSON lists.

    Attributes:
        name: of the image.
        record: what the JSON says of the image.
        image, png: the files.
        segments: the listed ``segments_info``.
        json_path: where they are listed, for messages.
    """

    name: str
    record: ImageRecord
    image: Path
    png: Path
    segments: list[dict[str, Any]]
    json_path: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        return (self.image, self.png, self.json_path)

    @property
    def outputs(self) -> tuple[Path, ...]:
        return ()

    def work(self) -> dict[str, Any]:
        """Nothing."""
        annotation = read_annotation(self.png, self.record, self.segments, self.json_path)
        counted = dict(zip(*(a.tolist() for a in np.unique(annotation.ids, return_counts=True)), strict=True))
        for segment in self.segments:
            if segment["area"] != counted[segment["id"]]:
                raise DataError(
                    f"{self.json_path} gives segment {segment['id']} of {self.png} the area {segment['area']}, "
                    f"it has {counted[segment['id']]} pixels."
                )
        read_rgb(self.image, self.record.height, self.record.width)
        return {}


def link(source: Path, target: Path) -> None:
    """Make ``target`` a symbolic link to a file or folder; a copy of a file where links are not possible.

    Raises:
        OutputError: it cannot be made, or a folder is in the way.
    """
    source = source.resolve()
    if target.is_symlink() and target.resolve() == source:
        return
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.symlink(source, temporary, target_is_directory=source.is_dir())
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno not in _NO_LINKS or source.is_dir():
                raise
            with open(source, "rb") as original, replacing(target) as copy:
                shutil.copyfileobj(original, copy)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a list of tasks: ``results`` by name, a sentence for each that failed, and how many were known."""

    results: dict[str, dict[str, Any]]
    problems: list[str]
    known: int


def work_through(tasks: Sequence[Task], ledger_path: Path, jobs: int, show: Callable[[int], None]) -> Done:
    """Do all tasks that the ledger does not know; one that fails leaves the others alone.

    Args:
        tasks: with different names.
        ledger_path: where results are remembered.
        jobs: processes.
        show: called with the number of tasks that are done.

    Raises:
        OutputError: results cannot be stored. What was finished is remembered.
    """
    with Ledger(ledger_path) as ledger:
        results = {t.name: ledger.result(t.name, t.inputs, t.outputs) for t in tasks}
        results = {name: result for name, result in results.items() if result is not None}
        todo, problems, known = [t for t in tasks if t.name not in results], [], len(results)
        show(known)
        for count, (task, (result, problem)) in enumerate(_attempts(todo, jobs), 1):
            if result is None:
                problems.append(problem)
            else:
                results[task.name] = result
                ledger.note(task.name, task.inputs, task.outputs, result)
            show(known + count)
    return Done(results, problems, known)


def _attempts(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, tuple[dict[str, Any] | None, str]]]:
    """Each task with its outcome, in order."""
    jobs = min(jobs, -(-len(tasks) // LEAST_PER_PROCESS))
    if jobs <= 1:
        yield from ((task, _attempt(task)) for task in tasks)
        return
    # A server without threads of its own forks the processes: one import of the heavy modules serves them all, and no lock
    # of this process (progress bar) can be copied in a locked state.
    server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if server else "spawn")
    if server:
        context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield from zip(tasks, pool.map(_attempt, tasks, chunksize=4), strict=True)
    except BrokenProcessPool:
        raise OutputError("A process was killed, as happens when memory runs out: try fewer at once with jobs=1.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _attempt(task: Task) -> tuple[dict[str, Any] | None, str]:
    """(result, "") or (None, what is wrong); OutputError passes."""
    try:
        return task.work(), ""
    except OutputError:
        raise
    except DataError as error:
        return None, str(error)


def write_json(
    path: Path, categories: Categories, tasks: Sequence[Conversion], results: Mapping[str, Mapping[str, Any]],
    description: str,
) -> None:
    """Write the panoptic JSON of the converted images, in the order of the tasks; OutputError if that is not possible."""
    images, annotations = [], []
    for task in tasks:
        result = results[task.name]
        images.append({"id": task.id, "file_name": task.file_name, "height": result["height"], "width": result["width"]})
        annotations.append({"image_id": task.id, "file_name": task.png, "segments_info": result["segments"]})
    write_content(
        path, {"info": {"description": description}, "images": images, "annotations": annotations,
               "categories": categories.to_coco()},
    )  # fmt: skip


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in place of what has its name, be that a link; OutputError if that is not possible."""
    with storing(path), replacing(path) as file:
        file.write(json.dumps(content).encode())
