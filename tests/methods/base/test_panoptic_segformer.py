from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from methods.base.build import build_head
from methods.base.head import LOSS_GROUPS
from methods.base.losses import Focal
from methods.base.options import call_with_options
from methods.base.panoptic_segformer import PanopticSegFormerHead
from methods.base.types import Features, PseudoLabels
from tests.methods.base.panoptic_inputs import categories, mmdet_assignment, random_features, rectangles

CONF = Path(__file__).parents[3] / "benchmark" / "conf" / "head"
SIZES = [(64, 96), (40, 56)]
INPUT = (64, 96)


def head(things: int = 3, stuff: int = 2, **options) -> PanopticSegFormerHead:
    torch.manual_seed(0)
    options = {
        "queries": 8, "location_layers": 2, "thing_layers": 2, "stuff_layers": 2, "heads": 4, "points": 2, "feedforward": 48,
        "dropout": 0.0, "test_queries": 10, **options,
    }  # fmt: skip
    return PanopticSegFormerHead(categories(things, stuff), 32, None, **options)


def labels(num_things: int = 3) -> list[PseudoLabels]:
    """Two things and a stuff class; one thing and a stuff class."""
    return [
        rectangles(SIZES[0], INPUT, [(0, 40, 96, 64), (8, 8, 40, 32), (56, 8, 88, 40)], [num_things, 0, 2], num_things),
        rectangles(SIZES[1], INPUT, [(0, 0, 56, 16), (8, 16, 48, 40)], [num_things + 1, 1], num_things),
    ]


def total(losses: dict) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def test_losses_are_finite_scalars_named_by_group_and_reach_every_parameter():
    model, features = head(), random_features(SIZES, requires_grad=True)
    losses = model.losses(features, labels(), {})
    assert {name.split("/")[0] for name in losses} == set(LOSS_GROUPS)
    assert all(loss.ndim == 0 and loss.isfinite() and loss > 0 for loss in losses.values())
    total(losses).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(m.grad.abs().sum() > 0 for m in features.maps)


@pytest.mark.parametrize("group", LOSS_GROUPS)
def test_weights_scale_their_group_only(group):
    model, features = head(), random_features(SIZES)
    plain, weighted = model.losses(features, labels(), {}), model.losses(features, labels(), {group: 0.25})
    for name, value in plain.items():
        torch.testing.assert_close(weighted[name], value * (0.25 if name.startswith(f"{group}/") else 1.0))


def test_loss_weights_are_the_configured_ones():
    features = random_features(SIZES)
    names = {
        "dice_weight": ("masks/things", "masks/stuff"), "stuff_classification_weight": ("stuff_classification/presence",),
    }  # fmt: skip
    plain = head().losses(features, labels(), {})
    for option, changed in names.items():
        doubled = head(**{option: 2 * {"dice_weight": 2.0, "stuff_classification_weight": 4.0}[option]})
        for name, value in doubled.losses(features, labels(), {}).items():
            torch.testing.assert_close(value, plain[name] * (2.0 if name in changed else 1.0))


def test_losses_do_not_depend_on_the_order_of_targets():
    model, features = head(), random_features(SIZES)
    expected = model.losses(features, labels(), {})
    shuffled = labels()
    shuffled[0] = rectangles(SIZES[0], INPUT, [(56, 8, 88, 40), (0, 40, 96, 64), (8, 8, 40, 32)], [2, 3, 0], 3)
    for name, value in model.losses(features, shuffled, {}).items():
        torch.testing.assert_close(value, expected[name])


def without(given: PseudoLabels, things: bool) -> PseudoLabels:
    """The labels without their things, or without their stuff, whose pixels become void."""
    keep = given.is_thing != things
    new_ids = torch.nn.functional.pad(torch.where(keep, keep.cumsum(0), 0), (1, 0))
    picked = (getattr(given, field)[keep] for field in ("classes", "is_thing", "scores", "boxes"))
    return PseudoLabels(new_ids[given.segment_ids], *picked, given.ignore)


def test_thing_and_stuff_losses_are_scaled_by_their_share_of_the_targets():
    """3 things and 2 stuff targets; alone, things have share 1, and stuff 2 / (1 + 2): at least one thing is counted."""
    model, features, given = head(), random_features(SIZES), labels()
    both = model.losses(features, given, {})
    things = model.losses(features, [without(one, things=False) for one in given], {})
    stuff = model.losses(features, [without(one, things=True) for one in given], {})
    for name in ("classification/things", "boxes/l1", "boxes/giou", "masks/things"):
        torch.testing.assert_close(both[name], things[name] * 3 / 5)
    for name in ("masks/stuff", "stuff_classification/presence"):
        torch.testing.assert_close(both[name] / (2 / 5), stuff[name] / (2 / 3))


