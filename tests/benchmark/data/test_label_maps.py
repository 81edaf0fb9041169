"""Label map files: round trips, the histogram check, and folders of them as a source."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, FolderImages
from benchmark.data.label_maps import (
    check_label_map,
    read_label_map,
    sparse_label_map,
    sparse_pixels,
    voc_palette,
    write_label_map,
)
from benchmark.data.sources import build_images, build_source

K = 21


@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_what_is_written_is_read_back_unchanged(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("maps") / "a" / "x.png"
    write_label_map(path, labels)
    found = read_label_map(path)
    assert found.dtype == np.uint8 and np.array_equal(found, labels)
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]


def test_files_of_others_are_read_by_value_not_by_colour(tmp_path):
    values = np.array([[0, 5, 20], [21, 255, 1]], dtype=np.uint8)
    gray, palette = Image.fromarray(values), Image.fromarray(values)
    palette.putpalette(voc_palette())
    for name, image in (("gray", gray), ("palette", palette)):
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_label_map(tmp_path / f"{name}.png"), values)
    palette.convert("RGB").save(tmp_path / "colours.png")
    with pytest.raises(DataError, match=r"colours\.png has mode RGB, class values need grayscale"):
        read_label_map(tmp_path / "colours.png")
    with pytest.raises(DataError, match="does not exist"):
        read_label_map(tmp_path / "none.png")


def test_the_palette_is_vocs():
    """Colours of VOC's development kit: background, aeroplane, bicycle, person, tvmonitor, void."""
    colours = np.array(voc_palette()).reshape(-1, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {value: tuple(colours[value].tolist()) for value in known} == known


@pytest.mark.parametrize("wrong", [np.array([[256]]), np.array([[-1]]), np.zeros(3), np.zeros((0, 3))])
def test_what_is_no_label_map_is_not_written(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"values in 0\.\.255"):
        write_label_map(tmp_path / "x.png", wrong)
    assert not list(tmp_path.iterdir())


@given(st.data())
def test_pixels_and_sparse_maps_are_inverse(data):
    height, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    labels = data.draw(arrays(np.uint8, (height, width), elements=st.integers(0, K)))
    xy, classes = sparse_pixels(labels, K)
    assert np.array_equal(sparse_label_map(xy, classes, (height, width), K), labels)


# --- the histogram check ----------------------------------------------------------------------------------------------


def sparse(fill, *values, size=(10, 10)):
    labels = np.full(size, fill, dtype=np.uint8)
    labels.flat[: len(values)] = values
    return labels


@pytest.mark.parametrize("labels", [sparse(K, 0, 0, 5, 20), sparse(K), sparse(K, *[0] * 30, *[3] * 15)])
def test_a_sparse_map_in_the_convention_is_accepted(labels):
    check_label_map(labels, K, sparse=True, what="x.png")


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (sparse(255, 0, 5, 20), ["97 pixels of 255", "padding", "replace 255 by 21"]),  # the panoptic convention
        (sparse(K, 0, 5, 255), ["1 pixels of 255"]),
        (sparse(0, 1, 5, 20), ["97 % zeros", "0 is a class", "replace 0 by 21"]),  # 0 means unlabelled
        (sparse(3, 0, 1), ["a class at 100 %", "dense map"]),
        (sparse(K, 0, 22), ["has the value 22", "classes are 0..20, 21 is unlabelled", "right number"]),
        (sparse(19, 0, 5), ["a class at 100 %"]),  # Cityscapes' 19 read with VOC's 21 classes
    ],
)
def test_a_sparse_map_of_another_convention_is_one_sentence(labels, parts):
    with pytest.raises(DataError) as error:
        check_label_map(labels, K, sparse=True, what="The label map x.png")
    for part in ("The label map x.png", *parts):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dense_map_has_no_unlabelled_value():
    check_label_map(sparse(0, 255, 20), K, sparse=False, what="x")
    with pytest.raises(DataError, match="97 pixels of the value 21, which means unlabelled in sparse maps"):
        check_label_map(sparse(K, 255, 20, 0), K, sparse=False, what="x")
    with pytest.raises(DataError, match="has the value 33"):
        check_label_map(sparse(0, 33), K, sparse=False, what="x")


# --- folders ----------------------------------------------------------------------------------------------------------


