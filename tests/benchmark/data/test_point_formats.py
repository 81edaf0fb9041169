"""Formats of point labels: what is written reads back, files of others are read, and what cannot be used is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.class_lists import ids_by_value, voc_categories
from benchmark.data.coco import CocoPanoptic
from benchmark.data.errors import DataError
from benchmark.data.images import ImageRecord
from benchmark.data.point_import import READERS, points_of_clicks
from benchmark.data.point_readers import FolderOfImages, KnownImages, Setting
from benchmark.data.point_writers import WRITERS
from benchmark.data.points import draw_points
from benchmark.data.points_check import check_against_masks, check_images, check_points
from benchmark.data.points_file import PointsFile
from methods.base.types import Categories, Category
from tests.benchmark.data import trees
from tests.benchmark.data.conftest import Folder

CATEGORIES = Categories([Category(3, "cat", True), Category(17, "dog", True), Category(90, "sky", False)])
SIZE = (7, 9)
FORMATS = sorted(WRITERS)
PATHS = {"csv": "p.csv", "whats_the_point": "p.json"}


def points_file(rows, names=("a.jpg", "b.jpg"), categories=CATEGORIES, size=SIZE):
    """From rows of image, segment, category id, points."""
    records = [ImageRecord(i + 1, name, *size) for i, name in enumerate(names)]
    xy = np.array([p for *_, points in rows for p in points], dtype=np.int64).reshape(-1, 2)
    image, segment, category = np.array([row[:3] for row in rows], dtype=np.int64).reshape(-1, 3).T
    target = np.repeat(np.arange(len(rows)), [len(row[3]) for row in rows])
    count = max([1, *(len(row[3]) for row in rows)])
    columns = (image, segment, category, target, xy[:, 0], xy[:, 1])
    return PointsFile("toy", "clicked", count, 0, "", categories, records, *columns)


def read(form, path, points, segments=None, **options):
    """A file as the points of the images of ``points``, without masks."""
    images = KnownImages(points.records, "the toy")
    setting = Setting(images, points.categories, ids_by_value(points.categories), segments=segments, **options)
    found = READERS[form](path, setting)
    return points_of_clicks(found, images, points.categories, points.dataset, "clicked"), found.problems


def written(form, points, folder):
    path = folder / PATHS.get(form, form)
    notes = WRITERS[form](points, path, ids_by_value(points.categories))
    return path, notes


def content(points, by_target=True):
    """What a points file says of pixels: image, category, pixel and, unless lost, the partition into targets."""
    image = points.target_image[points.point_target]
    category = points.target_category[points.point_target]
    pixels = list(zip(image.tolist(), category.tolist(), points.point_x.tolist(), points.point_y.tolist(), strict=True))
    if not by_target:
        return sorted(pixels)
    groups: dict[int, list] = {}
    for pixel, target in zip(pixels, points.point_target.tolist(), strict=True):
        groups.setdefault(target, []).append(pixel)
    return sorted(groups.values())


@st.composite
def labelled_images(draw):
    """Points files of two images with targets of any class, each pixel labelled once; stuff is one target a class."""
    rows = []
    for image in range(2):
        places = st.tuples(st.integers(0, SIZE[1] - 1), st.integers(0, SIZE[0] - 1))
        pixels = draw(st.lists(places, unique=True, max_size=12))
        segments = iter(draw(st.lists(st.integers(1, 2**24 - 1), min_size=6, max_size=6, unique=True)))
        used_stuff = False
        while pixels:
            size = draw(st.integers(1, len(pixels)))
            category = draw(st.sampled_from([3, 17] if used_stuff else [3, 17, 90]))
            used_stuff |= category == 90
            segment = next(segments, None)
            if segment is None:
                break
            rows.append((image, segment, category, pixels[:size]))
            pixels = pixels[size:]
    return points_file(rows)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(points=labelled_images(), form=st.sampled_from(["csv", "whats_the_point", "panoptic_png"]))
def test_formats_with_objects_lose_nothing(tmp_path, points, form):
    path, notes = written(form, points, tmp_path)
    segments = None
    if form == "panoptic_png":
        annotations = json.loads((tmp_path / f"{form}.json").read_text())["annotations"]
        listed = {a["image_id"]: a["segments_info"] for a in annotations}
        segments = lambda record: listed[record.id]  # noqa: E731
    elif not len(points.point_x) and form == "csv":
        return  # a table without a line is refused, see below
    again, problems = read(form, path, points, segments)
    assert not problems and not notes
    ordered = form != "panoptic_png"  # a map has no order of points
    ours, theirs = ([group if ordered else sorted(group) for group in content(p)] for p in (points, again))
    assert sorted(ours) == sorted(theirs)
    if form != "csv":
        assert sorted(again.target_segment.tolist()) == sorted(points.target_segment.tolist())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(points=labelled_images(), form=st.sampled_from(["sparse_png", "scribble_png"]))
def test_label_maps_keep_pixels_and_classes(tmp_path, points, form):
    path, notes = written(form, points, tmp_path)
    again, problems = read(form, path, points)
    assert not problems and notes  # the loss of objects is said
    assert content(again, by_target=False) == content(points, by_target=False)
    values = {"cat": 0, "dog": 1, "sky": 2}
    for index, record in enumerate(points.records):
        stored = np.asarray(Image.open(path / f"{record.file_name[0]}.png"))
        expected = np.full(SIZE, 3 if form == "sparse_png" else 255)
        labels = points.labels_of(index)
        for (x, y), label in zip(labels.xy.tolist(), labels.point_classes.tolist(), strict=True):
            expected[y, x] = values[CATEGORIES.names[label]]
        assert np.array_equal(stored, expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("strategy", "count"), [("uniform", 1), ("border_biased", 4)])
def test_with_masks_every_format_gives_the_drawn_targets_back(folder: Folder, tmp_path, form, strategy, count):
    source = folder.read()
    points = draw_points(source, strategy, count, seed=3)
    path, _ = written(form, points, tmp_path / "written")
    images = KnownImages(source.records, "toy")
    setting = Setting(images, source.categories, ids_by_value(source.categories),
                      segments=lambda record: source.listed(record)["segments_info"])
    found = READERS[form](path, setting)
    again = points_of_clicks(found, images, source.categories, "toy", form, source)
    assert not found.problems
    assert again.source_fingerprint == source.fingerprint and again.records == points.records
    for name in ("target_image", "target_segment", "target_category", "point_target"):
        assert np.array_equal(getattr(again, name), getattr(points, name))
    assert content(again, by_target=False) == content(points, by_target=False)
    assert not [f for f in check_against_masks(again, source) if f.wrong]


def test_ids_of_point_png_files_are_those_of_the_full_json(folder: Folder, tmp_path):
    """As the released code has them: the JSON lists all segments, the PNG has ids at points only; crowd is no target."""
    source = folder.read()
    ids = np.zeros((12, 16), dtype=int)
    ids[3, 3], ids[7, 3], ids[3, 9], ids[10, 1] = 300, 7, 9, 70000
    folder.write_ids("../a.png", ids)
    (tmp_path / "points").mkdir()
    (folder.root / "a.png").rename(tmp_path / "points" / "a.png")
    images = KnownImages(source.records, "toy")
    setting = Setting(images, source.categories, [], segments=lambda record: source.listed(record)["segments_info"])
    found = READERS["panoptic_png"](tmp_path / "points", setting)
    points = points_of_clicks(found, images, source.categories, "toy", "panoptic_png")
    assert not found.problems
    assert content(points) == [[(0, 17, 3, 3)], [(0, 17, 3, 7)], [(0, 90, 1, 10)]]
    assert points.target_segment.tolist() == [300, 7, 70000]


def test_whats_the_point_as_published(tmp_path):
    """cls counts VOC's classes from 1 in alphabetical order, x and y from 0, rank from 1; images go by their stem."""
    clicks = {"2007_000032": [{"y": 4, "x": 3, "rank": 2, "cls": 1}, {"y": 5, "x": 8, "rank": 1, "cls": 1},
                              {"y": 0, "x": 0, "rank": 1, "cls": 20}], "2007_000033": []}
    (tmp_path / "main.json").write_text(json.dumps(clicks))
    for name in clicks:
        trees.photograph(tmp_path / "images" / f"{name}.jpg", size=SIZE)
    images, voc = FolderOfImages(tmp_path / "images"), voc_categories()
    found = READERS["whats_the_point"](tmp_path / "main.json", Setting(images, voc, ids_by_value(voc)))
    points = points_of_clicks(found, images, voc, "voc", "whats_the_point")
    assert not found.problems
    names = [voc[voc.label_of(c)].name for c in points.target_category.tolist()]
    assert list(zip(names, points.point_x.tolist(), points.point_y.tolist(), strict=True)) == [
        ("aeroplane", 8, 5), ("tvmonitor", 0, 0), ("aeroplane", 3, 4)]
    assert [record.file_name for record in points.records] == ["2007_000032.jpg", "2007_000033.jpg"]


