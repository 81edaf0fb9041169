"""The networks as the configs build them: the papers' take a training step, and no labeler is left at test time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmark.build import build_model, points_of, training_dataset
from benchmark.configs import compose_run, names_in
from benchmark.data.scenes import CATEGORIES
from methods import METHODS
from methods.base.semantic_method import SemanticMethod
from methods.base.types import PanopticMap, Progress, collate

SIDE = 96
SEMANTIC = {name for name, method in METHODS.items() if issubclass(method, SemanticMethod)}
SCENES = (
    "dataset=scenes", "dataset.train.count=2", "dataset.val.count=1", f"dataset.size={SIDE}", "dataset.stuff_only=0",
    f"input.short={SIDE}", f"input.long={SIDE}",
)


def built(tmp_path, *words):
    """A model and a batch of two scenes with points."""
    config = compose_run([*words, *SCENES, f"results_dir={tmp_path}"])
    torch.manual_seed(0)
    model = build_model(config, CATEGORIES)
    dataset = training_dataset(config, points_of(config, "train"), model.labeler.supervision)
    return model, collate([dataset[0], dataset[1]])


def step(model, batch):
    """Losses of one training step in the middle of a run, with gradients."""
    model.train()
    losses = model(batch, Progress(5, 10))
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    return losses


def without_gradient(module: nn.Module) -> list[str]:
    """Trainable parameters that the step left alone."""
    return [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


def assert_gradients(model, batch):
    losses = step(model, batch)
    assert {name.split("/")[0] for name in losses} == {"labeler", "head"}
    for part in (model.encoder, model.head, model.labeler):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(g).all() for g in gradients)
        assert any(g.abs().sum() > 0 for g in gradients)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("scale, model", [("paper", "r50"), ("paper", "r101"), ("paper", "swin_l"), ("paper_coco", "r50")])
def test_a_papers_network_takes_a_training_step(tmp_path, scale, model):
    paper = (f"scale={scale}", "input.short_range=null", "head=panoptic_segformer", "method=psps")
    network, batch = built(tmp_path, *paper, f"model={model}", "model.backbone.pretrained=false")
    losses = assert_gradients(network, batch)
    # every loss of the head: thing classes, boxes and masks of each location and mask layer, stuff classes
    groups = {name.split("/")[1] for name in losses if name.startswith("head/")}
    assert groups == {"classification", "boxes", "masks", "stuff_classification"}
    assert without_gradient(network.encoder.backbone) == []
    if model != "swin_l":  # stem, first stage and every BatchNorm of a ResNet are frozen
        body = network.encoder.backbone.body
        frozen = [*body.stem.parameters(), *body.stages[0].parameters()]
        frozen += [p for m in body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
        assert not any(p.requires_grad for p in frozen) and all(p.grad is None for p in frozen)


def test_the_papers_networks_are_all_tested():
    """The others are the small ones."""
    panoptic = {name for name in names_in("model") if not name.startswith("deeplab_")}  # those are in test_deeplab
    assert panoptic == {"r50", "r101", "swin_l", "tiny", "lite0"}


HEADS = ["mask2former_tiny", "panoptic_segformer_tiny"]


@pytest.mark.parametrize("method", ["psps", "full_masks"])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_takes_a_training_step(tmp_path, head, method):
    network, batch = built(tmp_path, "scale=demo", f"head={head}", f"method={method}")
    if method == "psps":
        assert_gradients(network, batch)
        return
    losses = step(network, batch)
    assert {name.split("/")[0] for name in losses} == {"head"}
    assert without_gradient(network.encoder.backbone) == []


@pytest.mark.parametrize("head", HEADS)
def test_steps_on_one_batch_lower_the_losses(tmp_path, head):
    network, batch = built(tmp_path, "scale=demo", f"head={head}", "method=full_masks")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    totals = []
    for _ in range(12):
        optimizer.zero_grad()
        totals.append(float(sum(step(network, batch).values()).detach()))
        optimizer.step()
    assert sum(totals[-3:]) < 0.9 * sum(totals[:3])


def briefly_trained(tmp_path, head):
    """A network whose predictions are not empty."""
    # thresholds off: the question is whether the same segments come out, not whether they are good
    steps, off = {
        "mask2former_tiny": (20, ["head.score_threshold=0", "head.overlap_threshold=0", "head.no_object_weight=0"]),
        "panoptic_segformer_tiny": (4, ["head.quality_threshold=0", "head.mask_threshold=-1"]),
    }[head]
    network, batch = built(tmp_path, "scale=demo", f"head={head}", "method=psps", *off)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        step(network, batch)
        optimizer.step()
    return network.eval(), batch


@pytest.mark.parametrize("head", HEADS)
def test_no_labeler_is_left_at_test_time(tmp_path, head):
    network, batch = briefly_trained(tmp_path, head)
    images = [image[:, :SIDE, : SIDE - 8 * i] for i, image in enumerate(batch.images)]  # of different sizes
    sizes = [(SIDE, SIDE), (50, 70)]
    expected = network.predict(images, sizes)
    assert all(isinstance(map_, PanopticMap) for map_ in expected) and any(map_.segments for map_ in expected)
    assert [tuple(map_.segment_ids.shape) for map_ in expected] == sizes

    exported = copy.deepcopy(network)
    del exported.labeler
    kept = {id(p) for module in exported.network_modules() for p in module.parameters()}
    assert {id(p) for p in exported.parameters()} == kept
    with torch.no_grad():  # a labeler that shares a parameter with the network would be seen here
        for parameter in network.labeler.parameters():
            parameter.fill_(float("nan"))
    for other in (exported, network):
        for found, wanted in zip(other.predict(images, sizes), expected, strict=True):
            assert torch.equal(found.segment_ids, wanted.segment_ids) and found.segments == wanted.segments


@pytest.mark.parametrize("method", [name for name in names_in("method") if name not in SEMANTIC])
def test_every_method_builds_without_a_head_and_cannot_predict(tmp_path, method):
    network, batch = built(tmp_path, "scale=demo", "head=none", f"method={method}")
    assert network.head is None
    with pytest.raises(ValueError, match="head=none"):
        network.predict(list(batch.images))
    if network.trainable:
        assert {name.split("/")[0] for name in step(network, batch)} == {"labeler"}
