"""AGMM on its own ground: its losses on a semantic network, what they train, and the model around them."""

import pytest
import torch

from methods import build_labeler
from methods.agmm.losses import MixtureObjective, SparseLabels
from methods.base.deeplab import DeepLabV3Plus, dilated_backbone
from methods.base.inference import Inference
from methods.base.point_losses import class_presence
from methods.base.semantic_method import SegmentationMaps
from methods.base.semantic_model import SemanticModel
from methods.base.types import Progress, SemanticMap
from tests.methods.agmm.scene import P1, P10, batch_of
from tests.methods.stand_ins import categories, point_batch, point_labels

DONE = Progress.finished()
MIXTURE = {"mixture_self", "mixture_label", "mixture_contrast", "mixture_absent"}
FIXED = {"mixture": {"sigma": "fixed", "distance": "mean_absolute"}}
SWITCHES = [
    {}, FIXED, {**FIXED, "contrast": "sum"}, {"mixture": {"detach": True}}, {"mixture": {"normalizer": "count"}},
    {"mixture": {"distance": "cosine"}}, {"mixture": {"centre": "batch"}}, {"mixture": {"centre": "moving"}},
    {"factor": 1.0}, {"partial_weight": 2.0}, {"self_weight": 0.5}, {"resolution": "map"}, {**FIXED, "resolution": "map"},
]  # fmt: skip


def network():
    torch.manual_seed(0)
    backbone = dilated_backbone("test_resnet", pretrained=False)
    return DeepLabV3Plus(backbone, len(categories()), rates=(2, 4), channels=16, low_channels=8, dropout=0.0)


def model_of(name="agmm_semantic", inference=Inference(), further=None, **options):  # noqa: B008 frozen
    return SemanticModel(categories(), network(), build_labeler(name, categories(), 16, options), inference, further)


def maps_of(batch, requires_grad=False):
    torch.manual_seed(3)
    count, (height, width) = len(batch.images), batch.input_size
    size = -(-height // 4), -(-width // 4)
    return SegmentationMaps(
        torch.randn(count, 4, *size, requires_grad=requires_grad), torch.randn(count, 16, *size, requires_grad=requires_grad)
    )


def method_of(**options):
    return build_labeler("agmm_semantic", categories(), 16, options)


def unlabelled(batch, images=None):
    """The batch with no labelled pixel in some images, as after a crop: their classes are still known."""
    points = [
        type(p)(p.xy[:0], p.target[:0], p.classes, p.is_thing, p.ids) if images is None or i in images else p
        for i, p in enumerate(batch.points)
    ]
    return type(batch)(batch.images, batch.padding, batch.sizes, points, batch.image_ids)


@pytest.mark.parametrize("places", [P1, P10], ids=["P1", "P10"])
@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_a_training_step_is_finite_and_trains_every_parameter(options, places):
    """Two images of different size, hence padding in both."""
    model = model_of(**options).train()
    losses = model(batch_of(places), DONE)
    assert set(losses) == MIXTURE | {"partial"}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.network.parameters())


@pytest.mark.parametrize("resolution", ["pixel", "map"])
def test_the_baseline_is_the_cross_entropy_of_the_labelled_pixels_alone(resolution):
    batch = batch_of(P1)
    maps = maps_of(batch)
    baseline = build_labeler("partial_cross_entropy", categories(), 16, {"resolution": resolution})
    losses = baseline.losses(maps, batch, DONE)
    assert set(losses) == {"partial"} and not list(baseline.parameters())
    off = dict.fromkeys(("self_weight", "label_weight", "contrast_weight", "absent_weight"), 0.0)
    assert method_of(resolution=resolution, **off).losses(maps, batch, DONE) == losses
    if resolution == "pixel":
        logits = torch.nn.functional.interpolate(maps.logits, batch.input_size, mode="bilinear", align_corners=True)
        loop = [
            torch.nn.functional.cross_entropy(logits[i, :, y, x], label)
            for i, points in enumerate(batch.points)
            for (x, y), label in zip(points.xy.tolist(), points.point_classes, strict=True)
        ]
        torch.testing.assert_close(losses["partial"], torch.stack(loop).mean())


