import torch

from methods.base.memory import Memory, flattened, valid_ratios
from tests.methods.base.panoptic_inputs import random_features

SIZES = [(64, 96), (40, 56)]


def test_the_layout_says_where_every_cell_is():
    features = random_features(SIZES)
    memory = Memory.of(features, 3)
    shapes, starts = memory.layout()
    assert shapes.tolist() == [list(size) for size in memory.sizes] == [[8, 12], [4, 6], [2, 3]]
    for level, (start, (height, width)) in enumerate(zip(starts.tolist(), memory.sizes, strict=True)):
        for row, col in ((0, 0), (1, 2), (height - 1, width - 1)):
            place = start + row * width + col
            assert torch.equal(memory.tokens[:, place], features.maps[level][:, :, row, col])
            assert torch.equal(memory.padding[:, place], features.padding[level][:, row, col])
    assert memory.tokens.shape[1] == memory.padding.shape[1] == int(shapes.prod(dim=1).sum())
    assert torch.equal(memory.tokens, flattened(features.maps[:3]))


def test_valid_ratios_count_cells():
    padding = torch.ones(1, 4, 8, dtype=torch.bool)
    padding[:, :3, :2] = False
    torch.testing.assert_close(valid_ratios([padding]), torch.tensor([[[0.25, 0.75]]]))
