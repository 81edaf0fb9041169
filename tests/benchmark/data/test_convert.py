"""VOC, SBD and Cityscapes annotations in panoptic terms, and what is wrong with files that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from benchmark.data import voc
from benchmark.data.cityscapes import read_cityscapes
from benchmark.data.class_lists import cityscapes_categories, ids_by_value, voc_categories
from benchmark.data.conversion import Conversion, link
from benchmark.data.errors import DataError, OutputError
from benchmark.data.ledger import Ledger
from tests.benchmark.data import trees


@pytest.fixture
def pair(tmp_path):
    """VOC's two maps of an image, as arrays, with a function that writes and reads them."""
    classes, objects = trees.voc_maps()

    def read(classes=classes, objects=objects):
        trees.palette_png(tmp_path / "class.png", classes)
        trees.palette_png(tmp_path / "object.png", objects)
        return voc.read_voc(tmp_path / "class.png", tmp_path / "object.png")

    read.maps, read.folder = (classes, objects), tmp_path
    return read


def test_train_aug_is_sbd_and_voc_train_without_voc_val():
    assert voc.train_aug(trees.VOC_TRAIN, trees.VOC_VAL, trees.SBD_TRAIN + trees.SBD_VAL) == trees.TRAIN_AUG


def test_numbers_of_the_published_sets():
    """Independently: SBD has 11 355 images; 10 582 = 11 355 + 1 464 - what both have, less what is in val."""
    from benchmark.data import preparations

    assert sum(preparations.SBD_LISTED.values()) == 11355
    assert (preparations.TRAIN_AUG, preparations.VOC_LISTED["val"]) == (10582, 1449)


def test_voc_objects_background_and_void(pair):
    classes, objects = pair.maps
    labelled = pair()
    assert [labelled.category_of[i] for i in (1, 2, 3)] == [15, 15, 13]
    assert not labelled.crowd
    for number in (1, 2, 3):
        assert np.array_equal(labelled.ids == number, objects == number)
    assert np.array_equal(labelled.ids == 0, classes == 255)
    background = (classes == 0) & (objects == 0)
    assert labelled.category_of[voc.BACKGROUND_SEGMENT] == 21
    assert np.array_equal(labelled.ids == voc.BACKGROUND_SEGMENT, background)


def test_voc_image_without_objects_is_one_background_segment(pair):
    empty = np.zeros(trees.SIZE, dtype=np.uint8)
    labelled = pair(empty, empty)
    assert np.unique(labelled.ids).tolist() == [voc.BACKGROUND_SEGMENT]


def test_a_tiny_object_of_no_class_is_void(pair):
    classes, objects = (array.copy() for array in pair.maps)
    objects[0, 0] = 9
    labelled = pair(classes, objects)
    assert labelled.ids[0, 0] == 0 and (labelled.ids != 9).all()


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda c, o: c.__setitem__((0, 0), 37), r"class\.png has the value 37; classes are 0\.\.20"),
    (lambda c, o: c.__setitem__(np.s_[11:18, 4:20], 0), r"class\.png and .*object\.png contradict each other at \d+ pixels"),
    (lambda c, o: o.__setitem__(np.s_[:], 0), "contradict each other"),
])
def test_voc_maps_that_do_not_belong_together(pair, change, sentence):
    classes, objects = (array.copy() for array in pair.maps)
    change(classes, objects)
    with pytest.raises(DataError, match=sentence):
        pair(classes, objects)


def test_voc_maps_of_different_sizes(pair):
    with pytest.raises(DataError, match=r"class\.png and .*object\.png have different sizes: 26 x 20 and 26 x 19"):
        pair(pair.maps[0], pair.maps[1][:19])


def _as_rgb(path):
    Image.open(path).convert("RGB").save(path)


def _as_16_bit(path):
    Image.fromarray(np.zeros(trees.SIZE, dtype=np.uint16)).save(path)


def _as_cmyk_jpeg(path):
    Image.new("CMYK", trees.SIZE[::-1]).save(path, format="JPEG")


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-30])