def test_strokes_of_a_class_are_objects_and_stuff_is_one_target(tmp_path):
    labels = np.full(SIZE, 255, dtype=np.uint8)
    labels[1, 1:4] = labels[2, 4] = 0  # a cat: a line and a pixel that touches it at a corner
    labels[5, 1:3] = 0  # another one
    labels[0, 8] = labels[6, 8] = 2  # sky in two places
    trees.palette_png(tmp_path / "a.png", labels)
    points, problems = read("scribble_png", tmp_path, points_file([], names=["a.jpg"]))
    assert not problems
    assert content(points) == [[(0, 3, 1, 1), (0, 3, 2, 1), (0, 3, 3, 1), (0, 3, 4, 2)], [(0, 3, 1, 5), (0, 3, 2, 5)],
                               [(0, 90, 8, 0), (0, 90, 8, 6)]]


def test_the_value_of_unlabelled_pixels_can_be_said(tmp_path):
    """Strokes in the convention of AGMM: 21 (here 3) instead of 255."""
    labels = np.full(SIZE, 3, dtype=np.uint8)
    labels[0, 0] = 1
    trees.palette_png(tmp_path / "a.png", labels)
    blank = points_file([], names=["a.jpg"])
    _, problems = read("scribble_png", tmp_path, blank)
    assert len(problems) == 1 and "has the value 3, which is unlabelled in the maps of AGMM and TEL" in problems[0]
    points, problems = read("scribble_png", tmp_path, blank, unlabelled=3)
    assert not problems and content(points) == [[(0, 17, 0, 0)]]
    with pytest.raises(DataError, match=r"unlabelled=2 is a class; the classes of .* are 0\.\.2"):
        read("sparse_png", tmp_path, blank, unlabelled=2)


