"""What a loader's worker prepares of a batch changes nothing but where it is computed."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from benchmark.loading import Collation
from methods import build_labeler
from methods.base.edge_maps import EdgeMaps, SobelEdgeMaker, edge_maps
from methods.base.point_losses import SemanticObjective, SemanticTargets
from methods.base.preparation import Preparation, finest_grid, piece_of
from methods.base.types import PointSample, Progress
from methods.ops.edges import Sobel
from methods.point2mask.tree_loss import PreparedTrees
from tests.methods.stand_ins import categories, features_for, point_labels

SIZES = (64, 96), (80, 64)
PIECES = {
    "psps": {SemanticTargets, EdgeMaps},
    "point2mask": {SemanticTargets, PreparedTrees, EdgeMaps},
    "semantics_nearest": {SemanticTargets},
    "agmm": {SemanticTargets},
}
LATE = Progress(95, 100)


def loaded(prepare, workers=0):
    generator = torch.Generator().manual_seed(0)
    points = point_labels([(10, 10, 0), (50, 40, 1), (30, 20, 2)], [0, 1, 2])
    images = [0.5 + torch.rand(3, *size, generator=generator) / 20 for size in SIZES]
    samples = [PointSample(image, points, i, size) for i, (image, size) in enumerate(zip(images, SIZES, strict=True))]
    return next(iter(DataLoader(samples, batch_size=2, collate_fn=Collation(prepare), num_workers=workers)))


@pytest.mark.parametrize("name", PIECES)
def test_labels_and_losses_are_the_same_with_and_without(name):
    torch.manual_seed(0)
    labeler = build_labeler(name, categories(), 16, {"layers": 2, "heads": 2, "feedforward": 32})
    batch = loaded(pickle.loads(pickle.dumps(labeler.preparation())), workers=1)  # loaders may spawn
    assert {type(piece) for piece in batch.prepared} == PIECES[name]
    features, without = features_for(batch), replace(batch, prepared=None)
    found = []
    for given in (batch, without, replace(batch, images=torch.zeros_like(batch.images))):
        maps = labeler.predict_maps(features, given)
        with torch.no_grad():
            labels = labeler.pseudo_labels(maps, given, LATE)
        losses = labeler.losses(maps, labels, given, LATE)
        found.append(([each.segment_ids for each in labels], {key: float(loss.detach()) for key, loss in losses.items()}))
    (labels, losses), *others = found
    for other_labels, other_losses in others:  # with other images, too: nothing reads them where pieces are there
        assert all(map(torch.equal, labels, other_labels))
        assert losses == pytest.approx(other_losses, rel=1e-6)


def test_pieces_of_another_grid_or_maker_are_not_taken():
    objective, other = SemanticObjective(), SemanticObjective(dilation=257)
    batch = loaded(Preparation.of(objective.prepare, None, SobelEdgeMaker()))
    grid = finest_grid(batch.input_size)
    assert grid == (10, 12)
    assert objective.labels(batch, grid) is batch.prepared[0].labels
    assert objective.pairs(batch, grid) is batch.prepared[0].pairs
    assert objective.labels(batch, (20, 24)).shape == (2, 20, 24)
    assert objective.pairs(batch, (20, 24))[0].used.shape[2:] == (20, 24)
    assert not torch.equal(other.labels(batch, grid), batch.prepared[0].labels)
    assert edge_maps(batch, SobelEdgeMaker()) is batch.prepared[1].maps
    assert edge_maps(batch, SobelEdgeMaker(stride=16))[0].shape == (4, 6)
    assert not torch.equal(edge_maps(batch, SobelEdgeMaker(Sobel(border=1)))[0], batch.prepared[1].maps[0])
    assert piece_of(replace(batch, prepared=None), EdgeMaps) is None
    assert edge_maps(batch, None) == [None, None]


def test_pieces_move_with_their_batch():
    batch = loaded(Preparation.of(SemanticObjective().prepare, SobelEdgeMaker()))
    targets, edges = batch.to("meta").prepared
    tensors = [targets.labels, *(each for pairs in targets.pairs for each in (pairs.used, pairs.count)), *edges.maps]
    assert {each.device.type for each in tensors} == {"meta"} and len(tensors) == 5
    copied = pickle.loads(pickle.dumps(batch)).prepared[0]
    assert copied.maker == SemanticObjective() and torch.equal(copied.pairs[0].used, batch.prepared[0].pairs[0].used)