TRAIN = {"list": "train.txt", "images": "images/{name}.jpg", "labels": "points/{name}.png", "sparse": True}


def config_of(root, /, **changes):
    return {
        "name": "toy", "kind": "label_maps", "root": str(root), "classes": ["ground", "cat", "dog"], "stuff": ["ground"],
        "train": TRAIN,
        "val": {"list": None, "images": "images/{name}.jpg", "labels": "dense/{name}.png", "sparse": False},
        **changes,
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images" / "city").mkdir(parents=True)
    for name in ("a", "city/b"):
        Image.fromarray(np.full((6, 8, 3), 90, dtype=np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
        write_label_map(tmp_path / "points" / f"{name}.png", sparse(3, 0, 1, 2, size=(6, 8)))
        write_label_map(tmp_path / "dense" / f"{name}.png", sparse(0, 255, 1, 2, size=(6, 8)))
    (tmp_path / "train.txt").write_text("images/a.jpg dense/a.png\ncity/b\n\n")
    return tmp_path


def test_a_folder_is_a_source_with_a_segment_per_class(root):
    source = build_source(config_of(root), "train")
    assert isinstance(source, AnnotatedSource) and source.categories.names == ["cat", "dog", "ground"]
    assert [(r.id, r.file_name, r.height, r.width) for r in source.records] == [
        ("a", "images/a.jpg", 6, 8), ("city/b", "images/city/b.jpg", 6, 8)
    ]
    annotation = source.read_annotation(source.records[1])
    assert annotation.ids[0].tolist() == [1, 2, 3, 0, 0, 0, 0, 0] and annotation.ids[1:].max() == 0
    assert [(s["id"], s["category_id"], s["area"]) for s in annotation.segments] == [(1, 1, 1), (2, 2, 1), (3, 3, 1)]
    assert source.read_image(source.records[0]).shape == (6, 8, 3)
    val = build_source(config_of(root), "val")
    assert [r.id for r in val.records] == ["a", "city/b"]  # without a list: all images
    assert val.read_annotation(val.records[0]).ids[0].tolist() == [0, 2, 3, 1, 1, 1, 1, 1]
    assert val.fingerprint != source.fingerprint
    images = build_images(config_of(root), "train", source.records)
    assert type(images) is FolderImages and images.read_image(images.records[1]).shape == (6, 8, 3)


def test_the_fingerprint_follows_the_label_files(root):
    before = build_source(config_of(root), "train").fingerprint
    assert build_source(config_of(root), "train").fingerprint == before
    write_label_map(root / "points" / "a.png", np.random.default_rng(0).integers(0, 3, (6, 8)))
    assert build_source(config_of(root), "train").fingerprint != before


def test_a_map_of_another_convention_names_its_file(root):
    source = build_source(config_of(root, val={**config_of(root)["val"], "sparse": True}), "val")
    with pytest.raises(DataError, match=r"dense/a\.png has 1 pixels of 255, which in sparse maps"):
        source.read_annotation(source.records[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": None}, r"'toy' has no folder: set dataset\.root=FOLDER to the one with images/\{name\}\.jpg and label m"),
        ({"root": "/nonesuch"}, r"folder /nonesuch of data set 'toy' does not exist"),
        ({"train": {**TRAIN, "list": "no.txt"}}, r"list .*no\.txt .* not exist"),
        ({"train": {**TRAIN, "list": None, "images": "i/{name}.jpg"}}, r"has no image i/\{name\}\.jpg"),
        ({"train": {**TRAIN, "images": "{name}.png"}}, r"a\.png .* cannot be read"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_sentence(root, changes, message):
    with pytest.raises(DataError, match=message):
        build_source(config_of(root, **changes), "train")


def test_a_missing_label_map_and_one_of_another_size_are_told(root):
    source = build_source(config_of(root), "train")
    write_label_map(root / "points" / "a.png", sparse(3, size=(8, 6)))
    with pytest.raises(DataError, match=r"points/a\.png is 6 x 8 pixels \(width x height\), its image .*a\.jpg is 8 x 6"):
        source.read_annotation(source.records[0])
    (root / "points" / "a.png").unlink()
    with pytest.raises(DataError, match=r"label map .*points/a\.png does not exist"):
        _ = source.fingerprint
