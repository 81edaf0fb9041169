"""Picture books: the maps that labels were decided from, beside the labels, of chosen images and of no other."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.evaluate import Evaluator
from benchmark.pictures import PictureBook
from benchmark.scalar_maps import GrayMap
from methods.base.evidence import Evidence
from methods.base.model import Labelling
from methods.base.types import PseudoLabels
from tests.benchmark.panoptic_maps import segments_of
from tests.methods.stand_ins import categories, point_labels

SIZE = (24, 32)
CATEGORIES = categories()
TRUTH = np.ones(SIZE, dtype=np.int64)
TRUTH[:, 16:] = 2


def item(index):
    """An image of two targets, at half its file's size in the network."""
    points = point_labels([(3, 4, 0), (12, 9, 1)], [0, 2])
    sample = SimpleNamespace(image=torch.rand(3, SIZE[0] // 2, SIZE[1] // 2), points=points, image_id=index)
    kinds = {1: CATEGORIES[0].id, 2: CATEGORIES[2].id}
    annotation = SimpleNamespace(ids=TRUTH, segments=segments_of(TRUTH, kinds))
    return SimpleNamespace(index=index, sample=sample, annotation=annotation,
                           record=SimpleNamespace(id=f"image {index}", height=SIZE[0], width=SIZE[1]))  # fmt: skip


def book(folder, *indices):
    return PictureBook(folder, list(indices), "val", CATEGORIES, with_images=False)


def evidence():
    distance = torch.arange(12.0).view(3, 4)
    distance[0, 0] = torch.inf
    nothing = torch.full((2, 2), torch.inf)
    return [Evidence("Path distance (λ)", "How far.", "far", distance, "px", "void"),
            Evidence("boundary", "Where.", "boundary", nothing)]  # fmt: skip


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def test_maps_are_files_beside_the_labels_and_the_index_says_what_they_are(tmp_path):
    kept = book(tmp_path, 3)
    kept.add_labels(item(3), TRUTH, [(1, CATEGORIES[0].id), (2, CATEGORIES[2].id)])
    kept.add_evidence(item(3), evidence())
    kept.write()
    (entry,) = index_of(tmp_path)
    first, second = entry["maps"]
    assert first == {
        "name": "Path distance (λ)", "about": "How far.", "bright": "far", "unit": "px", "missing": "void", "low": 1.0,
        "high": 11.0, "file": "val_000003_map_path-distance.png",
    }  # fmt: skip
    assert (second["low"], second["high"], second["file"]) == (None, None, "val_000003_map_boundary.png")
    with Image.open(tmp_path / first["file"]) as image:
        assert image.mode == "L" and image.size == (4, 3)  # its own resolution
        back = GrayMap(np.asarray(image), first["low"], first["high"]).values()
    assert np.isnan(back[0, 0]) and np.allclose(back.flatten()[1:], np.arange(1, 12), atol=10 / 254 / 2 + 1e-6)


def test_a_method_without_maps_has_none_and_other_images_are_not_kept(tmp_path):
    kept = book(tmp_path, 3)
    kept.add_evidence(item(3), [])
    kept.add_evidence(item(4), evidence())
    kept.write()
    (entry,) = index_of(tmp_path)
    assert entry["maps"] == [] and entry["key"] == "val_000003"
    assert not list(tmp_path.glob("*_map_*")) and not list(tmp_path.glob("*000004*"))


class Asked(torch.nn.Module):
    """A model that notes when it is asked for evidence."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def label(self, batch, output_sizes=None, with_evidence=False):
        self.asked.append(with_evidence)
        points = batch.points[0]
        labels = PseudoLabels.from_segment_ids(torch.from_numpy(TRUTH), points.classes, points.is_thing, SIZE)
        return Labelling([labels], None, [evidence()] if with_evidence else ())


@pytest.mark.parametrize("wanted", [(), (1,), (0, 2)])
def test_evaluation_asks_for_maps_of_the_gallery_images_alone(tmp_path, monkeypatch, wanted):
    monkeypatch.setattr("benchmark.evaluate.collate", lambda samples: SimpleNamespace(
        points=[samples[0].points], to=lambda device: SimpleNamespace(points=[samples[0].points])))  # fmt: skip
    items = [item(i) for i in range(3)]
    data = [(each.sample, each.annotation, each.record) for each in items]
    model = Asked()
    evaluator = Evaluator(model, CATEGORIES, torch.device("cpu"), SimpleNamespace(evaluating=lambda *_: None))
    kept = book(tmp_path, *wanted)
    without, found = (evaluator.labels("labels", data, range(3), each) for each in (None, kept))
    kept.write()
    assert model.asked == [False] * 3 + [i in wanted for i in range(3)]
    assert found == without  # maps change no number
    entries = index_of(tmp_path) if wanted else []
    assert [entry["image_id"] for entry in entries] == [f"image {i}" for i in wanted]
    assert all(len(entry["maps"]) == 2 and entry["segments"]["labels"] for entry in entries)