def test_a_csv_of_names_without_masks(tmp_path):
    (tmp_path / "p.csv").write_text("image,x,y,class,instance\na.jpg,1,2,cat,1\na.jpg,3,2,cat,1\na.jpg,5.9,2.2,dog,\n"
                                    "a.jpg,6,2,dog,\nb.jpg,0,0,sky,\nb.jpg,8,6,sky,x\n")
    points, problems = read("csv", tmp_path / "p.csv", points_file([]))
    assert not problems
    assert content(points) == [[(0, 3, 1, 2), (0, 3, 3, 2)], [(0, 17, 5, 2)], [(0, 17, 6, 2)],
                               [(1, 90, 0, 0), (1, 90, 8, 6)]]


# what cannot be used: the file is named, and the rest is read


def csv_lines(*lines):
    return "image,x,y,class,instance\na.jpg,1,1,cat,1\n" + "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(("line", "sentence"), [
    ("b.jpg,nan,2,cat,", "line 3: x is nan, which is no place in an image"),
    ("b.jpg,1,inf,cat,", "line 3: y is inf"),
    ("b.jpg,-1,2,cat,", "line 3: x is -1, which is outside any image"),
    ("b.jpg,one,2,cat,", "line 3: x is 'one', which is no number"),
    ("b.jpg,9,2,cat,", "line 3: the point x=9, y=2 is outside image b.jpg of 9 x 7 pixels"),
    ("b.jpg,1,7,cat,", "line 3: the point x=1, y=7 is outside image b.jpg"),
    ("b.jpg,1,2,cow,", "line 3: class 'cow' is not one of cat, dog, sky"),
    ("b.jpg,1,2,,", "line 3: it has no class"),
    ("c.jpg,1,2,cat,", "'c.jpg' is no image of the toy"),
    (",1,2,cat,", "line 3: it names no image"),
    ("../b.jpg,1,2,cat,", "line 3: '../b.jpg' is no file below the images folder"),
])
def test_bad_lines_of_a_csv(tmp_path, line, sentence):
    (tmp_path / "p.csv").write_text(csv_lines(line))
    points, problems = read("csv", tmp_path / "p.csv", points_file([]))
    assert len(problems) == 1 and sentence in problems[0] and "p.csv" in problems[0]
    assert content(points) == [[(0, 3, 1, 1)]]


