import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab

from methods.ops.color import lab_at, pairwise_color_loss, rgb_to_lab, similar_pairs


def test_lab_equals_skimage():
    image = np.random.default_rng(0).random((40, 30, 3))
    image[:10] *= 0.03  # the linear part of both transfer functions
    found = rgb_to_lab(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0)
    np.testing.assert_allclose(found, rgb2lab(image), atol=5e-5)


def test_lab_of_a_batch_and_of_values_out_of_range():
    images = torch.rand(2, 3, 4, 5) * 1.4 - 0.2
    found = rgb_to_lab(images)
    torch.testing.assert_close(found[1], rgb_to_lab(images[1]), atol=1e-4, rtol=0)
    assert torch.allclose(found, rgb_to_lab(images.clamp(0, 1)))


def brute_force_loss(logits, lab, valid, kernel, dilation, threshold, mask_border):
    """Every ordered pair of every image, one by one."""
    log_probs = F.log_softmax(logits, dim=1)
    height, width = lab.shape[-2:]
    reach = [dilation * s for s in range(-(kernel // 2), kernel // 2 + 1)]
    losses = []
    for b in range(len(lab)):
        terms = []
        for row in range(height):
            for col in range(width):
                if not valid[b, row, col]:
                    continue
                for down in reach:
                    for right in reach:
                        r, c = row + down, col + right
                        if (down, right) == (0, 0):
                            continue
                        inside = 0 <= r < height and 0 <= c < width and bool(valid[b, r, c])
                        if not inside and mask_border:
                            continue
                        other = lab[b, :, r, c] if inside else torch.zeros(3)
                        if torch.exp(-0.5 * (lab[b, :, row, col] - other).norm()) < threshold:
                            continue
                        log_other = log_probs[b, :, r, c] if inside else torch.zeros(log_probs.shape[1])
                        terms.append(-torch.logsumexp(log_probs[b, :, row, col] + log_other, dim=0))
        losses.append(torch.stack(terms).sum() / len(terms) if terms else torch.tensor(0.0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("mask_border", [True, False])
@pytest.mark.parametrize("kernel, dilation", [(3, 1), (3, 2), (5, 2)])
def test_pairwise_loss_equals_brute_force(kernel, dilation, mask_border):
    torch.manual_seed(kernel + dilation)
    images = (torch.randint(0, 3, (2, 3, 6, 7)) / 100).float()
    images[1] += 0.4
    lab, valid = rgb_to_lab(images), torch.ones(2, 6, 7, dtype=torch.bool)
    valid[1, :, 5:] = False
    logits = torch.randn(2, 4, 6, 7)
    pairs = similar_pairs(lab, valid, kernel, dilation, 0.3, mask_border)
    expected = brute_force_loss(logits, lab, valid, kernel, dilation, 0.3, mask_border)
    # half the falloff is the square root of the similarity
    same = similar_pairs(lab, valid, kernel, dilation, 0.3**0.5, mask_border, falloff=0.25)
    assert pairwise_color_loss(logits, same) == pytest.approx(float(expected), rel=1e-5)
    assert pairwise_color_loss(logits, pairs) == pytest.approx(float(expected), rel=1e-5)
    assert expected > 0


def test_a_single_cell_and_a_map_smaller_than_the_reach_have_no_pair():
    for grid in ((1, 1), (2, 2)):
        lab, valid = torch.zeros(1, 3, *grid), torch.ones(1, *grid, dtype=torch.bool)
        assert pairwise_color_loss(torch.randn(1, 3, *grid), similar_pairs(lab, valid)) == 0


def test_padding_makes_no_difference():
    torch.manual_seed(0)
    image, logits = torch.rand(1, 3, 8, 8) * 0.05, torch.randn(1, 5, 8, 8)
    alone = pairwise_color_loss(logits, similar_pairs(rgb_to_lab(image), torch.ones(1, 8, 8, dtype=torch.bool)))
    padded_image, padded_logits = F.pad(image, (0, 4, 0, 2)), F.pad(logits, (0, 4, 0, 2), value=9.0)
    valid = F.pad(torch.ones(1, 8, 8), (0, 4, 0, 2)).bool()
    padded = pairwise_color_loss(padded_logits, similar_pairs(rgb_to_lab(padded_image), valid))
    assert padded == pytest.approx(float(alone), rel=1e-6)


def test_cells_that_read_padding_are_invalid():
    images, padding = torch.ones(1, 3, 16, 24), torch.zeros(1, 16, 24, dtype=torch.bool)
    padding[:, :, 12:] = True
    _, valid = lab_at(images, padding, (2, 3))
    # the middle column reads pixels 11 and 12
    assert valid[0].tolist() == [[True, False, False]] * 2


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_the_loss_is_not_negative_and_falls_when_equal_colours_agree(seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, 1, 1, generator=generator).expand(1, 3, 9, 9)
    pairs = similar_pairs(rgb_to_lab(image), torch.ones(1, 9, 9, dtype=torch.bool))
    logits = torch.randn(1, 4, 9, 9, generator=generator)
    agreeing = logits[:, :, :1, :1].expand_as(logits) * 10
    assert 0 <= pairwise_color_loss(agreeing, pairs) <= pairwise_color_loss(logits, pairs)


def test_the_gradient_equals_finite_differences():
    torch.manual_seed(1)
    pairs = similar_pairs(rgb_to_lab(torch.rand(1, 3, 1, 1).expand(1, 3, 5, 5)), torch.ones(1, 5, 5, dtype=torch.bool))
    logits = torch.randn(1, 3, 5, 5, requires_grad=True)
    pairwise_color_loss(logits, pairs).backward()
    step = torch.zeros_like(logits)
    step[0, 1, 2, 3] = 1e-2
    with torch.no_grad():
        slope = (pairwise_color_loss(logits + step, pairs) - pairwise_color_loss(logits - step, pairs)) / 2e-2
    assert float(logits.grad[0, 1, 2, 3]) == pytest.approx(float(slope), rel=2e-2)


@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_even_and_trivial_kernels_are_refused(kernel):
    with pytest.raises(ValueError, match="odd number"):
        similar_pairs(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), kernel)
