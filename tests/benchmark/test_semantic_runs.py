"""Semantic runs from their config to their record: all kinds of sparse labels, resume, the best weights, several scales."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.build import build_model, points_of, training_dataset
from benchmark.candidates import BEST, candidate_steps, candidates
from benchmark.configs import compose_run
from benchmark.data.errors import DataError
from benchmark.data.label_maps import write_label_map
from benchmark.data.scenes import CATEGORIES, Scenes
from benchmark.execute import execute, load_run
from benchmark.mean_iou import mean_iou_result
from benchmark.optimizers import build_optimizer, decay_factor
from benchmark.runs import Run, State
from benchmark.training_step import parameter_groups
from methods.base.semantic_model import SemanticModel
from reports.records import load_record
from tests.benchmark.tiny_runs import STEPS, Interrupted, assert_same_outcome, tiny_config

SEMANTIC = (
    "head=none", "model=deeplab_tiny", "method=agmm_semantic", "method.resolution=map",
    "evaluation.multi_scale.scales=[0.5,1.0]",
)  # fmt: skip
VARIANTS = ["multi_scale", "best", "best_multi_scale"]


def semantic_config(results_dir, *words):
    return tiny_config(results_dir, *SEMANTIC, *words)


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of ten steps that nothing stopped."""
    run = Run(tmp_path_factory.mktemp("unbroken"), "run")
    assert execute(run, semantic_config(run.results_dir), "command", Interrupted()) == State.DONE
    return run


def test_the_record_has_miou_of_each_way_to_predict_apart(unbroken):
    record = unbroken.read()
    metrics = record["metrics"]
    assert metrics["labels_train"] is None and metrics["labels_val"] is None
    assert metrics["val"]["panoptic"] is None and metrics["val"]["semantic"]["source"] == "semantic map"
    assert list(metrics["variants"]) == VARIANTS
    pixels = {int(np.sum(v["semantic"]["confusion"])) for v in [metrics["val"], *metrics["variants"].values()]}
    assert pixels == {2 * 64 * 64}  # two images, no void
    selection = metrics["selection"]
    assert "validation images" in selection["chosen_by"] and list(selection["miou_by_step"]) == ["3", "5", "8", "10"]
    best = mean_iou_result(metrics["variants"]["best"]["semantic"]["confusion"]).miou
    assert best == max(selection["miou_by_step"].values()) == selection["miou_by_step"][str(selection["step"])]
    last = mean_iou_result(metrics["val"]["semantic"]["confusion"]).miou
    assert last == selection["miou_by_step"]["10"]  # the last weights, not the best
    assert record["supervision"] == {"kind": "points", "points_per_target": 1, "boxes": 0, "masks": 0}
    assert record["parameters"]["labeler"] == 0 and record["parameters"]["network"] > 5e5
    assert "instances" in record["note"]


def test_the_report_reads_the_record(unbroken):
    record = load_record(unbroken.results_dir, "run")
    assert record.state == "done" and record.panoptic is None and record.semantic_source == "semantic map"
    assert record.semantic.miou == mean_iou_result(unbroken.read()["metrics"]["val"]["semantic"]["confusion"]).miou


def test_predicted_maps_are_kept_as_pictures(unbroken):
    (entry,) = json.loads((unbroken.pictures / "index.json").read_text())
    assert set(entry["segments"]) == {"ground_truth", "prediction"}
    categories = {c.id: c.name for c in CATEGORIES}
    assert entry["segments"]["prediction"] and all(s["category_id"] in categories for s in entry["segments"]["prediction"])


def test_the_last_and_the_best_weights_are_kept_and_no_other(unbroken):
    assert unbroken.weights_file.exists() and (unbroken.folder / BEST).exists() and not unbroken.checkpoints.exists()
    model, _ = load_run(unbroken)
    assert isinstance(model, SemanticModel)
    image = torch.rand(3, 64, 64)
    assert model.predict([image])[0].classes.shape == (64, 64)


@pytest.mark.parametrize(
    "listener", [Interrupted(after_step=8), Interrupted(in_evaluation=True)], ids=["after a checkpoint", "in the evaluation"]
)
def test_an_interrupted_run_ends_like_an_unbroken_one(tmp_path, unbroken, listener):
    run = Run(tmp_path, "run")
    with pytest.raises(KeyboardInterrupt):
        execute(run, semantic_config(tmp_path), "command", listener)
    if listener.in_evaluation:
        assert list(candidates(run)) == [3, 5, 8, 10]
    again = Interrupted()
    assert execute(run, semantic_config(tmp_path), "command", again) == State.DONE
    assert not again.steps or again.steps[-1] == STEPS
    assert_same_outcome(run, unbroken)


