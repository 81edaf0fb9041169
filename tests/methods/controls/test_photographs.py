"""How far assignment alone gets on photographs: geodesics need a grid that is fine enough for the instances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from methods.base.types import Categories, PointLabels, Progress, PseudoLabels
from methods.controls.oracle_semantics import OracleSemantics
from tests.methods.stand_ins import mask_batch

DATA = Path(__file__).parents[4] / "shared" / "data" / "coco_voc20"
SIDE = 320


@pytest.fixture(scope="module")
def annotations():
    file = DATA / "panoptic_val.json"
    if not file.is_file():
        pytest.skip(f"the photographs of {DATA.parent.name}/{DATA.name} are not beside this checkout")
    return json.loads(file.read_text())


def load(annotation, file_name, categories, rng):
    """(batch of one image at 320 px, one random point per target); None if nothing is labelled."""
    image = Image.open(DATA / "val" / file_name).convert("RGB")
    width, height = (round(side * SIDE / max(image.size)) for side in image.size)
    png = np.array(Image.open(DATA / "panoptic_val" / annotation["file_name"]).convert("RGB")).astype(np.int32)
    ids = Image.fromarray(png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]).resize((width, height), Image.NEAREST)
    masks = [(s, np.array(ids) == s["id"]) for s in annotation["segments_info"] if not s["iscrowd"]]
    masks = [(s, mask) for s, mask in masks if mask.any()]
    if not masks:
        return None
    segment_ids = np.zeros((height, width), dtype=np.int64)
    for index, (_, mask) in enumerate(masks):
        segment_ids[mask] = index + 1
    xy = [rng.choice(np.argwhere(mask))[::-1] for _, mask in masks]
    classes = torch.tensor([categories.label_of(s["category_id"]) for s, _ in masks])
    order = torch.arange(len(masks))
    points = PointLabels(torch.from_numpy(np.array(xy)), order, classes, classes < categories.num_things, order)
    pixels = torch.from_numpy(np.array(image.resize((width, height), Image.BILINEAR))).permute(2, 0, 1) / 255
    truth = torch.from_numpy(segment_ids)
    return mask_batch([pixels], [points], [truth], [truth == 0])


def instance_ious(labels: PseudoLabels, truth: PseudoLabels):
    for found, mask in zip(labels.masks()[truth.is_thing] & ~truth.ignore, truth.masks()[truth.is_thing], strict=True):
        yield float((found & mask).sum() / (found | mask).sum())


def test_geodesics_beat_the_nearest_point_on_a_fine_grid_only(annotations):
    categories, rng = Categories.from_coco(annotations["categories"]), np.random.default_rng(0)
    names = {image["id"]: image["file_name"] for image in annotations["images"]}
    oracles = {"nearest": OracleSemantics(categories, 16)}
    oracles |= {s: OracleSemantics(categories, 16, assignment="geodesic", stride=s) for s in (16, 8, 4)}
    ious = {name: [] for name in oracles}
    for annotation in annotations["annotations"]:
        batch = load(annotation, names[annotation["image_id"]], categories, rng)
        if batch is None:
            continue
        for name, oracle in oracles.items():
            labels = oracle.pseudo_labels(None, batch, Progress.finished())[0]
            ious[name] += instance_ious(labels, batch.targets[0])
    mean = {name: np.mean(values) for name, values in ious.items()}
    assert len(ious["nearest"]) > 250
    # three draws of the points (seeds 0 to 2) give 0.70-0.73, 0.74-0.77 and 0.80 at stride 16, 8 and 4, and 0.77-0.79 for
    # the nearest point: the order holds in each, the gap between stride 8 and the nearest point is within the spread
    assert mean[16] < mean[8] < mean[4]
    assert mean[16] < mean["nearest"] < mean[4]
