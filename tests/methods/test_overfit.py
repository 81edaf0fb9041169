"""Panoptic SegFormer has learned when it memorises eight scenes with full masks."""

import pytest
import torch

from benchmark.build import build_model
from benchmark.configs import compose_run
from benchmark.data.datasets import MaskDataset
from benchmark.data.points import draw_points
from benchmark.data.scenes import Scenes
from benchmark.data.transforms import Transform
from benchmark.evaluate import coco_segments
from benchmark.metrics import PanopticQuality
from methods.base.types import Progress, collate

SIZE, STEPS = 128, 150


@pytest.mark.slow
def test_panoptic_segformer_overfits_eight_scenes():
    torch.manual_seed(0)
    recipe = {"size": SIZE, "objects": (2, 3), "small_share": 0.0, "radius": (0.2, 0.3), "touching": 0.3, "stuff_only": 0.0}
    scenes = Scenes(8, 3, "train", **recipe)
    data = MaskDataset(scenes, draw_points(scenes, "uniform", 1, 0), Transform(short=SIZE, long=SIZE, flip=0.0), seed=0)
    samples = [data[i] for i in range(len(data))]
    assert len(samples) == 8
    model = build_model(compose_run(["scale=demo", "head=panoptic_segformer_tiny", "method=full_masks"]), scenes.categories)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 if step < 0.8 * STEPS else 1e-4
        optimizer.zero_grad()
        sum(model(collate(samples), Progress(step, STEPS)).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    model.eval()
    quality = PanopticQuality(scenes.categories.to_coco())
    for record, sample in zip(scenes.records, samples, strict=True):
        truth = scenes.read_annotation(record)
        quality.update(*coco_segments(model.predict([sample.image])[0], scenes.categories), truth.ids, truth.segments)
    assert quality.compute().pq >= 0.9
