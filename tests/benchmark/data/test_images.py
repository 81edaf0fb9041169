"""Images of every kind become RGB of the recorded size, or a sentence that says why not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmark.data.errors import DataError
from benchmark.data.images import FolderImages, ImageRecord, describe_segments, read_rgb

RGB = np.random.default_rng(3).integers(0, 255, (6, 9, 3), dtype=np.uint8)


def test_rgb_is_read_exactly(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png", 6, 9), RGB)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(RGB).convert(mode)
    image.save(path)
    pixels = read_rgb(path, 6, 9)
    assert pixels.shape == (6, 9, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_16_bit_gray_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = read_rgb(tmp_path / "a.png", 6, 9)
    assert np.array_equal(pixels, np.repeat((values // 256).astype(np.uint8)[..., None], 3, axis=2))


def _rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees
    Image.fromarray(RGB).save(path, exif=exif)


def test_recorded_size_decides_about_the_exif_orientation(tmp_path):
    _rotated(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png", 6, 9), RGB)
    assert np.array_equal(read_rgb(tmp_path / "a.png", 9, 6), np.rot90(RGB, -1))


def test_wrong_size_names_both_sizes(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is 9 x 6 pixels \(width x height\), its record says 7 x 5"):
        read_rgb(tmp_path / "a.png", 5, 7)


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match=r"image .*nowhere\.jpg does not exist"):
        read_rgb(tmp_path / "nowhere.jpg", 6, 9)
    big = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "a.png"):
        path = tmp_path / name
        Image.fromarray(big).save(path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(DataError, match=rf"{name} cannot be decoded"):
            read_rgb(path, 64, 64)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"text\.jpg cannot be decoded"):
        read_rgb(tmp_path / "text.jpg", 6, 9)


def test_images_folder_must_exist(tmp_path):
    with pytest.raises(DataError, match=r"images folder .*gone of data set 'toy' does not exist"):
        FolderImages(tmp_path / "gone", [ImageRecord(1, "a.png", 6, 9)], "toy")


def test_described_segments_against_brute_force():
    ids = np.random.default_rng(1).choice([0, 5, 70000, 9], size=(7, 8))
    ids[0, 0], ids[6, 7] = 9, 9
    segments = describe_segments(ids, {70000: 1, 9: 2, 123: 1, 5: 2}, crowd={9})
    assert [s["id"] for s in segments] == [70000, 9, 5]
    for segment in segments:
        rows, cols = np.nonzero(ids == segment["id"])
        assert segment["area"] == len(rows)
        expected = [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
        assert segment["bbox"] == expected
        assert segment["iscrowd"] == (segment["id"] == 9)
    with pytest.raises(ValueError, match=r"without a category: \[5, 9\]"):
        describe_segments(ids, {70000: 1})
