"""Pictures: colours, outlines and points."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont
from skimage.segmentation import find_boundaries

from reports import render

SEGMENTS = [{"id": 5, "category_id": 1}, {"id": 6, "category_id": 1}, {"id": 7, "category_id": 2}]


def blocks():
    ids = np.zeros((12, 16), dtype=np.int64)
    ids[:6, :8], ids[:6, 8:], ids[6:, :8] = 5, 6, 7
    return ids


def test_categories_have_their_own_colours():
    colors = [render.category_color(category) for category in range(1, 81)]
    assert len(set(colors)) == 80
    assert render.category_color(3) == colors[2]
    things = {render.category_color(3, instance) for instance in range(6)}
    assert len(things) == 6 and render.category_color(3, 6) == render.category_color(3, 0)
    pale, strong = render.category_color(3, stuff=True), render.category_color(3)
    assert max(pale) - min(pale) < max(strong) - min(strong)


def test_segments_are_filled_with_their_colour():
    picture = render.draw_segments(blocks(), SEGMENTS, stuff={2})
    assert tuple(picture[2, 2]) == render.category_color(1, 0)
    assert tuple(picture[2, 12]) == render.category_color(1, 1)
    assert tuple(picture[9, 2]) == render.category_color(2, stuff=True)
    assert tuple(picture[9, 12]) == render.NEUTRAL  # void
    assert tuple(picture[2, 7]) == render.OUTLINE
    unlisted = render.draw_segments(blocks(), SEGMENTS[:1])
    assert tuple(unlisted[2, 12]) == render.NEUTRAL


def test_outlines_separate_all_segments():
    ids = np.random.default_rng(0).integers(0, 3, (9, 11))
    ours = render.outlines(ids)
    either = find_boundaries(ids, connectivity=1, mode="thick", background=-1)
    assert (ours <= either).all()  # every outline pixel touches another id
    grown = ours.copy()
    grown[:, 1:] |= ours[:, :-1]
    grown[1:] |= ours[:-1]
    assert (either <= grown).all()  # every border has an outline on one side


def test_points_are_drawn_where_they_are():
    canvas = np.full((120, 160, 3), 10, dtype=np.uint8)
    picture = render.draw_points(canvas, [{"x": 3, "y": 5, "is_thing": True}, {"x": 30, "y": 20, "is_thing": False}], 4)
    for x, y in ((3, 5), (30, 20)):
        assert tuple(picture[4 * y + 2, 4 * x + 2]) == (255, 255, 255)
    white = (picture == 255).all(-1)
    disc, square = white[:60, :60].sum(), white[60:, 60:].sum()
    assert 0 < disc < square
    assert (canvas == 10).all()


def test_a_contact_sheet_holds_every_tile():
    red, blue = (np.full((10, 14, 3), color, dtype=np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    strips = [("first", [("a", red), ("b", blue)]), ("second", [("a", None), ("b", blue), *[("c", red)] * 5])]
    sheet = render.contact_sheet(strips)
    assert (sheet == (255, 0, 0)).all(-1).sum() == 6 * 140
    assert (sheet == (0, 0, 255)).all(-1).sum() == 2 * 140
    assert render.contact_sheet([]).shape[2] == 3


def test_captions_are_broken_between_words_so_that_tiles_stay_side_by_side():
    red = np.full((60, 250, 3), (255, 0, 0), dtype=np.uint8)
    words = "a caption of many words that is far too long for one line below a picture of this width"
    short, long, two = (render.contact_sheet([("t", [(text, red)] * 2)]) for text in ("a", words, "a\nb"))
    assert short.shape[1] == long.shape[1] and long.shape[0] > two.shape[0] == short.shape[0] + render.LINE
    pictures = (long == (255, 0, 0)).all(-1)
    assert pictures.sum() == 2 * red[..., 0].size and not (long[pictures.any(axis=1)] < 200).all(-1).any()


def test_an_override_wider_than_its_tile_is_broken_at_its_signs_and_loses_nothing():
    override = "method.generator.inputs=[map,position],method.another.key=1.5"
    tile = np.full((60, 250, 3), (255, 0, 0), dtype=np.uint8)
    sheet = render.contact_sheet([("", [(override, tile), ("a", tile)])])
    gap = sheet[:, render.MARGIN + 250 : 2 * render.MARGIN + 250]
    assert (gap == 255).all()
    font = ImageFont.load_default(size=14)
    lines = render._broken(f"P1, {override} end", font, 200)
    assert len(lines) > 2 and max(map(font.getlength, lines)) <= 200
    assert "".join(lines).replace(" ", "") == f"P1,{override}end"


VALUES = np.array([[0.0, 1.0], [2.0, 3.0]], dtype=np.float32)


def test_values_are_dark_where_low_and_bright_where_high():
    picture = render.draw_values(VALUES, (60, 90)).astype(int)
    assert picture.shape == (60, 90, 3)
    lightness = picture @ render.LUMINANCE
    assert (np.diff(lightness[[0, 30, -1]].mean(axis=1)) > 0).all()
    assert (np.diff(lightness[:, [0, 45, -1]].mean(axis=0)) > 0).all()
    ends = 255 * matplotlib.colormaps["viridis"](np.array([0.0, 1.0]))[:, :3]
    assert np.abs(np.stack([picture[0, 0], picture[-1, -1]]) - ends).max() < 1


def test_unknown_values_are_neutral_and_do_not_change_the_others():
    values = VALUES.copy()
    values[0, 1] = np.nan
    picture = render.draw_values(values, (60, 90))
    assert (picture[:30, 45:] == render.NEUTRAL).all() and (picture != render.NEUTRAL).any(axis=-1)[30:].all()
    assert (render.draw_values(np.full((2, 3), np.nan), (20, 30)) == render.NEUTRAL).all()
    edge = np.array([[5.0, np.nan], [5.0, np.nan], [1.0, np.nan]])
    column = render.draw_values(edge, (30, 20))
    assert (column[:, 0] == column[:, 9]).all()  # no colour of an unknown value comes in from the side


def test_equal_values_are_as_low_as_can_be():
    flat, low = render.draw_values(np.full((2, 2), 7.0), (4, 4)), render.draw_values(VALUES, (60, 90))[0, 0]
    assert (flat == low).all()


def test_outlines_are_told_from_dark_and_bright_ground():
    ground = render.draw_values(np.linspace(0, 1, 16)[None].repeat(12, 0), (12, 16))
    drawn = render.with_outlines(ground, blocks())
    edges = render.outlines(blocks())
    contrast = np.abs(drawn[edges].astype(float) @ render.LUMINANCE - ground[edges].astype(float) @ render.LUMINANCE)
    assert contrast.min() > 100 and (drawn[~edges] == ground[~edges]).all()


def test_marks_of_many_points_are_smaller():
    canvas = np.full((480, 640, 3), 10, dtype=np.uint8)
    white = [
        (render.draw_points(canvas, [{"x": 20 + 20 * i, "y": 200} for i in range(n)]) == 255).all(-1).sum() / n
        for n in (render.MANY_POINTS, render.MANY_POINTS + 1)
    ]
    assert 0 < white[1] < white[0]


def test_png_and_data_address_hold_the_picture():
    picture = render.draw_segments(blocks(), SEGMENTS)
    png = render.png_bytes(picture)
    assert (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) == picture).all()
    assert render.data_uri(png).startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("colors", [1, 256, 257])
def test_a_png_has_the_pixels_of_the_picture_however_many_colours(colors):
    values = np.arange(24 * 32) % colors
    picture = np.stack([values % 256, values // 256, 7 * values % 256], axis=1).reshape(24, 32, 3).astype(np.uint8)
    image = Image.open(io.BytesIO(render.png_bytes(picture)))
    assert image.mode == ("P" if colors <= 256 else "RGB")
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)


def test_many_colours_can_be_reduced_to_near_ones():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    reduced = np.asarray(Image.open(io.BytesIO(render.png_bytes(picture, few_colors=True))).convert("RGB"))
    assert len(np.unique(reduced.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(reduced.astype(int) - picture).mean() < 25
