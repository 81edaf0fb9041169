"""What the words of a command say about points: which images, which classes, which masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.configs import ConfigError, compose_run, unknown
from benchmark.data.class_lists import CLASS_LISTS, ids_by_value
from benchmark.data.coco import CocoPanoptic
from benchmark.data.command import word_names, word_number, word_path, word_text
from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, FolderImages, ImageRecord, ImageSource
from benchmark.data.point_import import READERS, points_of_clicks
from benchmark.data.point_readers import FolderOfImages, KnownImages, Setting
from benchmark.data.points_csv import PointsTable
from benchmark.data.points_file import PointsFile
from benchmark.data.points_folder import read_categories
from benchmark.data.sources import SPLITS, build_source
from methods.base.types import Categories, Category

POINTS_FILE = "npz"
ENDINGS = {".npz": POINTS_FILE, ".csv": "csv", ".json": "whats_the_point"}
READ_WORDS = {
    "points": word_path, "format": word_text, "split": word_text, "images": word_path, "json": word_path, "name": word_text,
    "classes": word_text, "stuff": word_names, "values": word_names, "unlabelled": word_number,
}  # fmt: skip

Words = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there is beside the points.

    Attributes:
        source: the data set of ``dataset`` words, None without them.
        folder: of ``images=DIR``, None without it.
    """

    source: Any | None
    folder: Path | None

    @property
    def annotated(self) -> AnnotatedSource | None:
        """The data set, if it has masks."""
        return self.source if isinstance(self.source, AnnotatedSource) else None

    def images(self, points: PointsFile) -> ImageSource:
        """Where the images of some points are read from; ConfigError if nothing says it."""
        if self.source is not None:
            return self.source
        if self.folder is None:
            raise ConfigError("Where are the images? Add images=DIR, or dataset.root=FOLDER.")
        return FolderImages(self.folder, points.records, points.dataset)


def split_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of the command, and those about the data set (``dataset=NAME``, ``dataset.key=value``)."""
    about = [a for a in arguments if a.split("=", 1)[0].split(".", 1)[0] == "dataset"]
    return [a for a in arguments if a not in about], about


def surroundings(words: Words, about_dataset: Sequence[str]) -> Surroundings:
    """Open the data set that is asked for; ``dataset=coco_panoptic`` goes without saying.

    Raises:
        ConfigError, DataError: it cannot be opened.
    """
    split = words.get("split", "train")
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    source = None
    if about_dataset:
        chosen = [] if any(word.startswith("dataset=") for word in about_dataset) else ["dataset=coco_panoptic"]
        source = build_source(compose_run([*chosen, *about_dataset])["dataset"], split)
    return Surroundings(source, words.get("images"))


def read_points(
    words: Words, around: Surroundings, show: Callable[[int, int], None] = lambda done, total: None
) -> tuple[PointsFile, list[str]]:
    """The points of the word ``points``, in whatever format, and a sentence for each part that cannot be used.

    Args:
        words: ``points``; ``format`` unless the ending says it; what the format needs.
        around: data set or images folder. With masks, the points of another format than .npz are tied to the segments
            below them.
        show: called with (images done, images) while masks are read.

    Raises:
        ConfigError: a word is missing or unusable.
        DataError: the points as a whole cannot be read.
    """
    path, form = words["points"], form_of(words)
    if form == POINTS_FILE:
        return PointsFile.load(path), []
    setting = _setting(words, around, form)
    found = READERS[form](path, setting)
    name = words.get("name") or (around.source.name if around.source is not None else path.stem)
    total = len(found.clicks)
    points = points_of_clicks(
        found, setting.images, setting.categories, name, form, around.annotated, lambda done: show(done, total)
    )
    return points, found.problems


def form_of(words: Words) -> str:
    """The format of the word ``points``."""
    known = [POINTS_FILE, *READERS]
    form = words.get("format") or ENDINGS.get(words["points"].suffix.lower())
    if form is None:
        raise ConfigError(f"Of what format is {words['points']}? Add format= and one of {', '.join(known)}.")
    if form not in known:
        raise unknown("format", form, known)
    if not words["points"].exists():
        raise DataError(f"{words['points']} does not exist: correct points=.")
    return form


def values_of(words: Words, categories: Categories) -> list[int]:
    """Category id of each value of a label map; ConfigError if the word ``values`` does not fit."""
    try:
        return ids_by_value(categories, words.get("values"))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _setting(words: Words, around: Surroundings, form: str) -> Setting:
    if around.source is not None:
        source, images = around.source, KnownImages(around.source.records, f"data set '{around.source.name}'")
    elif form == "panoptic_png":
        source = _sparse_annotation(words)
        images = KnownImages(source.records, str(source.json_path))
    elif around.folder is not None:
        source, images = None, FolderOfImages(around.folder)
    else:
        raise ConfigError("Which images are these points of? Add images=DIR, or dataset.root=FOLDER.")
    categories = source.categories if source is not None else _categories(words, form)
    segments = _listed(source) if isinstance(source, CocoPanoptic) else None
    return Setting(images, categories, values_of(words, categories), words.get("unlabelled"), segments)


def _listed(source: CocoPanoptic) -> Callable[[ImageRecord], list[dict[str, Any]]]:
    return lambda record: source.listed(record)["segments_info"]


def _sparse_annotation(words: Words) -> CocoPanoptic:
    """The JSON that says what the ids of point PNG files mean: ``json=FILE`` or the one beside the folder."""
    folder = words["points"]
    path = words.get("json", folder.with_name(f"{folder.name}.json"))
    if not path.exists():
        raise DataError(f"The ids of {folder} mean nothing without their JSON: add json=FILE, or dataset.root=FOLDER.")
    return CocoPanoptic(path, folder, words.get("images", folder), words.get("name", folder.name))


def _categories(words: Words, form: str) -> Categories:
    classes = words.get("classes")
    if classes is None:
        if form == "csv":
            return PointsTable.read(words["points"]).categories()
        raise ConfigError(
            f"Which classes are these? Add classes= with one of {', '.join(CLASS_LISTS)}, a JSON of COCO categories, or "
            "names in the order of their values and those of them that are stuff: classes=[sky,cat] stuff=[sky]."
        )
    if classes in CLASS_LISTS:
        return CLASS_LISTS[classes]()
    if classes.endswith(".json"):
        return read_categories(Path(classes).expanduser())
    names, stuff = word_names("classes", classes), words.get("stuff", [])
    if not set(stuff) <= set(names):
        raise ConfigError(f"stuff= has {min(set(stuff) - set(names))}, which is none of classes={classes}.")
    try:
        return Categories(Category(i, name, name not in stuff) for i, name in enumerate(names, 1))
    except ValueError as error:
        raise ConfigError(f"classes={classes}: {error}") from None