@pytest.mark.parametrize(("click", "sentence"), [
    ({"x": float("nan"), "y": 1, "cls": 1}, "x is nan, which is no number"),
    ({"y": 1, "cls": 1, "rank": 1}, "x is missing"),
    ({"x": "3", "y": 1, "cls": 1}, "x is 3, which is no number"),
    ({"x": 1, "y": 1, "cls": 4}, "cls 4 is no class; they are 1..3"),
    ({"x": 1, "y": 1, "cls": True}, "cls is True, which is no number"),
    ([1, 1], "it is no object with x, y, cls and rank"),
])
def test_bad_clicks_of_a_json(tmp_path, click, sentence):
    (tmp_path / "p.json").write_text(json.dumps({"a": [{"x": 1, "y": 1, "cls": 1, "rank": 1}, click]}))
    points, problems = read("whats_the_point", tmp_path / "p.json", points_file([]))
    assert problems == [f"{tmp_path / 'p.json'}, image a, click 2: {sentence}."]
    assert content(points) == [[(0, 3, 1, 1)]]


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (9, 0), (0, 7), (0, -1), (10**6, 0)])
def test_clicks_outside_their_image(tmp_path, x, y):
    clicks = [{"x": x, "y": y, "cls": 2, "rank": 1}, {"x": 8, "y": 6, "cls": 2, "rank": 2}]
    (tmp_path / "p.json").write_text(json.dumps({"b": clicks}))
    points, problems = read("whats_the_point", tmp_path / "p.json", points_file([]))
    assert problems == [f"The click x={x}, y={y} lies outside image b.jpg of 9 x 7 pixels."]
    assert content(points) == [[(1, 17, 8, 6)]]


@pytest.mark.parametrize(("text", "sentence"), [
    ("[]", "must hold an object: image -> list of clicks"),
    ("{", "is not valid JSON"),
])
def test_json_files_that_cannot_be_used(tmp_path, text, sentence):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DataError, match=rf"point annotation JSON .*p\.json {sentence}"):
        read("whats_the_point", tmp_path / "p.json", points_file([]))


def _map(value=0, others=3, size=SIZE, dtype=np.uint8):
    labels = np.full(size, others, dtype=dtype)
    labels[1, 1] = value
    return labels


@pytest.mark.parametrize(("labels", "sentence"), [
    (_map(others=255), "pixels of 255, which in sparse maps means padding"),
    (_map(value=1, others=0), "% zeros, but 0 is a class; if it means unlabelled"),
    (_map(value=2, others=1), "which is a dense map"),
    (_map(value=7), "has the value 7; classes are 0..2, 3 is unlabelled: is 3 the right number of classes?"),
    (_map(dtype=np.uint16), "has mode I;16, class values need grayscale"),
    (np.stack([_map()] * 3, axis=-1), "has mode RGB, class values need grayscale"),
    (_map(size=(6, 9)), "is 9 x 6 pixels (width x height), its image b.jpg is 9 x 7"),
    (b"", "cannot be decoded"),
])
def test_bad_sparse_maps(tmp_path, labels, sentence):
    trees.palette_png(tmp_path / "a.png", _map())
    if isinstance(labels, bytes):
        (tmp_path / "b.png").write_bytes(labels)
    else:
        Image.fromarray(labels).save(tmp_path / "b.png")
    points, problems = read("sparse_png", tmp_path, points_file([]))
    assert len(problems) == 1 and "b.png" in problems[0] and sentence in problems[0]
    assert content(points) == [[(0, 3, 1, 1)]]


