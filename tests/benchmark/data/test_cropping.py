"""Random scale and crop, and photometric augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.cropping import RandomCrop, WholeImage, transform_of
from benchmark.data.photometric import Photometric
from benchmark.data.transforms import Geometry, Transform
from tests.methods.stand_ins import point_labels


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_points_move_with_the_pixels_they_stand_on(height, width, side, seed):
    """A bright pixel block in an image of its own for each draw; magnified at least as much as not at all."""
    rng = np.random.default_rng(seed)
    x, y = int(rng.integers(width)), int(rng.integers(height))
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[y, x] = 255
    geometry = RandomCrop(side, scale_range=(1.0, 3.0)).draw((height, width), rng)
    image, points = geometry.image(pixels), geometry.points(point_labels([(x, y, 0)], [1]))
    assert tuple(image.shape) == (3, *geometry.size) and max(geometry.size) <= side
    assert points.classes.tolist() == [1]
    for px, py in points.xy.tolist():
        assert 0 <= px < geometry.size[1] and 0 <= py < geometry.size[0]
        assert image[0, py, px] > 0


def test_scales_and_places_are_spread_over_their_ranges():
    transform = RandomCrop(20, scale_range=(0.5, 2.0))
    drawn = [transform.draw((30, 60), np.random.default_rng(i)) for i in range(400)]
    longs = [g.geometry.size[1] for g in drawn]
    assert min(longs) >= 30 and max(longs) <= 120 and min(longs) < 35 and max(longs) > 115
    assert all(abs(g.geometry.size[0] - g.geometry.size[1] / 2) <= 0.5 for g in drawn)
    assert all(g.left + g.size[1] <= g.geometry.size[1] and g.top + g.size[0] <= g.geometry.size[0] for g in drawn)
    assert all(g.size == (min(20, g.geometry.size[0]), 20) for g in drawn)
    assert {g.geometry.flipped for g in drawn} == {False, True}
    assert any(g.left + 20 == g.geometry.size[1] for g in drawn) and any(g.left == 0 for g in drawn)


def test_the_same_draw_gives_the_same_crop():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    transform = RandomCrop(24, photometric=True)
    one, other = (transform.draw((40, 50), np.random.default_rng(7)) for _ in range(2))
    assert one == other and torch.equal(one.image(pixels), other.image(pixels))


def test_evaluation_takes_images_as_they_are():
    transform = RandomCrop(16, photometric=True).for_evaluation()
    assert isinstance(transform, WholeImage)
    geometry = transform.for_evaluation().draw((30, 41), np.random.default_rng(0))
    assert geometry == Geometry((30, 41), (30, 41), False)


def test_the_input_config_chooses():
    common = {"short": 32, "long": 64, "short_range": None, "flip": 0.25}
    semantic = {**common, "crop": None, "scale_range": [0.5, 2.0], "photometric": False}
    assert transform_of(common) == transform_of(semantic) == Transform(32, 64, None, 0.25)
    assert transform_of({**semantic, "crop": 48, "photometric": True}) == RandomCrop(48, (0.5, 2.0), 0.25, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop of 0 px"), ({"crop": 5, "scale_range": (2.0, 0.5)}, "scales from 2.0 to 0.5"),
        ({"crop": 5, "flip": 1.5}, "flip probability"),
    ],
)
def test_a_wrong_crop_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        RandomCrop(**options)


def test_colours_are_changed_as_often_as_published():
    drawn = [Photometric.draw(np.random.default_rng(i)) for i in range(2000)]
    shares = [np.mean([c.jitter is not None for c in drawn]), np.mean([c.gray for c in drawn]),
              np.mean([c.sigma is not None for c in drawn]), np.mean([c.shift is not None for c in drawn])]
    assert shares == pytest.approx([0.5, 0.1, 0.5, 0.5], abs=0.04)
    jitters = np.array([c.jitter for c in drawn if c.jitter])
    assert jitters.min(axis=0) == pytest.approx([0.5, 0.5, 0.5, -0.25], abs=0.01)
    assert jitters.max(axis=0) == pytest.approx([1.5, 1.5, 1.5, 0.25], abs=0.01)


def test_each_change_does_what_it_says():
    image = torch.rand(3, 12, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Photometric()(image), image)
    gray = Photometric(gray=True)(image)
    assert torch.equal(gray[0], gray[1]) and torch.equal(gray[1], gray[2])
    torch.testing.assert_close(Photometric(shift=0.02)(image), (image + 0.02).clamp(0, 1))
    blurred = Photometric(sigma=1.0)(image)
    assert blurred.shape == image.shape and blurred.std() < 0.8 * image.std()
    torch.testing.assert_close(Photometric(jitter=(1.0, 1.0, 1.0, 0.0))(image), image, atol=1e-5, rtol=1e-5)
    for colours in (Photometric(jitter=(1.5, 0.5, 1.5, -0.25), gray=True, sigma=2.0, shift=-0.03), Photometric(sigma=2.0)):
        for size in ((12, 9), (1, 1), (3, 2)):
            found = colours(image[:, : size[0], : size[1]])
            assert found.min() >= 0 and found.max() <= 1 + 1e-6 and found.shape[-2:] == size
