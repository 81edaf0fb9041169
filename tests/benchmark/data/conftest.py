"""A small data set in COCO panoptic format, written by hand (not by the project's writer)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.data.coco import CocoPanoptic

SHARED = Path(__file__).parents[4] / "shared" / "data"


@dataclass
class Folder:
    """A data set folder whose JSON can be changed before it is read."""

    root: Path
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return {"name": "toy", "kind": "coco_panoptic", "root": str(self.root), "json": "panoptic_{split}.json",
                "masks": "panoptic_{split}", "images": "{split}"}

    @property
    def json_path(self) -> Path:
        return self.root / "panoptic_train.json"

    def read(self) -> CocoPanoptic:
        self.json_path.write_text(json.dumps(self.content))
        return CocoPanoptic(self.json_path, self.root / "panoptic_train", self.root / "train", "toy")

    def write_ids(self, name: str, ids: np.ndarray) -> None:
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(self.root / "panoptic_train" / name)


def toy_ids() -> np.ndarray:
    """12 x 16: stuff 70000 left, two cats (300 and 7), a crowd of cats 9, grass in two parts (5 and 6), void in row 0."""
    ids = np.full((12, 16), 70000)
    ids[2:6, 2:6] = 300
    ids[6:9, 2:6] = 7
    ids[2:5, 8:12] = 9
    ids[8:, 9:12] = 5
    ids[8:, 13:] = 6
    ids[0] = 0
    return ids


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    for name in ("train", "panoptic_train"):
        (tmp_path / name).mkdir()
    toy = Folder(tmp_path)
    toy.write_ids("a.png", toy_ids())
    toy.write_ids("b.png", np.full((10, 8), 4))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(tmp_path / "train" / "a.jpg")
    Image.fromarray(rng.integers(0, 255, (10, 8), dtype=np.uint8)).save(tmp_path / "train" / "b.jpg")  # grayscale
    segments = [
        {"id": 300, "category_id": 17, "area": 16, "iscrowd": 0},
        {"id": 70000, "category_id": 90, "area": 112, "iscrowd": 0},
        {"id": 5, "category_id": 40, "area": 12, "iscrowd": 0}, {"id": 7, "category_id": 17, "area": 12, "iscrowd": 0},
        {"id": 9, "category_id": 17, "area": 12, "iscrowd": 1}, {"id": 6, "category_id": 40, "area": 12, "iscrowd": 0},
    ]
    toy.content = {
        "images": [{"id": 11, "file_name": "a.jpg", "height": 12, "width": 16},
                   {"id": 22, "file_name": "b.jpg", "height": 10, "width": 8}],
        "annotations": [{"image_id": 22, "file_name": "b.png",
                         "segments_info": [{"id": 4, "category_id": 90, "area": 80, "iscrowd": 0}]},
                        {"image_id": 11, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 90, "name": "sky", "isthing": 0}, {"id": 17, "name": "cat", "isthing": 1},
                       {"id": 40, "name": "grass", "isthing": 0}],
    }
    return toy