def _zero_bytes(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(("damage", "sentence"), [
    (_as_rgb, r"label map .*class\.png has mode RGB, class values need grayscale"),
    (_as_16_bit, r"label map .*class\.png has mode I;16, class values need grayscale"),
    (_as_cmyk_jpeg, r"label map .*class\.png has mode CMYK"),
    (_truncated, r"label map .*class\.png cannot be decoded, it may be truncated"),
    (_zero_bytes, r"label map .*class\.png cannot be decoded, it may be truncated or no image"),
    (lambda path: path.unlink(), r"label map .*class\.png does not exist"),
])
def test_damaged_voc_maps(pair, damage, sentence):
    pair()
    damage(pair.folder / "class.png")
    with pytest.raises(DataError, match=sentence):
        voc.read_voc(pair.folder / "class.png", pair.folder / "object.png")


def test_sbd_objects_and_background(tmp_path):
    objects, categories = trees.sbd_maps()
    trees.sbd_mat(tmp_path / "x.mat", objects, categories)
    labelled = voc.read_sbd(tmp_path / "x.mat")
    assert {i: labelled.category_of[i] for i in (1, 2)} == {1: 8, 2: 3}
    assert np.array_equal(labelled.ids, np.where(objects > 0, objects.astype(int), voc.BACKGROUND_SEGMENT))


def test_sbd_with_one_object_and_with_none(tmp_path):
    """MATLAB stores a single category as a scalar."""
    objects = np.zeros(trees.SIZE, dtype=np.uint8)
    trees.sbd_mat(tmp_path / "none.mat", objects, [])
    assert np.unique(voc.read_sbd(tmp_path / "none.mat").ids).tolist() == [voc.BACKGROUND_SEGMENT]
    objects[3, 3] = 1
    savemat(tmp_path / "one.mat", {"GTinst": {"Segmentation": objects, "Categories": np.uint8(7)}})
    assert voc.read_sbd(tmp_path / "one.mat").category_of[1] == 7


@pytest.mark.parametrize(("content", "sentence"), [
    ({"GTcls": {"Segmentation": np.zeros((4, 4))}}, "it has no GTinst"),
    ({"GTinst": {"Segmentation": np.zeros((4, 4))}}, "cannot be read"),
    ({"GTinst": {"Segmentation": np.full((4, 4), 3), "Categories": [[1], [2]]}}, "has an object 3, but 2 Categories"),
    ({"GTinst": {"Segmentation": np.ones((4, 4)), "Categories": [[21]]}}, "Categories from 21 to 21; they go from 1 to 20"),
    ({"GTinst": {"Segmentation": np.zeros((2, 4, 4)), "Categories": [[2]]}}, r"a Segmentation of shape \(2, 4, 4\)"),
    ({"GTinst": "text"}, "cannot be read"),
])
def test_sbd_files_that_cannot_be_used(tmp_path, content, sentence):
    savemat(tmp_path / "2008_000007.mat", content)
    with pytest.raises(DataError, match=rf"SBD instance file .*2008_000007\.mat .*{sentence}"):
        voc.read_sbd(tmp_path / "2008_000007.mat")


@pytest.mark.parametrize("keep", [0, 60, 128, 200, -5])
def test_truncated_sbd_files(tmp_path, keep):
    trees.sbd_mat(tmp_path / "x.mat", *trees.sbd_maps())
    whole = (tmp_path / "x.mat").read_bytes()
    (tmp_path / "x.mat").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"SBD instance file .*x\.mat cannot be read"):
        voc.read_sbd(tmp_path / "x.mat")
    with pytest.raises(DataError, match=r"y\.mat does not exist"):
        voc.read_sbd(tmp_path / "y.mat")


def test_names_of_a_list(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("2007_000032\n\n2007_000039 1\n")
    assert voc.read_names(path, "VOC list") == ["2007_000032", "2007_000039"]
    bad = {b"": "names no image", b"a\nb\na\n": "names a more than once", b"\xff\xfe\x00": "cannot be read"}
    for content, sentence in bad.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"VOC list .*train\.txt {sentence}"):
            voc.read_names(path, "VOC list")
    with pytest.raises(DataError, match="does not exist"):
        voc.read_names(tmp_path / "val.txt", "VOC list")


def test_cityscapes_instances_stuff_groups_and_what_does_not_count(tmp_path):
    labels, instances = trees.cityscapes_maps()
    Image.fromarray(labels).save(tmp_path / "l.png")
    Image.fromarray(instances).save(tmp_path / "i.png")
    labelled = read_cityscapes(tmp_path / "l.png", tmp_path / "i.png")
    assert labelled.category_of == {7: 7, 23: 23, 26000: 26, 26001: 26, 24: 24}
    assert labelled.crowd == {24}
    assert np.array_equal(labelled.ids, np.where(instances == 1, 0, instances))


