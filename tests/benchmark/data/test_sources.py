"""From a config to a source, and the config files themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import benchmark
from benchmark.data.errors import DataError
from benchmark.data.images import AnnotatedSource, FolderImages
from benchmark.data.points import STRATEGIES, draw_points
from benchmark.data.scenes import SceneRecipe
from benchmark.data.sources import SOURCES, build_images, build_source

CONFIGS = {name: Path(benchmark.__file__).parent / "conf" / "dataset" / f"{name}.yaml" for name in SOURCES}


@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_has_its_config_file(name):
    config = OmegaConf.load(CONFIGS[name])
    assert config.kind == config.name == name and config.points.strategy in STRATEGIES
    assert config.redistributable is (name == "scenes")


def test_scenes_config_says_the_defaults_of_the_recipe():
    config = OmegaConf.load(CONFIGS["scenes"])
    source = build_source(config, "train")
    assert source.recipe == SceneRecipe() and len(source.records) == 512
    assert len(build_source(config, "val").records) == 64


def test_scenes_train_and_val_with_points(tmp_path):
    config = OmegaConf.load(CONFIGS["scenes"])
    config = OmegaConf.merge(config, {"size": 32, "train": {"count": 3}})
    source = build_source(config, "train")
    points = draw_points(source, "uniform", 1, 0)
    points.save(tmp_path / "p.npz")
    images = build_images(config, "train", points.records)
    assert not isinstance(images, AnnotatedSource)
    assert (images.read_image(images.records[2]) == source.read_image(source.records[2])).all()
    with pytest.raises(DataError, match="is no scene of split 'val'"):
        build_images(config, "val", points.records)


def test_coco_images_come_from_the_folder_alone(folder):
    records = folder.read().records
    folder.json_path.unlink()
    images = build_images(OmegaConf.create(folder.config), "train", records)
    assert type(images) is FolderImages and images.records == records


def test_coco_config_asks_for_its_root():
    config = OmegaConf.load(CONFIGS["coco_panoptic"])
    with pytest.raises(DataError, match=r"'coco_panoptic' has no folder: set dataset\.root=.* panoptic_val\.json and val/"):
        build_source(config, "val")


def test_unknown_kind_and_split():
    with pytest.raises(ValueError, match=r"Unknown data set kind 'voc' in dataset\.kind; known are scenes, coco_panoptic"):
        build_source({"kind": "voc"}, "train")
    with pytest.raises(ValueError, match="Unknown split 'test'; known are train, val"):
        build_images({"kind": "scenes"}, "test", [])