@pytest.mark.slow
def test_sgd_with_poly_decay_goes_on_from_a_checkpoint(tmp_path):
    words = ("schedule.optimizer=sgd", "schedule.decay=poly", "schedule.lr=0.01", "schedule.backbone_lr_factor=0.1",
             "schedule.clip_norm=null", "evaluation.candidates=0", "evaluation.multi_scale=null")
    whole, broken = Run(tmp_path, "whole"), Run(tmp_path, "broken")
    assert execute(whole, semantic_config(tmp_path, *words), "command", Interrupted()) == State.DONE
    with pytest.raises(KeyboardInterrupt):
        execute(broken, semantic_config(tmp_path, *words), "command", Interrupted(after_step=8))
    assert execute(broken, semantic_config(tmp_path, *words), "command", Interrupted()) == State.DONE
    assert_same_outcome(broken, whole)
    assert set(whole.read()["metrics"]) == {"labels_train", "labels_val", "val"}  # nothing was measured beside
    rates = [json.loads(line)["lr"] for line in whole.metrics_file.read_text().splitlines()]
    assert rates == pytest.approx([0.01 * (1 - step / STEPS) ** 0.9 for step in range(STEPS)])


LABELS = {
    "scribbles": (["dataset.points.strategy=scribbles"], "scribbles"),
    "clicks": (["dataset.points.strategy=clicks", "dataset.points.count=20"], "20 clicks"),
}


@pytest.mark.parametrize("method", ["partial_cross_entropy", "agmm_semantic"])
@pytest.mark.parametrize("labels", LABELS)
def test_other_sparse_labels_train_as_well(tmp_path, labels, method):
    words, kind = LABELS[labels]
    short = ("schedule.steps=2", "evaluation.candidates=0", "evaluation.multi_scale=null")
    config = semantic_config(tmp_path, *words, *short, f"method={method}")
    run = Run(tmp_path, "run")
    assert execute(run, config, "command", Interrupted()) == State.DONE
    record = run.read()
    assert record["supervision"] == {"kind": kind, "points_per_target": None, "boxes": 0, "masks": 0}
    losses = json.loads(run.metrics_file.read_text().splitlines()[-1])
    assert ("mixture_self" in losses) == (method == "agmm_semantic") and losses["partial"] > 0