@pytest.mark.parametrize("options", [o for o in SWITCHES if o], ids=str)
def test_every_switch_changes_losses_or_gradients(options):
    found = []
    for chosen in ({k: v for k, v in list(options.items())[:-1]}, options):
        batch = batch_of(P10)
        maps = maps_of(batch, requires_grad=True)
        method = method_of(**chosen)
        method.losses(maps_of(batch_of(P1)), batch_of(P1), DONE)  # averages move
        losses = method.losses(maps, batch, DONE)
        sum(losses.values()).backward()
        found.append((losses, maps.features.grad))
    (losses, gradient), (other, changed) = found
    assert any(abs(losses[k] - other[k]) > 1e-7 for k in losses) or not torch.allclose(gradient, changed)


def test_losses_are_those_of_the_mixture_objective_at_every_pixel():
    """With maps of the input's size nothing is enlarged, so that the losses can be taken by hand."""
    batch = batch_of(P10)
    torch.manual_seed(4)
    maps = SegmentationMaps(torch.randn(2, 4, *batch.input_size), torch.randn(2, 16, *batch.input_size))
    labels = torch.full((2, *batch.input_size), -1)
    for i, points in enumerate(batch.points):
        labels[i, points.xy[:, 1], points.xy[:, 0]] = points.point_classes
    known = SparseLabels(labels, class_presence(batch.points, 4) > 0, ~batch.padding)
    expected = MixtureObjective().losses([maps.logits], maps.features, known)
    found = method_of().losses(maps, batch, DONE)
    for name, value in expected.items():
        torch.testing.assert_close(found[f"mixture_{name}"], value)


@pytest.mark.parametrize("options", [{}, FIXED, {"mixture": {"centre": "moving"}}, {"resolution": "map"}], ids=str)
def test_losses_are_finite_without_any_label(options):
    """In one crop, and in the whole batch."""
    for images in ([0], None):
        batch = unlabelled(batch_of(P10), images)
        model = model_of(**options).train()
        losses = model(batch, DONE)
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        silent = {"partial", "mixture_self", "mixture_label", "mixture_contrast"}
        if images is None:  # only what the whole image is known to lack is left
            assert all(losses[name] == 0 for name in silent) and losses["mixture_absent"] > 0
        else:
            assert all(losses[name] > 0 for name in silent)


def test_absent_classes_are_those_of_the_whole_image():
    batch = unlabelled(batch_of(P10))
    maps = maps_of(batch)
    expected = method_of().losses(maps, batch_of(P10), DONE)["mixture_absent"]
    torch.testing.assert_close(method_of().losses(maps, batch, DONE)["mixture_absent"], expected)


def test_gaussians_train_the_features_unless_they_are_detached():
    gradients = {}
    for detach in (False, True):
        batch = batch_of(P10)
        maps = maps_of(batch, requires_grad=True)
        only = dict.fromkeys(("partial_weight", "label_weight", "contrast_weight", "absent_weight"), 0.0)
        losses = method_of(mixture={"detach": detach}, **only).losses(maps, batch, DONE)
        assert set(losses) == {"mixture_self"}
        losses["mixture_self"].backward()
        gradients[detach] = maps.features.grad
        assert maps.logits.grad.abs().sum() > 0
    assert gradients[False].abs().sum() > 0
    assert gradients[True] is None or gradients[True].abs().sum() == 0


def test_content_of_the_padding_changes_no_loss_but_through_the_network():
    """With maps of the input's size: padded cells are in no mean."""
    batch = batch_of(P10)
    torch.manual_seed(4)
    maps = SegmentationMaps(torch.randn(2, 4, *batch.input_size), torch.randn(2, 16, *batch.input_size))
    padded = batch.padding[:, None]
    other = SegmentationMaps(maps.logits.masked_fill(padded, 5.0), maps.features.masked_fill(padded, -3.0))
    for options in ({}, FIXED):
        found, changed = (method_of(**options).losses(m, batch, DONE) for m in (maps, other))
        for name in found:
            torch.testing.assert_close(found[name], changed[name])


# --- the model --------------------------------------------------------------------------------------------------------


def images(*sizes):
    torch.manual_seed(5)
    return [torch.rand(3, *size) for size in sizes]


