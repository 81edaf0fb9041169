"""The plain CSV of clicks: targets, categories, and a sentence for every line that cannot be used."""

from __future__ import annotations

import pytest

from benchmark.data.errors import DataError
from benchmark.data.points_csv import PointsTable
from methods.base.types import Categories, Category

HEADER = "image,x,y,class,instance,isthing\n"
KNOWN = Categories([Category(5, "cat", True), Category(9, "dog", True), Category(2, "sky", False)])
SIZE = (20, 30)


def table(tmp_path, text, header=HEADER):
    path = tmp_path / "points.csv"
    path.write_text(header + text, encoding="utf-8")
    return PointsTable.read(path)


def test_clicks_become_targets(tmp_path):
    """An instance is one target of its class, a click without one is an object, stuff is one target a class."""
    rows = [
        ("a.jpg", 1, 2, "cat", "left"), ("b.jpg", 0, 0, "dog", ""), ("a.jpg", 3, 4, "cat", ""),
        ("a.jpg", 29, 19, "sky", "1"), ("a.jpg", 5, 6, "dog", "left"), ("a.jpg", 7.9, 8, "cat", "left"),
        ("a.jpg", 9, 9, "sky", ""), ("a.jpg", 2, 2, "cat", ""),
    ]  # fmt: skip
    found = table(tmp_path, "".join(",".join(map(str, row)) + "\n" for row in rows), "image,x,y,class,instance\n")
    assert found.images == ["a.jpg", "b.jpg"]
    labels = found.labels_of(0, SIZE, KNOWN)
    assert labels.xy.tolist() == [[1, 2], [3, 4], [29, 19], [5, 6], [7, 8], [9, 9], [2, 2]]
    assert labels.target.tolist() == [0, 1, 2, 3, 0, 2, 4]
    assert labels.classes.tolist() == [0, 0, 2, 1, 0]
    assert labels.is_thing.tolist() == [True, True, False, True, True]
    assert labels.ids.tolist() == [1, 2, 3, 4, 5]
    assert found.labels_of(1, SIZE, KNOWN).xy.tolist() == [[0, 0]]


def test_excel_and_empty_lines_are_read(tmp_path):
    text = '"sub/a, b.jpg", 1 , 2 , cat ,,1\r\n\r\n,,,,,\r\nsub\\c.jpg,1,2,sky,,false\r\n'
    found = table(tmp_path, text, "\ufeff" + HEADER)
    assert found.images == ["sub/a, b.jpg", "sub/c.jpg"] and not found.problems and not found.stray


def test_categories_come_from_the_column(tmp_path):
    found = table(tmp_path, "a.jpg,1,2,zebra,,1\na.jpg,1,2,sky,,0\na.jpg,1,3,cat,,true\n").categories()
    assert found == Categories([Category(1, "cat", True), Category(2, "zebra", True), Category(3, "sky", False)])
    with pytest.raises(DataError, match=r"which classes are things.*isthing.*dataset\.categories"):
        table(tmp_path, "a.jpg,1,2,cat,\n", "image,x,y,class,instance\n").categories()
    with pytest.raises(DataError, match=r"line 2: x is 'abc', which is no number"):  # and not that the column is missing
        table(tmp_path, "a.jpg,abc,2,cat,,1\n").categories()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg,nan,2,cat,,1", r"line 3: x is nan"), ("a.jpg,1,inf,cat,,1", r"line 3: y is inf"),
        ("a.jpg,-1,2,cat,,1", r"line 3: x is -1, .*outside"), ("a.jpg,one,2,cat,,1", r"line 3: x is 'one', which is no"),
        ("a.jpg,1,1e300,cat,,1", r"line 3: y is 1e300, .*outside"), ("a.jpg,1,,cat,,1", r"line 3: it has no y"),
        ("a.jpg,1,2,,,1", r"line 3: it has no class"), ("a.jpg,1", r"line 3: it has no y, class"),
        ("a.jpg,1,2,cat,,2", r"line 3: isthing is '2'"), ("a.jpg,1,2,cat,,0", r"line 3: class 'cat' is a thing in one line"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, said):
    """Its image has no labels, the others do, and training refuses the file."""
    found = table(tmp_path, f"b.jpg,1,2,cat,,1\n{line}\na.jpg,1,2,cat,,1\n")
    with pytest.raises(DataError, match=said):
        found.labels_of(found.images.index("a.jpg"), SIZE, KNOWN)
    assert found.labels_of(0, SIZE, KNOWN).num_targets == 1
    with pytest.raises(DataError, match=rf"points\.csv, {said}.*correct the file"):
        found.check()


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a.jpg", "sub/../../a.jpg"])
def test_an_image_outside_the_folder_is_refused(tmp_path, name):
    found = table(tmp_path, f"b.jpg,1,2,cat,,1\n{name},1,2,cat,,1\n")
    assert found.images == ["b.jpg"] and len(found.stray) == 1 and "line 3" in found.stray[0]
    with pytest.raises(DataError, match="line 3"):
        found.check()


def test_points_outside_and_unknown_classes_are_named(tmp_path):
    found = table(tmp_path, "a.jpg,30,2,cat,,1\nb.jpg,1,20,cat,,1\nc.jpg,1,2,unicorn,,1\n")
    for image, said in enumerate(["line 2: .*x=30", "line 3: .*y=20.*30 x 20", "line 4: class 'unicorn' .*cat, dog, sky"]):
        with pytest.raises(DataError, match=said):
            found.labels_of(image, SIZE, KNOWN)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no column image, x, y, class, instance"), (b"image,x,y\na.jpg,1,2\n", "no column class, instance"),
        (HEADER.encode(), "no line that names an image"), (b"image,x,y,class,instance\n\xff\xfe\n", "no CSV text in UTF-8"),
        (b'image,x,y,class,instance\n"a.jpg,1,2,cat,\n', "no CSV text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "no CSV text|no column"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_named(tmp_path, content, said):
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        PointsTable.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        PointsTable.read(tmp_path / "nothing.csv")
