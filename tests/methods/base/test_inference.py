"""Class probabilities of whole images: tiles, scales and flips of functions whose result is known."""

import pytest
import torch

from methods.base.inference import Inference, averaged, tile_starts, tiled


def test_tiles_of_cityscapes():
    """A 1024 x 2048 image in tiles of 721 px every 241 px: three rows, seven columns."""
    rows, cols = tile_starts(1024, 721, 241), tile_starts(2048, 721, 241)
    assert rows == [0, 241, 303] and len(cols) == 7 and cols[-1] == 2048 - 721
    assert tile_starts(721, 721, 241) == tile_starts(100, 721, 241) == [0]


@pytest.mark.parametrize("size", [(20, 33), (7, 12), (5, 40), (11, 11)])
@pytest.mark.parametrize(("tile", "stride"), [(7, 3), (7, 7), (11, 4), (50, 1)])
def test_tiles_cover_every_pixel_and_give_a_pointwise_function_back(size, tile, stride):
    image = torch.rand(3, *size)
    seen = []

    def pointwise(part):
        assert max(part.shape[-2:]) <= tile
        seen.append(part)
        return part * 2

    torch.testing.assert_close(tiled(pointwise, image, tile, stride), image * 2)
    assert len(seen) == len(tile_starts(size[0], tile, stride)) * len(tile_starts(size[1], tile, stride))


def test_overlapping_tiles_are_averaged():
    calls = iter([1.0, 3.0])

    def constant(part):
        return torch.full((1, *part.shape[-2:]), next(calls))

    found = tiled(constant, torch.zeros(3, 1, 6), tile=4, stride=2)
    assert found.flatten().tolist() == [1, 1, 2, 2, 3, 3]


def left_half(image):
    """A function that cares for the side: 1 in the left half of what it sees."""
    found = torch.zeros(1, *image.shape[-2:])
    found[..., : image.shape[-1] // 2] = 1
    return found


def test_flips_are_undone_and_averaged():
    image = torch.rand(3, 4, 8)
    assert averaged(left_half, image, Inference()).unique().tolist() == [0, 1]
    assert averaged(left_half, image, Inference(flip=True)).unique().tolist() == [0.5]
    torch.testing.assert_close(averaged(lambda x: x, image, Inference(flip=True)), image)


def test_scales_are_seen_and_averaged_at_the_images_size():
    sizes = []

    def noted(image):
        sizes.append(tuple(image.shape[-2:]))
        return torch.full((2, *image.shape[-2:]), float(len(sizes)))

    found = averaged(noted, torch.rand(3, 10, 15), Inference(scales=(0.5, 1.0, 2.0), flip=True))
    assert sizes == [(5, 8), (5, 8), (10, 15), (10, 15), (20, 30), (20, 30)]
    torch.testing.assert_close(found, torch.full((2, 10, 15), 3.5))


def test_a_scaled_image_is_cut_into_tiles():
    sizes = []
    inference = Inference((0.5, 1.0), tile=6, stride=4)
    averaged(lambda x: sizes.append(tuple(x.shape[-2:])) or x, torch.rand(3, 10, 10), inference)
    assert sizes == [(5, 5)] + [(6, 6)] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, "scales of an evaluation must be positive numbers, they are \\[\\]"),
        ({"scales": [1.0, 0.0]}, "must be positive numbers"),
        ({"stride": 3}, "stride of tiles of None px is 3"),
        ({"tile": 4, "stride": 5}, "stride of tiles of 4 px is 5; it must be from 1"),
    ],
)
def test_wrong_options_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        Inference(**options)
