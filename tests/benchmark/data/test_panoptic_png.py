"""The reader of panoptic PNG files against Pillow, on good files and on broken ones."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from benchmark.data.errors import DataError
from benchmark.data.panoptic_png import read_panoptic_png, write_panoptic_png

IDS = np.array([[0, 1, 70_000], [2**24 - 1, 300, 5]])


def pillow_ids(path):
    red, green, blue = np.asarray(Image.open(path).convert("RGB"), dtype=np.int64).transpose(2, 0, 1)
    return red + 256 * green + 65536 * blue


def png(rows, width, bits, colour, interlaced=0):
    """A PNG file of unfiltered rows of bytes."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", width, len(rows), bits, colour, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@settings(deadline=None)  # a busy disk is no failure
@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 2**24 - 1)))
def test_what_is_written_is_read(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("png") / "a.png"
    write_panoptic_png(path, ids)
    read = read_panoptic_png(path)
    assert read.dtype == np.int64 and np.array_equal(read, ids) and np.array_equal(pillow_ids(path), ids)


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_smooth_pictures_of_every_filter(tmp_path, mode, level):
    """Gradients make an encoder choose each of the five row filters."""
    y, x = np.mgrid[:90, :120]
    colours = np.stack([x * 2, y * 2, (x + y) % 256, 255 - x], axis=-1).astype(np.uint8)
    colours[40:60, 30:70] = np.random.default_rng(0).integers(0, 256, (20, 40, 4))
    path = tmp_path / "a.png"
    Image.fromarray(colours[..., : len(mode)]).save(path, compress_level=level)
    assert np.array_equal(read_panoptic_png(path), pillow_ids(path))


def test_a_transparent_colour_is_an_id_like_others(tmp_path):
    path = tmp_path / "a.png"
    write_panoptic_png(path, IDS)
    Image.open(path).save(path, transparency=(1, 0, 0))
    assert np.array_equal(read_panoptic_png(path), IDS)


@settings(deadline=None)
@given(st.data())
def test_broken_files_are_refused_or_read_as_they_were(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("png") / "a.png"
    write_panoptic_png(path, IDS)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:place])
    else:
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
    try:
        assert np.array_equal(read_panoptic_png(path), IDS)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "cannot be decoded"),
    (png([bytes(6)], 1, 16, 2), "16 bits per channel, segment ids need 8"),
    (png([bytes(2)], 2, 8, 0), "mode L, segment ids need RGB"),
    (png([b""], 0, 8, 2), "cannot be decoded"),
    (png([bytes(3)], 1, 8, 3), "mode P, segment ids need RGB|cannot be decoded"),
    (png([b""] * 2**9, 2**20, 8, 2), "says that it has 1048576 x 512 pixels, more than 268435456"),
])
def test_files_that_hold_no_ids(tmp_path, content, sentence):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_panoptic_png(path)


def test_a_jpeg_and_a_missing_file(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path, format="JPEG")
    with pytest.raises(DataError, match="no PNG file; ids do not survive"):
        read_panoptic_png(path)
    with pytest.raises(DataError, match=r"point PNG .*b\.png does not exist"):
        read_panoptic_png(tmp_path / "b.png", "point PNG")