def _rgb(value, size=SIZE):
    colours = np.zeros((*size, 3), dtype=np.uint8)
    colours[2, 2] = (value % 256, value // 256, 0)
    return Image.fromarray(colours)


def _rgb_of_16_bits(path):
    import cv2

    cv2.imwrite(str(path), np.zeros((*SIZE, 3), dtype=np.uint16))


@pytest.mark.parametrize(("write", "sentence"), [
    (lambda path: _rgb(301).save(path), "has the id 301, which is no segment of its image"),
    (lambda path: _rgb(300).convert("P").save(path), "has mode P, segment ids need RGB"),
    (lambda path: _rgb(300).convert("L").save(path), "has mode L, segment ids need RGB"),
    (lambda path: _rgb(300, (6, 6)).save(path), "is 6 x 6 pixels (width x height)"),
    (_rgb_of_16_bits, "has 16 bits per channel, segment ids need 8"),
    (lambda path: _rgb(300).save(path, format="JPEG"), "is no PNG file; ids do not survive other formats"),
    (lambda path: path.write_bytes(b"\x89PNG"), "cannot be decoded"),
    (lambda path: _rgb(300).save(path.with_name("z.png")), "'z' is no image of the toy"),
])
def test_bad_point_png_files(tmp_path, write, sentence):
    _rgb(300).save(tmp_path / "a.png")
    write(tmp_path / "b.png")
    segments = [{"id": 300, "category_id": 3, "iscrowd": 0}]
    points, problems = read("panoptic_png", tmp_path, points_file([]), lambda record: segments)
    assert len(problems) == 1 and sentence in problems[0] and ("b.png" in problems[0] or "z.png" in problems[0])
    assert content(points) == [[(0, 3, 2, 2)]]


def test_folders_that_cannot_be_used(tmp_path):
    blank = points_file([])
    with pytest.raises(DataError, match="nowhere does not exist"):
        read("sparse_png", tmp_path / "nowhere", blank)
    with pytest.raises(DataError, match="has no PNG file"):
        read("sparse_png", tmp_path, blank)
    with pytest.raises(DataError, match=r"mean nothing without their JSON: add json=FILE"):
        read("panoptic_png", tmp_path, blank)
    with pytest.raises(DataError, match=r"images folder .*nowhere does not exist"):
        FolderOfImages(tmp_path / "nowhere")


def test_a_stem_that_fits_two_images_is_refused():
    images = KnownImages([ImageRecord(1, "x/a.jpg", 2, 2), ImageRecord(2, "y/a.jpg", 2, 2)], "the folder")
    assert images.find("x/a.jpg") == images.find("x/a") == 0
    with pytest.raises(DataError, match="'a' fits several images of the folder"):
        images.find("a")


def test_an_object_of_two_classes(tmp_path):
    clicks = [{"x": i, "y": 0, "cls": cls, "rank": i, "instance": 5} for i, cls in enumerate((1, 1, 2))]
    (tmp_path / "p.json").write_text(json.dumps({"a": clicks}))
    points, problems = read("whats_the_point", tmp_path / "p.json", points_file([]))
    assert problems == ["Image a.jpg: object 5 has clicks of two classes, cat and dog."]
    assert content(points) == [[(0, 3, 0, 0), (0, 3, 1, 0)]]


def test_clicks_on_void_crowd_and_other_classes_are_left_out(folder: Folder, tmp_path):
    source = folder.read()
    rows = ["a.jpg,0,0,cat,", "a.jpg,9,3,cat,", "a.jpg,3,3,sky,", "a.jpg,3,3,cat,"]
    (tmp_path / "p.csv").write_text("image,x,y,class,instance\n" + "\n".join(rows))
    images = KnownImages(source.records, "toy")
    found = READERS["csv"](tmp_path / "p.csv", Setting(images, source.categories, []))
    points = points_of_clicks(found, images, source.categories, "toy", "csv", source)
    assert found.problems == ["Image a.jpg: the click x=0, y=0 on cat lies on void.",
                              "Image a.jpg: the click x=9, y=3 on cat lies on a crowd region.",
                              "Image a.jpg: the click x=3, y=3 on sky lies on cat."]
    assert points.target_segment.tolist() == [300]


@pytest.mark.parametrize("form", ["panoptic_png", "sparse_png", "scribble_png"])
def test_a_map_has_room_for_one_label_at_a_pixel(tmp_path, form):
    points = points_file([(0, 1, 3, [(1, 1)]), (0, 2, 17, [(1, 1)])])
    with pytest.raises(DataError, match=r"image a\.jpg has two (classes|targets) at x=1, y=1, .* use format=csv"):
        written(form, points, tmp_path)
    assert not list(tmp_path.iterdir())


def test_maps_of_images_with_one_stem_are_refused(tmp_path):
    points = points_file([], names=("x/a.jpg", "y/a.jpg"))
    with pytest.raises(DataError, match=r"Two images would be written to .*a\.png"):
        written("sparse_png", points, tmp_path)


# the check


def findings(found):
    return {finding.what: finding.count for finding in found}


def test_check_counts_what_is_wrong_with_points():
    points = points_file([
        (0, 1, 3, [(0, 0), (9, 0), (0, 0)]),  # one outside, one repeated
        (0, 2, 17, [(0, 0), (-1, 3)]),  # one at a pixel of target 1, one outside
        (1, 3, 4, [(1, 1)]),  # unknown class
        (1, 4, 3, []),
    ], names=("a.jpg", "b.jpg", "c.jpg"))
    assert findings(check_points(points)) == {
        "points outside their image": 2, "targets of unknown classes": 1, "points at a pixel of another target": 1,
        "points that repeat one of their target": 1, "targets without a point": 1, "classes without a point": 1,
        "images without a point": 1}
    assert check_points(points)[0].first == "x=9, y=0 in a.jpg"


def test_drawn_points_pass_the_check(folder: Folder):
    source = folder.read()
    points = draw_points(source, "center_biased", 5, 0)
    assert not check_points(points) and not check_against_masks(points, source)


def test_check_against_masks_counts_each_kind(folder: Folder):
    source: CocoPanoptic = folder.read()
    rows = [
        (0, 300, 17, [(3, 3), (3, 7), (0, 0)]),  # right, on the other cat, on void
        (0, 70000, 90, [(9, 3), (0, 5), (3, 3)]),  # on the crowd, right, on a cat
    ]
    points = points_file(rows, names=("a.jpg",), categories=source.categories, size=(12, 16))
    records = [ImageRecord(11, "a.jpg", 12, 16), ImageRecord(33, "c.jpg", 4, 4)]
    points = replace(points, records=records, source_fingerprint="of another version")
    assert findings(check_against_masks(points, source)) == {
        "points that lie on void": 1, "points that lie on a crowd region": 1, "points on another class": 1,
        "points on another segment than their target": 1, "images that the data set does not have": 1,
        "images of the data set that the points do not list": 1, "targets of the data set without a point": 2,
        "ground truths that differ from the one the points were drawn from": 1,
    }


def test_check_finds_images_of_another_size(folder: Folder):
    source = folder.read()
    points = points_file([], names=("a.jpg", "b.jpg"), categories=source.categories)
    points = replace(points, records=[ImageRecord(11, "a.jpg", 12, 15), ImageRecord(22, "b.jpg", 9, 8)])
    assert findings(check_against_masks(points, source)) == {"images of another size than in the data set": 2}
    (folder.root / "train" / "b.jpg").unlink()
    assert findings(check_images(points, source)) == {"images that cannot be used": 2}