@pytest.mark.parametrize(("kind", "change", "sentence"), [
    ("i", lambda a: a.astype(np.uint8), r"i\.png has mode L, instance ids need 16 bits"),
    ("i", lambda a: np.where(a == 26001, 40001, a).astype(np.uint16), r"i\.png has the instance id 40001, which belongs to"),
    ("i", lambda a: a[:-1], r"have different sizes: 26 x 20 and 26 x 19"),
    ("l", lambda a: np.where(a == 7, 0, a).astype(np.uint8), r"contradict each other at \d+ pixels; .* not labelTrainIds"),
    ("l", lambda a: np.stack([a] * 3, axis=-1), r"l\.png has mode RGB"),
])
def test_cityscapes_files_that_cannot_be_used(tmp_path, kind, change, sentence):
    maps = dict(zip("li", trees.cityscapes_maps(), strict=True))
    maps[kind] = change(maps[kind])
    for name, array in maps.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=sentence):
        read_cityscapes(tmp_path / "l.png", tmp_path / "i.png")


def test_class_lists_follow_the_values_of_label_maps():
    things_first = voc_categories()
    assert things_first.names[0] == "aeroplane" and things_first.names[-1] == "background" and things_first.num_things == 20
    assert ids_by_value(things_first) == [21, *range(1, 21)]
    names = {category.id: category.name for category in cityscapes_categories()}
    train_ids = [names[i] for i in ids_by_value(cityscapes_categories())]
    assert train_ids[:3] == ["road", "sidewalk", "building"] and train_ids[10:14] == ["sky", "person", "rider", "car"]
    assert train_ids[-2:] == ["motorcycle", "bicycle"] and len(train_ids) == 19
    with pytest.raises(ValueError, match="must list each class once"):
        ids_by_value(things_first, ["cat"])


def test_a_ledger_forgets_what_changed_and_survives_a_torn_line(tmp_path):
    source, made = tmp_path / "in", tmp_path / "out"
    source.write_text("a")
    made.write_text("b")
    path = tmp_path / "ledger"
    with Ledger(path) as ledger:
        ledger.note("x", [source], [made], {"n": 1})
    with open(path, "a") as file:
        file.write('{"format": 1, "name": "torn", "inp')
    with Ledger(path) as ledger:
        assert ledger.result("x", [source], [made]) == {"n": 1}
        assert ledger.result("torn", [], []) is None
        ledger.note("y", [source], [], {})
    assert Ledger(path).result("y", [source], []) == {}
    made.write_text("bb")
    assert Ledger(path).result("x", [source], [made]) is None
    made.write_text("b")
    assert Ledger(path).result("x", [source], [made]) == {"n": 1}
    source.unlink()
    assert Ledger(path).result("x", [source], [made]) is None


def test_a_conversion_wants_an_image_of_the_annotations_size(tmp_path, pair):
    pair()
    maps = (tmp_path / "class.png", tmp_path / "object.png")
    trees.photograph(tmp_path / "small.jpg", size=(10, 10))
    task = Conversion("small", 1, "small.jpg", tmp_path / "small.jpg", maps, voc.read_voc, tmp_path / "o", tmp_path / "p")
    with pytest.raises(DataError, match=r"small\.jpg is 10 x 10 pixels .* its record says 26 x 20"):
        task.work()
    assert not (tmp_path / "o").exists() and not (tmp_path / "p").exists()


def test_links_are_made_anew_and_never_in_place_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    link(tmp_path / "a", tmp_path / "sub" / "x")
    link(tmp_path / "b", tmp_path / "sub" / "x")
    link(tmp_path / "b", tmp_path / "sub" / "x")
    assert (tmp_path / "sub" / "x").read_text() == "b"
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"folder cannot be written"):
        link(tmp_path / "sub", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "folder", "sub"]


def test_a_file_is_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    def refused(*_args, **_options):
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "a").write_text("a")
    monkeypatch.setattr("os.symlink", refused)
    link(tmp_path / "a", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "a" and not (tmp_path / "x").is_symlink()


def test_maps_of_huge_dimensions_are_refused_before_they_are_decoded(pair, monkeypatch):
    pair()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of 520; Pillow refuses from twice the limit on
    with pytest.raises(DataError, match=r"label map .*class\.png cannot be decoded, .*exceeds limit of 200 pixels"):
        voc.read_voc(pair.folder / "class.png", pair.folder / "object.png")