def write_label_folder(root):
    """Scenes as a folder of images with sparse training maps and dense validation maps, in VOC's layout."""
    classes = len(CATEGORIES)
    for split, count in (("train", 4), ("val", 2)):
        scenes = Scenes(count, 3, split, size=64, stuff_only=0.0)
        for scene in scenes.records:
            annotation = scenes.read_annotation(scene)
            dense = np.full(annotation.ids.shape, 255, dtype=np.uint8)
            for segment in annotation.segments:
                dense[annotation.ids == segment["id"]] = CATEGORIES.label_of(segment["category_id"])
            sparse = np.where(np.random.default_rng(0).random(dense.shape) < 0.01, dense, classes)
            (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
            Image.fromarray(scenes.read_image(scene)).save(root / "JPEGImages" / f"{scene.id}.jpg", quality=95)
            folder, labels = ("points", sparse) if split == "train" else ("SegmentationClass", dense)
            write_label_map(root / folder / f"{scene.id}.png", labels)
        (root / f"{split}.txt").write_text("".join(f"{scene.id}\n" for scene in scenes.records))
    return ["dataset=voc_labels", f"dataset.root={root}", "dataset.classes=[" + ",".join(CATEGORIES.names) + "]",
            "dataset.stuff=[" + ",".join(c.name for c in CATEGORIES if not c.is_thing) + "]"]


def label_folder_config(results, words, *more):
    """Without the scenes' own keys, which that data set does not have."""
    short = ("input.short=64", "input.long=64", "schedule.steps=3", "schedule.batch_size=2", "schedule.log_every=1",
             "schedule.checkpoint_every=2", "evaluation.label_images=2", "evaluation.gallery_images=1", "threads=1",
             "jobs=1", "device=cpu", f"results_dir={results}")
    return compose_run(["scale=demo", *words, *SEMANTIC, *short, *more])


def test_a_folder_of_label_maps_trains_with_crops_and_is_tested_on_stored_images(tmp_path):
    words = write_label_folder(tmp_path / "voc")
    config = label_folder_config(tmp_path, words, "input.crop=32", "input.photometric=true",
                                 "evaluation.window={tile: 48, stride: 20}")
    points = points_of(config, "train")
    sample = training_dataset(config, points, "points").item(0, 0)
    assert max(sample.image.shape[-2:]) <= 32
    run = Run(tmp_path, "run")
    assert execute(run, config, "command", Interrupted()) == State.DONE
    record = run.read()
    assert record["supervision"]["kind"] == "sparse label maps"
    assert int(np.sum(record["metrics"]["val"]["semantic"]["confusion"])) == 2 * 64 * 64


@pytest.mark.parametrize("fill", [0, 255])
def test_maps_of_another_convention_stop_before_training(tmp_path, fill):
    words = write_label_folder(tmp_path / "voc")
    path = next((tmp_path / "voc" / "points").glob("*.png"))
    labels = np.asarray(Image.open(path)).copy()
    write_label_map(path, np.where(labels == len(CATEGORIES), fill, labels))
    with pytest.raises(DataError, match=rf"{path.name} .*replace {fill} by {len(CATEGORIES)}"):
        points_of(label_folder_config(tmp_path, words), "train")


def test_a_missing_data_folder_says_what_belongs_there(tmp_path):
    config = label_folder_config(tmp_path, ["dataset=voc_labels"])
    with pytest.raises(DataError, match=r"set dataset\.root=FOLDER to the one with JPEGImages/\{name\}\.jpg and label"):
        points_of(config, "train")
    config = label_folder_config(tmp_path, ["dataset=cityscapes_labels"])
    with pytest.raises(DataError, match=r"'cityscapes' has no folder.*labelTrainIds"):
        points_of(config, "train")


# --- model, optimiser, candidates -------------------------------------------------------------------------------------


def test_a_semantic_method_needs_a_semantic_network_and_no_head(tmp_path):
    with pytest.raises(ValueError, match="'agmm_semantic' predicts classes and has no panoptic head: set head=none"):
        build_model(semantic_config(tmp_path, "head=mask2former_tiny"), CATEGORIES)
    with pytest.raises(ValueError, match=r"semantic model 'tiny' has no option .*model=deeplab_tiny"):
        build_model(semantic_config(tmp_path, "model=tiny"), CATEGORIES)
    with pytest.raises(ValueError, match=r"'test_resnet' has no option multi_grid, output_stride"):
        build_model(compose_run(["scale=demo", "method=full_masks", "model=deeplab_tiny"]), CATEGORIES)


def test_the_backbone_has_a_rate_of_its_own(tmp_path):
    model = build_model(semantic_config(tmp_path), CATEGORIES)
    groups = parameter_groups(model, 0.01, 0.1)
    assert [group["lr"] for group in groups] == [0.01, pytest.approx(0.001)]
    assert set(groups[1]["params"]) == set(model.network.backbone.parameters())
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_runs_without_the_keys_have_adamw_and_steps():
    config = {"weight_decay": 0.1, "decay_at": [0.5], "decay_factor": 0.1}
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([{"params": [parameter], "lr": 0.3}], config)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["weight_decay"] == 0.1
    assert [decay_factor(config, f) for f in (0.0, 0.5)] == [1.0, 0.1]


def test_an_unknown_word_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"schedule\.optimizer is 'x'; it is one of adamw, sgd"):
        build_optimizer([], {"optimizer": "x"})
    with pytest.raises(ValueError, match=r"schedule\.decay is 'x'; it is one of steps, poly"):
        decay_factor({"decay": "x"}, 0.5)


@pytest.mark.parametrize(
    ("count", "total", "steps"),
    [(0, 10, []), (1, 10, [10]), (4, 10, [3, 5, 8, 10]), (4, 3, [1, 2, 3]), (10, 100, list(range(10, 101, 10)))],
)
def test_candidates_are_spread_evenly_and_end_with_the_last_step(count, total, steps):
    assert sorted(candidate_steps({"candidates": count}, total)) == steps
    assert candidate_steps({}, total) == frozenset()
