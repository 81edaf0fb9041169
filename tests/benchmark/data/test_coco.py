"""Reader and writer of the COCO panoptic format."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from benchmark.data.coco import CocoPanoptic, decode_ids, encode_ids, write_panoptic
from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, Annotation, ImageRecord
from benchmark.data.sources import build_images, build_source
from tests.benchmark.data.conftest import SHARED, toy_ids


@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 2**24 - 1)))
def test_codec_is_lossless(ids):
    colours = encode_ids(ids)
    assert np.array_equal(decode_ids(colours), ids)
    with_alpha = np.concatenate([colours, np.full((*ids.shape, 1), 255, np.uint8)], axis=-1)
    assert np.array_equal(decode_ids(with_alpha), ids)
    assert np.array_equal(decode_ids(colours[:, ::-1]), ids[:, ::-1])
    red, green, blue = (int(c) for c in colours[0, 0])
    assert red + 256 * green + 65536 * blue == ids[0, 0]


@pytest.mark.parametrize("bad", [-1, 2**24])
def test_ids_beyond_24_bit_are_refused(bad):
    with pytest.raises(ValueError, match=f"{bad}"):
        encode_ids(np.array([[0, bad]]))


def test_reads_records_categories_and_ids(folder):
    source = folder.read()
    assert isinstance(source, AnnotatedSource)
    assert source.records == [ImageRecord(11, "a.jpg", 12, 16), ImageRecord(22, "b.jpg", 10, 8)]
    assert source.categories.names == ["cat", "sky", "grass"]
    annotation = source.read_annotation(source.records[0])
    assert annotation.ids.dtype == np.int64 and np.array_equal(annotation.ids, toy_ids())
    assert [s["id"] for s in annotation.segments] == [300, 70000, 5, 7, 9, 6]
    assert source.read_image(source.records[1]).shape == (10, 8, 3)


def test_fingerprint_follows_the_json(folder):
    before = folder.read().fingerprint
    assert folder.read().fingerprint == before
    folder.content["annotations"][0]["segments_info"][0]["area"] = 79
    assert folder.read().fingerprint != before


def _set(path, value):
    """A change of the JSON content at a path of keys."""
    def change(content):
        for key in path[:-1]:
            content = content[key]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value
    return change


@pytest.mark.parametrize(("change", "sentence"), [
    (_set(["images"], None), "has no list 'images'"),
    (_set(["categories"], {"1": "cat"}), "has no list 'categories'"),
    (_set(["images"], []), "lists no image"),
    (_set(["images", 1, "height"], "ten"), r"images\[1\] of .*panoptic_train.json needs 'height' \(int\), it has 'ten'"),
    (_set(["images", 1, "height"], 0), r"images\[1\] of .* has the size 8 x 0"),
    (_set(["images", 1, "file_name"], None), r"images\[1\] of .* needs 'file_name' \(str\), it has None"),
    (_set(["images", 0], 5), r"images\[0\] of .* must be an object"),
    (_set(["images", 1, "id"], 11), "image id 11 occurs more than once"),
    (_set(["annotations", 1, "image_id"], 22), "annotation of image 22 occurs more than once"),
    (_set(["annotations", 1, "image_id"], 33), "annotates image 33, which it does not list"),
    (_set(["annotations", 1], None), "lists image 11 without an annotation"),
    (_set(["annotations", 0, "segments_info", 0, "category_id"], 91), "category id 91, which 'categories' does not list"),
    (_set(["annotations", 0, "segments_info", 0, "id"], 0), "segment id 0, ids go from 1 to 16777215"),
    (_set(["annotations", 0, "segments_info", 0, "area"], None), r"segment of image 22 of .* needs 'area' \(int or float\)"),
    (_set(["annotations", 1, "segments_info", 0, "id"], 7), "image 11 in .* lists the segment id 7 more than once"),
    (_set(["categories", 1, "id"], 90), "categories of .* are unusable: Category id 90 is listed more than once"),
    (_set(["categories"], []), "categories of .* are unusable: A data set needs at least one category"),
])
def test_wrong_json_is_refused_with_its_place(folder, change, sentence):
    change(folder.content)
    with pytest.raises(DataError, match=sentence) as caught:
        folder.read()
    assert "panoptic_train.json" in str(caught.value)


def test_json_that_is_missing_or_no_json(folder):
    folder.read()
    folder.json_path.write_text("{ half")
    with pytest.raises(DataError, match=r"panoptic_train\.json is not valid JSON"):
        build_source(folder.config, "train")
    folder.json_path.write_text("[]")
    with pytest.raises(DataError, match="must hold an object with the lists images, annotations, categories"):
        build_source(folder.config, "train")
    with pytest.raises(DataError, match=r"panoptic_val\.json does not exist"):
        build_source(folder.config, "val")


def test_missing_folders(folder):
    source = folder.read()
    for key, sentence in (("masks", "PNG files .*nowhere of data set 'toy' does not exist"),
                          ("images", "images folder .*nowhere of data set 'toy' does not exist")):
        with pytest.raises(DataError, match=sentence):
            build_source({**folder.config, key: "nowhere"}, "train")
    with pytest.raises(DataError, match=r"has no folder: set dataset\.root=FOLDER to the one that holds panoptic_train"):
        build_source({**folder.config, "root": None}, "train")
    with pytest.raises(DataError, match=r"/nowhere of data set 'toy' does not exist: correct dataset\.root"):
        build_images({**folder.config, "root": "/nowhere"}, "train", source.records)


def test_wrong_png_files(folder):
    source = folder.read()
    record, png = source.records[0], folder.root / "panoptic_train" / "a.png"
    ids = toy_ids()
    ids[0, 0] = 1234
    folder.write_ids("a.png", ids)
    with pytest.raises(DataError, match=r"a\.png has ids that .*panoptic_train\.json does not list: 1234\."):
        source.read_annotation(record)
    folder.write_ids("a.png", np.where(toy_ids() == 7, 300, toy_ids()))
    with pytest.raises(DataError, match=r"panoptic_train\.json lists segments without a pixel in .*a\.png: 7\."):
        source.read_annotation(record)
    folder.write_ids("a.png", toy_ids()[:, :10])
    with pytest.raises(DataError, match=r"a\.png is 10 x 12 pixels .* its image in .* is 16 x 12"):
        source.read_annotation(record)
    Image.fromarray(toy_ids().astype(np.uint8)).save(png)
    with pytest.raises(DataError, match=r"a\.png has mode L, segment ids need RGB"):
        source.read_annotation(record)
    png.write_bytes(png.read_bytes()[:60])
    with pytest.raises(DataError, match=r"panoptic PNG .*a\.png cannot be decoded"):
        source.read_annotation(record)
    png.unlink()
    with pytest.raises(DataError, match=r"panoptic PNG .*a\.png does not exist"):
        source.read_annotation(record)


def test_written_maps_read_back(folder, tmp_path):
    source = folder.read()
    target = tmp_path / "out"
    items = [(record, source.read_annotation(record)) for record in source.records]
    # a segment without a pixel, as a labeler may give, has no place in the format
    items[1] = (items[1][0], Annotation(items[1][1].ids, [*items[1][1].segments, {"id": 8, "category_id": 17}]))
    write_panoptic(target / "panoptic.json", target / "masks", source.categories, items)
    again = CocoPanoptic(target / "panoptic.json", target / "masks", folder.root / "train", "again")
    assert again.records == source.records and again.categories == source.categories
    for record in source.records:
        ours, theirs = again.read_annotation(record), source.read_annotation(record)
        assert np.array_equal(ours.ids, theirs.ids)
        kept = ("id", "category_id", "area", "iscrowd")
        assert [{k: s[k] for k in kept} for s in ours.segments] == [{k: s[k] for k in kept} for s in theirs.segments]
    assert not [path for path in target.rglob("*") if path.suffix == ".tmp"]


def test_writer_refuses_images_that_share_a_png(folder, tmp_path):
    source = folder.read()
    annotation = source.read_annotation(source.records[1])
    twins = [(ImageRecord(i, name, 10, 8), annotation) for i, name in enumerate(("b.jpg", "b.jpeg"))]
    with pytest.raises(DataError, match=r"b\.png: file names must differ"):
        write_panoptic(tmp_path / "x.json", tmp_path / "x", source.categories, twins)
    assert not (tmp_path / "x.json").exists()


def test_official_sample_reads_back():
    """The two images with official ground truth; areas and boxes of the JSON agree with the decoded ids."""
    root = SHARED / "coco_panoptic_sample"
    if not root.is_dir():
        pytest.skip("the official COCO panoptic sample is not beside the checkout (../shared/data)")
    config = {"name": "sample", "kind": "coco_panoptic", "root": str(root), "json": "panoptic_examples.json",
              "masks": "panoptic_examples", "images": "input_images"}
    source = build_source(config, "val")
    assert (len(source.records), len(source.categories), source.categories.num_things) == (2, 133, 80)
    assert source.categories.label_of(200) == 132  # rug-merged, the last of COCO's 53 stuff classes
    for record in source.records:
        assert source.read_image(record).shape == (record.height, record.width, 3)
        annotation = source.read_annotation(record)
        for segment in annotation.segments:
            rows, cols = np.nonzero(annotation.ids == segment["id"])
            x, y, width, height = segment["bbox"]
            assert len(rows) == segment["area"]
            assert (cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1) == (x, y, width, height)


def test_photographs_read_back():
    root = SHARED / "coco_voc20"
    if not root.is_dir():
        pytest.skip("the photographs in COCO panoptic format are not beside the checkout (../shared/data)")
    source = build_source({"name": "coco_voc20", "kind": "coco_panoptic", "root": str(root), "json": "panoptic_{split}.json",
                           "masks": "panoptic_{split}", "images": "{split}"}, "val")
    content = json.loads((root / "panoptic_val.json").read_text())
    assert len(source.records) == len(content["images"]) == 76
    for record in source.records[::15]:
        annotation = source.read_annotation(record)
        assert annotation.ids.shape == source.read_image(record).shape[:2]
        areas = np.bincount(annotation.ids.ravel())
        assert all(areas[segment["id"]] == segment["area"] for segment in annotation.segments)
