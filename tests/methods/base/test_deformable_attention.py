"""Deformable attention on the CPU: against the PyTorch version of mmcv, finite differences, and samples done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch as patched
from torch.nn.functional import grid_sample

from methods.base.deformable_attention import deformable_attention


def by_grid_sample(value, shapes, locations, weights):
    """One ``grid_sample`` per level and point, summed."""
    batch, _, heads, width = value.shape
    out, start = 0, 0
    for level, (rows, cols) in enumerate(shapes.tolist()):
        cells = value[:, start : start + rows * cols].permute(0, 2, 3, 1).reshape(batch * heads, width, rows, cols)
        start += rows * cols
        for point in range(locations.shape[4]):
            grid = 2 * locations[:, :, :, level, point].transpose(1, 2).flatten(0, 1)[:, :, None] - 1
            samples = grid_sample(cells, grid, align_corners=False)[..., 0].view(batch, heads, width, -1)
            out = out + samples.permute(0, 3, 1, 2) * weights[:, :, :, level, point, None]
    return out.flatten(2)


def random_case(seed, batch=2, heads=3, width=5, queries=7, points=2, shapes=((4, 6), (1, 3)), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.tensor(shapes)
    cells = int(shapes.prod(1).sum())
    value = torch.randn(batch, cells, heads, width, generator=generator, dtype=dtype)
    # some sampling points lie outside
    locations = 1.6 * torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator, dtype=dtype) - 0.3
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator, dtype=dtype)
    return value.requires_grad_(), shapes, locations.requires_grad_(), weights.requires_grad_()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 8), st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
)
def test_values_and_gradients_equal_grid_sample(seed, batch, heads, width, queries, points, shapes):
    case = random_case(seed, batch, heads, width, queries, points, shapes)
    ours, theirs = deformable_attention(*case), by_grid_sample(*case)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(seed), dtype=ours.dtype)
    leaves = (case[0], case[2], case[3])
    for a, b in zip(
        torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(theirs, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradients_equal_finite_differences():
    value, shapes, locations, weights = random_case(3, batch=1, heads=2, width=2, queries=2)
    torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, shapes, x, w), (value, locations, weights))


def test_a_cell_centre_reads_the_cell_and_half_way_reads_the_mean():
    value = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1, 1)
    locations = torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.75, 0.25], [0.0, 0.25]]).view(1, 4, 1, 1, 1, 2)
    out = deformable_attention(value, torch.tensor([[2, 2]]), locations, torch.ones(1, 4, 1, 1, 1))
    assert out.flatten().tolist() == [1.0, 3.75, 2.0, 0.5]  # at the border half of the sample lies outside


def test_locations_that_are_not_finite_sample_nothing():
    value, shapes, locations, weights = (t.detach() for t in random_case(0))
    for bad in (math.nan, math.inf, -math.inf):
        assert not deformable_attention(value, shapes, torch.full_like(locations, bad), weights).any()


def test_threads_do_not_change_a_bit():
    case = random_case(1, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = deformable_attention(*case)
        results.append([out, *torch.autograd.grad(out.sum(), (case[0], case[2], case[3]))])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_half_precision_is_computed_in_single():
    value, shapes, locations, weights = (t.detach() for t in random_case(2, dtype=torch.float32))
    half = deformable_attention(value.bfloat16(), shapes, locations, weights)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, deformable_attention(value.bfloat16().float(), shapes, locations, weights).bfloat16())


def test_mmcv_takes_it_on_the_cpu():
    case = random_case(4)
    assert torch.equal(patched(*case), deformable_attention(*case))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_the_layer_equals_mmcvs_with_points_and_with_boxes(coordinates):
    torch.manual_seed(coordinates)
    shapes = torch.tensor([[4, 6], [2, 3]])
    layer = MultiScaleDeformableAttention(16, num_heads=2, num_levels=2, num_points=3, dropout=0.0, batch_first=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    query, position, value = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 30, 16)
    others = {
        "key_padding_mask": torch.rand(2, 30) < 0.2, "reference_points": torch.rand(2, 5, 2, coordinates),
        "spatial_shapes": shapes, "level_start_index": torch.tensor([0, 24]),
    }

    def outputs(batch_first):
        """The layer, and the gradient of its references; mmcv's own code runs where the batch is not the first axis."""
        layer.batch_first = batch_first
        references = others["reference_points"].clone().requires_grad_()
        first = [t if batch_first else t.transpose(0, 1) for t in (query, position, value)]
        out = layer(first[0], query_pos=first[1], value=first[2], **{**others, "reference_points": references})
        out = out if batch_first else out.transpose(0, 1)
        return out, torch.autograd.grad(out.square().sum(), references)[0]

    torch.testing.assert_close(outputs(True), outputs(False))


def test_levels_that_do_not_fit_are_refused():
    value, _, locations, weights = random_case(0)
    with pytest.raises(ValueError, match="don't fit"):
        deformable_attention(value, torch.tensor([[2, 2], [1, 3]]), locations, weights)