def dice(mask, target, ignore):
    """Of one (h, w) mask at the input size, written out."""
    full = torch.nn.functional.interpolate(mask[None, None], size=INPUT, mode="bilinear")[0, 0] * ~ignore
    return 1 - 2 * (full * target).sum() / ((full**2).sum() + target.sum() + 2e-3)


def test_losses_equal_mmdet_image_by_image():
    """Assignment, focal and GIoU by mmdet in pixels, layer by layer; every image is decoded alone."""
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
    from mmdet.models.losses.iou_loss import GIoULoss
    from torchvision.ops import box_convert

    model, features, given = head(), random_features(SIZES), labels()
    expected = {"classification/things": 0.0, "boxes/l1": 0.0, "boxes/giou": 0.0, "masks/things": 0.0, "masks/stuff": 0.0}
    locations = model.location(features)
    stuff_masks, _ = model.stuff(features)
    for i, (height, width) in enumerate(SIZES):  # both fit the grid of 8 pixels: boxes refer to the image's own size
        pixels, one = torch.tensor([width, height, width, height]), given[i]
        classes, extents = one.classes[one.is_thing], one.boxes[one.is_thing]
        for logits, boxes in zip(locations.logits[:, i], locations.boxes[:, i], strict=True):
            predicted = box_convert(boxes, "cxcywh", "xyxy") * pixels
            query, target = mmdet_assignment(logits, predicted, classes, extents, (height, width))
            positive = torch.zeros_like(logits)
            positive[query, classes[target]] = 1
            focal = py_sigmoid_focal_loss(logits, positive, reduction="sum")
            own = box_convert(extents[target] / pixels, "xyxy", "cxcywh")
            giou = GIoULoss(reduction="sum")(predicted[query], extents[target])
            expected["classification/things"] += 2 * focal * 3 / 5 / 3
            expected["boxes/l1"] += 5 * (boxes[query] - own).abs().sum() * 3 / 5 / 3
            expected["boxes/giou"] += 2 * giou * 3 / 5 / 3
        alone = Features(
            [m[i : i + 1] for m in features.maps], features.positions, features.level_embeddings,
            [p[i : i + 1] for p in features.padding], None, INPUT,
        )  # fmt: skip
        wanted = one.masks().float()
        for masks in model.things(alone, locations.queries[i : i + 1, query]).masks:
            for mask, truth in zip(masks[0], wanted[one.is_thing][target], strict=True):
                expected["masks/things"] += 2 * dice(mask, truth, one.ignore) * 3 / 5 / 3
        stuff_class = int(one.classes[~one.is_thing]) - 3
        for masks in stuff_masks:
            expected["masks/stuff"] += 2 * dice(masks[i, stuff_class], wanted[~one.is_thing][0], one.ignore) * 2 / 5 / 2
    losses = model.losses(features, given, {})
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


def test_ignored_pixels_change_nothing():
    """Whether ignored pixels are void or belong to a target, the losses are the same (its box aside, which is given)."""
    model, features = head(), random_features(SIZES)
    ignore = torch.zeros(INPUT, dtype=torch.bool)
    ignore[8:32, 20:60] = True
    given = [rectangles(SIZES[0], INPUT, [(0, 40, 96, 64), (8, 8, 40, 32)], [3, 0], 3, ignore), labels()[1]]
    emptied = given[0].segment_ids.masked_fill(ignore, 0)
    other = [PseudoLabels(emptied, *(getattr(given[0], f) for f in ("classes", "is_thing", "scores", "boxes", "ignore")))]
    expected = model.losses(features, given, {})
    for name, value in model.losses(features, [*other, given[1]], {}).items():
        torch.testing.assert_close(value, expected[name])
    read = [PseudoLabels(emptied, *(getattr(given[0], f) for f in ("classes", "is_thing", "scores", "boxes")), ~ignore)]
    assert (model.losses(features, [*read, given[1]], {})["masks/things"] - expected["masks/things"]).abs() > 1e-4


def test_an_image_without_things_trains_the_silence_of_its_queries():
    model, features = head(), random_features(SIZES)
    only_stuff = [rectangles(size, INPUT, [(0, 0, 32, 32)], [3], 3) for size in SIZES]
    losses = model.losses(features, only_stuff, {})
    assert losses["classification/things"] > 0
    assert [losses[name].item() for name in ("boxes/l1", "boxes/giou", "masks/things")] == [0, 0, 0]
    total(losses).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def all_ignored(given: PseudoLabels) -> PseudoLabels:
    return replace(given, ignore=torch.ones_like(given.ignore))


