from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from benchmark.loading import Collation
from methods.base.preparation import Preparation
from methods.base.types import PointSample
from methods.point2mask.tree_energy import tree_filter
from methods.point2mask.tree_loss import color_tree_loss, color_trees, prepared_trees
from tests.methods.stand_ins import point_batch, point_labels

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SIZES = (64, 96), (80, 64)


def batch_of(*sizes):
    torch.manual_seed(0)
    points = [point_labels([(10, 10, 0), (50, 40, 1)], [0, 2])] * len(sizes)
    return point_batch([(0.5 + torch.rand(3, *size) / 20) for size in sizes], points)


def test_the_loss_is_the_filters_change_of_every_layer_over_the_cells():
    batch = batch_of((64, 96))
    logits = [torch.randn(1, 4, 8, 12) for _ in range(2)]
    normalised = (batch.images - MEAN[:, None, None]) / STD[:, None, None]
    image = F.interpolate(normalised, size=(8, 12), mode="bilinear", align_corners=False)[0]
    expected = sum((z.softmax(1)[0] - tree_filter(z.softmax(1)[0], image, 0.02)).abs().sum() for z in logits) / 96
    torch.testing.assert_close(color_tree_loss(logits, batch), expected, rtol=1e-4, atol=1e-6)


def test_trees_span_the_valid_part_of_each_image():
    batch = batch_of((64, 96), (80, 64), (64, 70))
    trees = color_trees(batch.images, batch.padding, (10, 12))
    assert [tree.size for tree in trees] == [(8, 12), (10, 8), (8, 9)]


def test_trees_that_a_loader_worker_made_are_taken_and_change_nothing():
    points = point_labels([(10, 10, 0), (50, 40, 1)], [0, 2])
    samples = [PointSample(0.5 + torch.rand(3, *size) / 20, points, i, size) for i, size in enumerate(SIZES)]
    loader = DataLoader(samples, batch_size=2, collate_fn=Collation(Preparation.of(prepared_trees)), num_workers=1)
    batch = next(iter(loader))
    assert [tree.size for tree in batch.prepared[0].trees] == [(8, 12), (10, 8)]
    logits = [torch.randn(2, 4, 10, 12)]
    without = replace(batch, prepared=None)
    assert torch.equal(color_tree_loss(logits, batch), color_tree_loss(logits, without))
    wrong = replace(batch, images=torch.rand_like(batch.images))  # the trees are not made again from other colours
    assert torch.equal(color_tree_loss(logits, wrong), color_tree_loss(logits, batch))
    finer = [torch.randn(2, 4, 20, 24)]  # of another grid they are
    assert torch.equal(color_tree_loss(finer, batch), color_tree_loss(finer, without))


def test_padding_has_no_influence():
    logits = torch.randn(1, 4, 8, 12)
    alone = color_tree_loss([logits], batch_of((64, 96)))
    batch = batch_of((64, 96), (80, 64))
    torch.manual_seed(1)
    padded = torch.cat([F.pad(logits, (0, 0, 0, 2), value=9.0), torch.zeros(1, 4, 10, 12)])
    both = color_tree_loss([padded], batch)
    # the second image adds nothing (constant probabilities) but its 80 cells
    torch.testing.assert_close(both, alone * 96 / (96 + 80), rtol=1e-4, atol=1e-6)


def test_unlabelled_cells_are_fewer():
    batch, logits = batch_of((64, 96)), [torch.randn(1, 4, 8, 12)]
    ratio = color_tree_loss(logits, batch, normalizer="unlabelled", reference_side=None) / color_tree_loss(logits, batch)
    covered = 0  # cells whose nearest read pixel is in a 17 px square, or that hold a point
    for row in range(8):
        for col in range(12):
            near = [max(abs(8 * col - x), abs(8 * row - y)) <= 8 for x, y in ((10, 10), (50, 40))]
            holds = [(y // 8, x // 8) == (row, col) for x, y in ((10, 10), (50, 40))]
            covered += any(near) or any(holds)
    assert covered > 2
    torch.testing.assert_close(ratio, torch.tensor(96 / (96 - covered)), rtol=1e-4, atol=0)


def test_gradient_pulls_similar_colours_together():
    """On one flat colour a free set of logits becomes constant."""
    points = point_labels([(10, 10, 0)], [0])
    batch = point_batch([torch.full((3, 64, 64), 0.4)], [points])
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    before = logits.detach().softmax(1).std(dim=(2, 3)).mean()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        color_tree_loss([logits], batch).backward()
        optimizer.step()
    assert logits.detach().softmax(1).std(dim=(2, 3)).mean() < 0.5 * before