@pytest.mark.parametrize("inference", [Inference(), Inference((0.5, 1.0), flip=True), Inference(tile=48, stride=20)])
def test_a_prediction_does_not_depend_on_its_batch_mates(inference):
    model = model_of(inference=inference).eval()
    pair = images((64, 90), (96, 60))
    sizes = [(64, 90), (50, 40)]
    together = model.predict(pair, sizes)
    for image, size, found in zip(pair, sizes, together, strict=True):
        assert isinstance(found, SemanticMap) and tuple(found.classes.shape) == size and found.classes.dtype == torch.int64
        assert torch.equal(found.classes, model.predict([image], [size])[0].classes)
    assert tuple(model.predict(pair)[1].classes.shape) == (96, 60)


def test_further_ways_to_predict_share_the_weights_and_leave_the_usual_one_alone():
    model = model_of(further={"multi_scale": Inference((0.5, 1.0, 2.0), flip=True)}).eval()
    usual = model.predict(images((64, 90)))[0].classes
    variants = model.variants()
    assert list(variants) == ["multi_scale"]
    other = variants["multi_scale"].predict(images((64, 90)))[0].classes
    assert not torch.equal(usual, other) and torch.equal(usual, model.predict(images((64, 90)))[0].classes)
    with torch.no_grad():
        model.network.classifier.bias[2] += 1e3
    assert (variants["multi_scale"].predict(images((64, 90)))[0].classes == 2).all()


def test_it_makes_no_labels_and_says_so():
    model = model_of().eval()
    assert model.predicts and not model.makes_labels and model.trainable
    with pytest.raises(ValueError, match="makes no labels of instances"):
        model.label(batch_of())


def test_a_network_that_is_not_finite_is_told():
    model = model_of().train()
    with torch.no_grad():
        model.network.classifier.weight.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="output of the network"):
        model(batch_of(), DONE)


def two_halves(images=8, draw=0):
    """Images of a red and a blue part with a click on each; the batch, and the class of every pixel."""
    generator = torch.Generator().manual_seed(draw)
    pictures, truths, clicks = [], [], []
    for i in range(images):
        split = int(torch.randint(16, 48, (), generator=generator))
        image = 0.1 * torch.rand(3, 64, 64, generator=generator)
        image[0, :, :split] += 0.8
        image[2, :, split:] += 0.8
        truth = torch.where(torch.arange(64) < split, 0, 3).expand(64, 64)
        image, truth = (image.flip(-1), truth.flip(-1)) if i % 2 else (image, truth)
        places = [(truth == label).nonzero() for label in (0, 3)]
        chosen = [place[int(torch.randint(len(place), (), generator=generator))].tolist() for place in places]
        clicks.append(point_labels([(x, y, target) for target, (y, x) in enumerate(chosen)], [0, 3]))
        pictures.append(image)
        truths.append(truth)
    return point_batch(pictures, clicks), torch.stack(truths)


def test_class_maps_follow_a_few_labelled_pixels():
    """Other images in every step: the sixteen clicks of one batch are learned by heart, which tells the rest nothing."""
    model = model_of("partial_cross_entropy", resolution="map").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(20):
        batch, _ = two_halves(draw=step)
        optimizer.zero_grad()
        sum(model(batch, DONE).values()).backward()
        optimizer.step()
    batch, truth = two_halves(draw=20)
    found = torch.stack([prediction.classes for prediction in model.eval().predict(list(batch.images))])
    # One class for all pixels has a half; six initialisations and rates had 0.87 to 0.99.
    assert (found == truth).float().mean() > 0.75


@pytest.mark.parametrize("options", [{}, FIXED], ids=str)
def test_steps_lower_the_losses(options):
    batch, _ = two_halves(4)
    model = model_of(resolution="map", **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(12):
        optimizer.zero_grad()
        totals.append(sum(model(batch, DONE).values()))
        totals[-1].backward()
        optimizer.step()
    assert sum(totals[-3:]) < 0.8 * sum(totals[:3])


def test_an_unknown_resolution_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"method\.resolution is 'half'; it is one of pixel, map"):
        method_of(resolution="half")
