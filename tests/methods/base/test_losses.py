import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base.losses import Focal, box_losses, dice_losses, focal_loss, mean_over_devices, things_stuff_balance


def test_dice_equals_mmdet_on_unit_masks():
    from mmdet.models.losses.dice_loss import dice_loss

    torch.manual_seed(0)
    masks, targets = torch.rand(3, 6, 7), torch.rand(3, 6, 7) > 0.5
    expected = dice_loss(masks, targets.float(), reduction="none", eps=1e-3, naive_dice=False)
    torch.testing.assert_close(dice_losses(masks, targets), expected)


def test_dice_leaves_invalid_pixels_out():
    torch.manual_seed(0)
    masks, targets = torch.rand(2, 4, 5) * 2, torch.rand(2, 4, 5) > 0.5
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    valid[:, 2:] = False
    torch.testing.assert_close(dice_losses(masks, targets, valid), dice_losses(masks[:, :2], targets[:, :2]))


def test_dice_gradient_matches_finite_differences():
    torch.manual_seed(0)
    targets = torch.rand(2, 5) > 0.5
    masks = torch.rand(2, 5, dtype=torch.float64)
    tracked = masks.float().requires_grad_()
    dice_losses(tracked, targets).sum().backward()
    step = 1e-2
    for i in range(5):
        shift = torch.zeros_like(masks)
        shift[0, i] = step
        difference = dice_losses(masks + shift, targets).sum() - dice_losses(masks - shift, targets).sum()
        assert tracked.grad[0, i].item() == pytest.approx(difference.item() / (2 * step), abs=1e-3)


@pytest.mark.parametrize("value", [0.3, 5.0])
def test_an_empty_target_is_a_constant_one_without_gradient(value):
    masks = torch.full((1, 4, 4), value, requires_grad=True)
    loss = dice_losses(masks, torch.zeros(1, 4, 4, dtype=torch.bool)).sum()
    loss.backward()
    assert loss.item() == 1 and masks.grad.count_nonzero() == 0


def test_focal_equals_mmdet_and_is_a_sum():
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    torch.manual_seed(0)
    logits, targets = torch.randn(6, 4), (torch.rand(6, 4) > 0.7).float()
    expected = py_sigmoid_focal_loss(logits, targets, gamma=2.0, alpha=0.25, reduction="sum")
    torch.testing.assert_close(focal_loss(logits, targets), expected)


def test_box_losses_of_known_boxes():
    """Left and right half of the unit square: no overlap, hull twice their size, so GIoU = 0; centres 0.5 apart."""
    left, right = torch.tensor([[0.25, 0.5, 0.5, 1.0]]), torch.tensor([[0.75, 0.5, 0.5, 1.0]])
    l1, giou = box_losses(left, right)
    assert l1.item() == pytest.approx(0.5) and giou.item() == pytest.approx(1.0, abs=1e-5)
    assert [loss.item() for loss in box_losses(left, left)] == pytest.approx([0, 0], abs=1e-5)


def test_normalised_giou_is_the_pixel_giou():
    torch.manual_seed(0)
    boxes, targets = torch.rand(8, 4) * 0.4 + 0.3, torch.rand(8, 4) * 0.4 + 0.3
    pixels = torch.tensor([640.0, 90.0, 640.0, 90.0])
    torch.testing.assert_close(box_losses(boxes, targets)[1], box_losses(boxes * pixels, targets * pixels)[1])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 500), st.integers(0, 500))
def test_balance_sums_to_one_and_follows_the_counts(things, stuff):
    thing_share, stuff_share = (float(s) for s in things_stuff_balance(torch.tensor(things), torch.tensor(stuff)))
    assert thing_share + stuff_share == pytest.approx(1)
    assert thing_share * (things + stuff) == pytest.approx(things, rel=1e-5)


def test_a_single_process_keeps_its_count():
    count = mean_over_devices(torch.tensor(3))
    assert count.item() == 3 and count.dtype == torch.float32


def _report_mean(rank: int, port: int, results) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    own = torch.tensor([2, 5][rank])
    results.put((rank, mean_over_devices(own).item(), own.item()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_get_the_mean_of_their_counts():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    workers = mp.spawn(_report_mean, args=(port, results), nprocs=2, join=False)
    while not workers.join(timeout=60):
        pass
    assert sorted(results.get() for _ in range(2)) == [(0, 3.5, 2), (1, 3.5, 5)]


def test_the_constants_of_the_losses_are_used():
    from mmdet.models.losses.dice_loss import dice_loss
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    torch.manual_seed(0)
    logits, targets = torch.randn(6, 4), (torch.rand(6, 4) > 0.7).float()
    expected = py_sigmoid_focal_loss(logits, targets, gamma=3.0, alpha=0.6, reduction="sum")
    torch.testing.assert_close(focal_loss(logits, targets, Focal(alpha=0.6, gamma=3.0)), expected)
    expected = dice_loss(logits.sigmoid(), targets, reduction="none", eps=0.5, naive_dice=False)
    torch.testing.assert_close(dice_losses(logits.sigmoid(), targets, epsilon=0.5), expected)