@pytest.mark.parametrize("targets", [True, False])
def test_an_image_that_is_ignored_as_a_whole_changes_no_loss(targets):
    """Neither what is predicted there nor what its targets are matters: the other image alone gives the same losses."""
    model, features, given = head(), random_features(SIZES, requires_grad=True), labels()
    unknown = all_ignored(given[1] if targets else rectangles(SIZES[1], INPUT, [], [], 3))
    losses = model.losses(features, [given[0], unknown], {})
    first = Features(
        [m[:1].detach() for m in features.maps], features.positions, features.level_embeddings,
        [p[:1] for p in features.padding], None, INPUT,
    )  # fmt: skip
    first.positions[:] = [p[:1] for p in first.positions]
    for name, value in model.losses(first, given[:1], {}).items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)
    total(losses).backward()
    assert all(m.grad[1].count_nonzero() == 0 and m.grad[0].count_nonzero() > 0 for m in features.maps)


def test_a_batch_that_is_ignored_as_a_whole_teaches_nothing_but_reaches_every_parameter():
    """DDP waits for a gradient of every parameter."""
    model = head()
    losses = model.losses(random_features(SIZES), [all_ignored(one) for one in labels()], {})
    assert total(losses) == 0
    total(losses).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.count_nonzero()] == []


def test_an_image_with_any_known_pixel_has_its_negatives():
    """One readable pixel, of no target: every query there should be silent, as without ignored pixels."""
    model, features = head(), random_features(SIZES)
    nothing = [rectangles(size, INPUT, [], [], 3) for size in SIZES]
    partly = [all_ignored(one) for one in nothing]
    for one in partly:
        one.ignore[3, 5] = False
    expected = model.losses(features, nothing, {})
    for name, value in model.losses(features, partly, {}).items():
        torch.testing.assert_close(value, expected[name])
    assert expected["classification/things"] > 0
    model = head(stuff=0)
    things = without(labels()[0], things=False)
    with_things, without_second = [things, partly[1]], [things, all_ignored(partly[1])]
    name = "classification/things"
    assert model.losses(features, with_things, {})[name] > model.losses(features, without_second, {})[name]


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ({"focal": Focal(gamma=1.0)}, {"classification/things", "stuff_classification/presence"}),
        ({"dice_epsilon": 50.0}, {"masks/things", "masks/stuff"}),
    ],
)
def test_constants_of_the_losses_reach_their_losses_only(option, changed):
    features, given = random_features(SIZES), labels()
    plain, other = head().losses(features, given, {}), head(**option)
    other.costs = head().costs  # the same pairs
    for name, value in other.losses(features, given, {}).items():
        assert torch.equal(value, plain[name]) == (name not in changed), name


