"""``python -m benchmark.points sample|import|export|check|show``: point labels, drawn, exchanged, looked at.

    sample  dataset.root=FOLDER out=FILE.npz     draw points from masks, once, for good
            [strategy=uniform|center_biased|border_biased|scribbles|clicks] [count=1] [seed=0] [split=train]
    import  points=PATH format=FORMAT out=FILE.npz, and what the points are of:
            dataset.root=FOLDER [split=train]    points are tied to the segments that they lie on
            images=DIR classes=... [stuff=...]   no masks: objects are those that the format knows
            [allow_partial=true]                 leave out what cannot be used
    export  points=FILE.npz format=FORMAT out=PATH
    check   points=PATH [format=FORMAT] [dataset.root=FOLDER | images=DIR classes=...]
    show    points=PATH [format=FORMAT] [dataset.root=FOLDER | images=DIR] out=FOLDER [count=20]

Formats:
    csv                 image,x,y,class,instance
    panoptic_png        panoptic PNG files with ids at labelled pixels only, of PSPS; json=FILE says what they are
    whats_the_point     JSON of clicks
    sparse_png          label maps of TEL and AGMM: K is unlabelled, 255 is not allowed
    scribble_png        label maps of strokes: 255 is unlabelled

classes= is voc2012, cityscapes, a JSON of COCO categories, or names. For label maps, values=[...] says the order of classes
where it is another than background first and then by id, and unlabelled= the value of unlabelled pixels.

Words about the data set are those of benchmark.run: dataset=NAME dataset.root=FOLDER dataset.name=voc. A points file is used
with dataset.points.file=FILE.npz; its fingerprint is in the record of each run.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmark.configs import ConfigError, unknown
from benchmark.data.command import (
    print_problems,
    progress_bar,
    read_words,
    word_count,
    word_flag,
    word_names,
    word_number,
    word_path,
    word_text,
)
from benchmark.data.errors import DataError
from benchmark.data.files import storing
from benchmark.data.point_settings import READ_WORDS, Surroundings, read_points, split_words, surroundings, values_of
from benchmark.data.point_writers import WRITERS
from benchmark.data.points import STRATEGIES, draw_points
from benchmark.data.points_check import (
    Finding,
    check_against_masks,
    check_images,
    check_points,
    problems_as_findings,
)
from benchmark.data.points_file import PointsFile
from benchmark.data.points_pictures import write_pictures
from benchmark.data.sparse_labels import draw_sparse_labels
from benchmark.stopping import listen

DRAWN_SPARSE = ("scribbles", "clicks")
"""Strategies of `benchmark.data.sparse_labels` that draw from masks."""


def sample(arguments: Sequence[str], console: Console) -> int:
    """Draw points from the masks of a split and write a points file."""
    known = {"split": word_text, "strategy": word_text, "count": word_count, "seed": word_number, "out": word_path}
    mine, about = split_words(arguments)
    words = read_words(mine, known, required=("out",))
    strategy, count, seed = words.get("strategy", "uniform"), words.get("count", 1), words.get("seed", 0)
    if strategy not in (*STRATEGIES, *DRAWN_SPARSE):
        raise unknown("strategy", strategy, (*STRATEGIES, *DRAWN_SPARSE))
    source = surroundings(words, about or ["dataset=coco_panoptic"]).annotated
    if source is None:
        raise DataError("Points are drawn from masks, and this data set has none; import the points that were clicked.")
    if strategy in DRAWN_SPARSE:
        points = draw_sparse_labels(source, strategy, count, seed)
    else:
        with progress_bar(console, "drawing", len(source.records)) as tell:
            points = draw_points(source, strategy, count, seed, lambda done, total: tell(done))
    _store(points, words["out"], console)
    return 0


def import_points(arguments: Sequence[str], console: Console) -> int:
    """Read points of another format and write a points file."""
    mine, about = split_words(arguments)
    words = read_words(mine, {**READ_WORDS, "out": word_path, "allow_partial": word_flag}, required=("points", "out"))
    points, problems = _read(words, surroundings(words, about), console)
    print_problems(console, f"{len(problems)} parts of {words['points']} cannot be used", problems)
    if problems and not words.get("allow_partial"):
        console.print("Nothing was written. Correct them, or leave them out: allow_partial=true", soft_wrap=True)
        return 1
    if not len(points.point_x):
        raise DataError(f"{words['points']} has no point that can be used; {words['out']} was not written.")
    _store(points, words["out"], console)
    return 0


def export_points(arguments: Sequence[str], console: Console) -> int:
    """Write a points file in another format."""
    known = {"points": word_path, "format": word_text, "values": word_names, "out": word_path}
    words = read_words(arguments, known, required=("points", "format", "out"))
    if words["format"] not in WRITERS:
        raise unknown("format", words["format"], WRITERS)
    points = PointsFile.load(words["points"])
    points.check()
    notes = WRITERS[words["format"]](points, words["out"], values_of(words, points.categories))
    console.print(f"{len(points.point_x)} points of {len(points)} images in {words['out']}", markup=False, soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    return 0


def check(arguments: Sequence[str], console: Console) -> int:
    """Say what may be wrong with points; 1 if something is."""
    mine, about = split_words(arguments)
    words = read_words(mine, READ_WORDS, required=("points",))
    around = surroundings(words, about)
    points, problems = _read(words, around, console)
    findings = [*problems_as_findings(problems), *check_points(points)]
    source = around.annotated
    if source is not None and source.categories != points.categories:
        raise DataError(f"{points}: its classes are not those of data set '{source.name}'; name the data set that is meant.")
    if source is not None:
        with progress_bar(console, "masks", len(source.records)) as tell:
            findings += check_against_masks(points, source, tell)
    elif around.source is not None or around.folder is not None:
        with progress_bar(console, "images", len(points)) as tell:
            findings += check_images(points, around.images(points), tell)
    console.print(_summary(points), markup=False, soft_wrap=True)
    if findings:
        console.print(_table(findings))
    wrong = [finding for finding in findings if finding.wrong]
    console.print(f"{len(wrong)} kinds of errors" if wrong else "No errors.", markup=False)
    return 1 if wrong else 0


def show(arguments: Sequence[str], console: Console) -> int:
    """Draw points into their images."""
    mine, about = split_words(arguments)
    words = read_words(mine, {**READ_WORDS, "out": word_path, "count": word_count}, required=("points", "out"))
    around = surroundings(words, about)
    points, problems = _read(words, around, console)
    print_problems(console, f"{len(problems)} parts of {words['points']} cannot be used", problems)
    with storing(words["out"]):
        written, unreadable = write_pictures(points, around.images(points), words["out"], words.get("count", 20))
    print_problems(console, f"{len(unreadable)} images cannot be drawn", unreadable)
    console.print(f"{len(written)} pictures in {words['out']}", markup=False, soft_wrap=True)
    return 0 if written and not unreadable else 1


def _read(words: dict[str, Any], around: Surroundings, console: Console) -> tuple[PointsFile, list[str]]:
    with progress_bar(console, "reading", 0) as tell:
        return read_points(words, around, lambda done, total: tell(done))


def _store(points: PointsFile, path: Any, console: Console) -> None:
    with storing(path):
        points.save(path)
    console.print(f"{_summary(points)}, in {path}", markup=False, soft_wrap=True)
    use = f"dataset.points.file={path} dataset.points.count={points.count}"
    console.print(f"Use it with {use}", markup=False, soft_wrap=True)


def _summary(points: PointsFile) -> str:
    return (
        f"{len(points.point_x)} points of {len(points.target_image)} targets in {len(points)} images, "
        f"up to {points.count} a target, fingerprint {points.fingerprint[:16]}"
    )


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(title="Found", title_justify="left")
    for column in ("", "number", "what", "the first"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row("error" if finding.wrong else "note", str(finding.count), finding.what, finding.first)
    return table


COMMANDS: dict[str, Callable[[Sequence[str], Console], int]] = {
    "sample": sample, "import": import_points, "export": export_points, "check": check, "show": show,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: done; 1: something is wrong with the points; 2: the command line or the files cannot be used."""
    console = Console(highlight=False)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or any(word in ("-h", "--help", "help") for word in arguments):
        console.print(__doc__, markup=False)
        return 0 if arguments else 2
    try:
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        return COMMANDS[arguments[0]](arguments[1:], console)
    except (ConfigError, DataError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("Stopped; nothing was left half-written.")
        return 1


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)  # a terminated command ends as Ctrl-C does
    sys.exit(main())