def test_constants_of_the_network_reach_their_parts():
    model = head(mask_levels=2, norm_epsilon=1e-6, focal_prior=0.1, box_size_bias=-1.0, focal=Focal(0.3), cost_epsilon=1e-3)
    decoders = (model.things, model.stuff.decoder)
    assert [decoder.levels for decoder in decoders] == [2, 2]
    assert {m.eps for d in decoders for m in d.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    for module in (*model.location.class_heads, *model.stuff.presence):
        torch.testing.assert_close(module.bias.sigmoid(), torch.full_like(module.bias, 0.1))
    assert model.location.box_heads[0][-1].bias.tolist() == [0, 0, -1, -1]
    assert (model.costs.focal, model.costs.epsilon) == (Focal(0.3), 1e-3)


def test_images_without_any_target_give_finite_losses():
    model = head()
    nothing = [rectangles(size, INPUT, [], [], 3) for size in SIZES]
    assert total(model.losses(random_features(SIZES), nothing, {})).isfinite()


def test_an_empty_thing_has_dice_one_per_layer_and_no_mask_gradient():
    model, features = head(stuff=0), random_features(SIZES[:1])
    empty = [rectangles(SIZES[0], INPUT, [(0, 0, 0, 0)], [1], 3)]
    loss = model.losses(features, empty, {})["masks/things"]
    assert loss.item() == pytest.approx(2.0 * 2)
    loss.backward()
    assert all(p.grad is None or p.grad.count_nonzero() == 0 for p in model.things.parameters())


@pytest.mark.parametrize(("things", "stuff"), [(3, 0), (0, 2)])
def test_data_sets_without_stuff_or_without_things(things, stuff):
    model, features = head(things, stuff).eval(), random_features(SIZES)
    given = [rectangles(size, INPUT, [(0, 0, 24, 24)], [0], things) for size in SIZES]
    losses = model.losses(features, given, {})
    prefixes = {"classification", "boxes", "masks"} if things else {"masks", "stuff_classification"}
    assert {name.split("/")[0] for name in losses} == prefixes
    assert total(losses).isfinite() and total(losses) > 0
    assert len(model.predict(features, SIZES, SIZES)) == 2


def test_more_targets_than_queries():
    model = head(queries=2)
    boxes = [(16 * i, 0, 16 * i + 12, 40) for i in range(5)]
    given = [rectangles(SIZES[0], INPUT, boxes, [0, 1, 2, 0, 1], 3), labels()[1]]
    assert total(model.losses(random_features(SIZES), given, {})).isfinite()


def test_predict_gives_maps_of_the_output_sizes():
    model, features = head(quality_threshold=0.0).eval(), random_features(SIZES)
    outputs = [(50, 75), (80, 112)]
    maps = model.predict(features, SIZES, outputs)
    assert [tuple(m.segment_ids.shape) for m in maps] == outputs
    for one in maps:
        found = set(one.segment_ids.unique().tolist()) - {0}
        assert found == {s.id for s in one.segments} and found
        assert all(s.is_thing == (s.label < 3) and 0 <= s.label < 5 and 0 <= s.score <= 1 for s in one.segments)


def test_predict_of_an_image_does_not_depend_on_its_batch():
    sizes = [(128, 128), (64, 64)]
    together, alone = random_features(sizes), random_features(sizes[1:])
    for level, m in enumerate(alone.maps):
        h, w = m.shape[-2:]
        m.copy_(together.maps[level][1:, :, :h, :w])
    model = head(quality_threshold=0.0).eval()
    expected = model.predict(alone, sizes[1:], sizes[1:])[0]
    batched = model.predict(together, sizes, sizes)[1]
    # Bilinear resizing reads one cell beyond the image: zero in the padding, repeated at a border.
    inside = slice(0, 60)
    assert [s.label for s in batched.segments][:1] == [s.label for s in expected.segments][:1]
    same = batched.segment_ids[inside, inside] == expected.segment_ids[inside, inside]
    assert same.float().mean() > 0.95


def test_class_scores_rank_the_query_and_class_pairs():
    model, features = head(stuff=0, test_queries=6).eval(), random_features(SIZES)
    masks, scores, found = model._predict_things(features)
    logits = model.location(features).logits[-1]
    for i in range(2):
        pairs = sorted(((p, c) for row in logits[i].sigmoid().tolist() for c, p in enumerate(row)), reverse=True)[:6]
        assert scores[i].tolist() == pytest.approx([p for p, _ in pairs])
        assert found[i].tolist() == [c for _, c in pairs]
    assert masks.shape == (2, 6, 8, 12)


def test_runs_in_bfloat16_autocast():
    model, features = head(), random_features(SIZES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.losses(features, labels(), {})
        maps = model.eval().predict(features, SIZES, SIZES)
    assert total(losses).isfinite() and total(losses).dtype == torch.float32 and len(maps) == 2


def head_config(name):
    """A head's config beside the network of the papers."""
    head = OmegaConf.merge(OmegaConf.load(CONF / "panoptic_segformer.yaml"), OmegaConf.load(CONF / f"{name}.yaml"))
    config = OmegaConf.create({"model": OmegaConf.load(CONF.parent / "model" / "r50.yaml"), "head": head})
    return OmegaConf.to_container(config, resolve=True)["head"]


@pytest.mark.parametrize("name", ["panoptic_segformer", "panoptic_segformer_tiny"])
def test_config_files_have_exactly_the_options(name):
    config = dict(head_config(name))
    config.pop("defaults", None)
    options = {key: value for key, value in config.items() if key != "name"}
    what = f"head '{name}'"
    model = call_with_options(PanopticSegFormerHead, options, what, categories(3, 2), 32, None)
    assert config["name"] == "panoptic_segformer" and isinstance(model, PanopticSegFormerHead)
    assert set(options) == set(PanopticSegFormerHead.__init__.__kwdefaults__)


def test_the_builder_finds_the_head():
    class Sizes:
        channels, fine_channels = 32, None

    config = {key: value for key, value in head_config("panoptic_segformer").items() if key != "defaults"}
    assert isinstance(build_head(config, categories(1, 1), Sizes()), PanopticSegFormerHead)


def memorised(features: Features, given: list[PseudoLabels], steps: int) -> tuple[PanopticSegFormerHead, list[float]]:
    model = head()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(steps):
        loss = total(model.losses(features, given, {}))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(loss.item())
    return model.eval(), history


def test_fixed_rectangles_are_memorised():
    features, given = random_features(SIZES), labels()
    model, history = memorised(features, given, 150)
    assert sum(history[55:60]) / 5 < 0.5 * history[0]
    for one, result, (height, width) in zip(given, model.predict(features, SIZES, SIZES), SIZES, strict=True):
        assert sorted(s.label for s in result.segments) == sorted(one.classes.tolist())
        for segment in result.segments:
            truth = one.masks()[one.classes == segment.label][0, :height, :width]
            mask = result.segment_ids == segment.id
            assert (truth & mask).sum() > 0.7 * (truth | mask).sum()
