"""Runs that differ only in what happens after training share one training, and end like runs that train themselves."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from benchmark import provenance
from benchmark.estimate import PastRuns
from benchmark.execute import run_cell
from benchmark.run import main
from benchmark.runs import AFTER_TRAINING, Run, State, run_id
from tests.benchmark.tiny_runs import STEPS, Interrupted, assert_same_outcome, grid_words, runs_in, tiny_config

HEADS = {
    "mask2former_tiny": ["head.score_threshold=0.01", "head.overlap_threshold=0.1"],
    "panoptic_segformer_tiny": [
        "head.test_queries=3", "head.mask_threshold=0.1", "head.quality_threshold=0.0", "head.thing_overlap=0.9",
        "head.stuff_overlap=0.9", "head.quality.score_power=0.5", "head.quality.mask_power=1.0",
        "head.quality.area_offset=2.0",
    ],
}  # fmt: skip
SEMANTIC = ["method=partial_cross_entropy", "model=deeplab_tiny", "method.resolution=map", "head=none"]
GROUPS = ("head.quality", "dataset.val")
MEASURED = ["dataset.val.seed=5", "evaluation.label_images=1"]


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    """Weights are shared by committed code only; the checkout under test may have changes. Returns what code says it is."""
    code = {"revision": "abc", "dirty": False}
    monkeypatch.setattr(provenance, "code_revision", lambda: code)
    return code


def make(results, *words, fresh=False):
    """A run below ``results``, made by this process, and the steps that it trained."""
    config = tiny_config(results, "method=psps", *words)
    run = Run(results, run_id(config, {"train": "points"}))
    return run, trained_steps(run, config, fresh)


def trained_steps(run, config, fresh=False):
    """The steps that making a run takes."""
    listener = Interrupted()
    assert run_cell(run, config, "command", listener, fresh=fresh) == State.DONE
    return listener.steps


@pytest.mark.parametrize("head", HEADS)
def test_a_run_with_other_thresholds_ends_as_if_it_had_trained(tmp_path, head):
    """Alone in a folder each run trains, and has the weights that training with the defaults gave."""
    first, steps = make(tmp_path / "shared", f"head={head}")
    assert len(steps) == STEPS
    for name, words in (("merged", HEADS[head]), ("measured", MEASURED)):
        second, steps = make(tmp_path / "shared", f"head={head}", *words)
        assert second != first and steps == []
        alone, steps = make(tmp_path / name, f"head={head}", *words)
        assert len(steps) == STEPS
        assert_same_outcome(second, alone)
        assert second.read()["trained"] == {"run_id": first.run_id}
        assert second.read()["timings"] == first.read()["timings"]
        assert first.read()["trained"] is None and alone.read()["trained"] is None
        if name == "measured":  # with thresholds alone, after ten steps, next to nothing is predicted
            assert second.read()["metrics"]["val"] != first.read()["metrics"]["val"]


def test_a_run_that_keeps_weights_along_its_training_trains(tmp_path):
    words = [*SEMANTIC, "evaluation.candidates=2"]
    make(tmp_path, *words)
    second, steps = make(tmp_path, *words, "evaluation.multi_scale.scales=[1.0]")
    assert len(steps) == STEPS and "best" in second.read()["metrics"]["variants"]


def test_the_semantic_track_shares_as_well(tmp_path):
    words = [*SEMANTIC, "evaluation.candidates=0"]
    first, steps = make(tmp_path / "shared", *words)
    assert len(steps) == STEPS
    ways = {"window": "evaluation.window={tile:32,stride:16}", "scales": "evaluation.multi_scale.scales=[1.0]"}
    for name, other in ways.items():
        second, steps = make(tmp_path / "shared", *words, other)
        assert second != first and steps == []
        alone, _ = make(tmp_path / name, *words, other)
        assert_same_outcome(second, alone)


def test_every_key_that_is_said_to_follow_training_is_tried():
    """The runs above show that training does not read these keys: it would have ended with other weights."""
    tried = {word.split("=")[0] for words in (*HEADS.values(), MEASURED) for word in words}
    tried |= {"evaluation.window", "evaluation.multi_scale"}
    for key in AFTER_TRAINING:
        assert any(word == key or (key in GROUPS and word.startswith(f"{key}.")) for word in tried), key


@pytest.mark.parametrize("word", ["seed=1", "head.class_weight=1.0", "dataset.train.seed=3"])
def test_what_training_reads_is_trained(tmp_path, word):
    make(tmp_path, "head=mask2former_tiny")
    _, steps = make(tmp_path, "head=mask2former_tiny", word)
    assert len(steps) == STEPS


def test_other_points_are_trained(tmp_path):
    first, _ = make(tmp_path, "head=none")
    provenance = first.read()["provenance"]
    first.update(provenance={**provenance, "fingerprints": {**provenance["fingerprints"], "points": "others"}})
    _, steps = make(tmp_path, "head=none", "evaluation.label_images=1")
    assert len(steps) == STEPS


def test_a_run_that_is_forced_trains_itself(tmp_path):
    make(tmp_path, "head=none")
    second, steps = make(tmp_path, "head=none", "evaluation.label_images=1")
    assert steps == []
    assert make(tmp_path, "head=none", "evaluation.label_images=1", fresh=True) == (second, list(range(1, STEPS + 1)))
    assert second.read()["trained"] is None


def test_a_run_that_is_forced_trains_itself_after_an_interruption_too(tmp_path):
    make(tmp_path, "head=none")
    second, _ = make(tmp_path, "head=none", "evaluation.label_images=1")
    config = second.read()["config"]
    with pytest.raises(KeyboardInterrupt):
        run_cell(second, config, "command", Interrupted(after_step=1), fresh=True)
    assert len(trained_steps(second, config)) == STEPS


def test_a_run_never_gets_its_own_weights_back(tmp_path):
    """Who repeats a run by deleting its folder wants it trained."""
    first, _ = make(tmp_path, "head=none")
    make(tmp_path, "head=none", "evaluation.label_images=1")
    config = first.read()["config"]
    shutil.rmtree(first.folder)
    assert len(trained_steps(first, config)) == STEPS


@pytest.mark.parametrize("change", [{"revision": "def"}, {"dirty": True}, {"revision": None, "dirty": None}], ids=str)
def test_other_code_trains(tmp_path, committed, change):
    make(tmp_path, "head=none")
    committed.update(change)
    _, steps = make(tmp_path, "head=none", "evaluation.label_images=1")
    assert len(steps) == STEPS


def test_other_hardware_and_packages_train(tmp_path):
    first, _ = make(tmp_path, "head=none")
    provenance_of_first = first.read()["provenance"]
    for key in ("hardware", "packages"):
        first.update(provenance={**provenance_of_first, key: {**provenance_of_first[key], "torch": "1.0", "threads": 3}})
        second, steps = make(tmp_path, "head=none", "evaluation.label_images=1")
        assert len(steps) == STEPS
        shutil.rmtree(second.folder)


@pytest.mark.parametrize("damage", ["torn", "unfitting", "gone", "no log", "unreadable record", "half a record", "not done"])
def test_a_run_that_cannot_hand_over_its_weights_is_passed_over(tmp_path, damage):
    first, _ = make(tmp_path, "head=none")
    if damage == "torn":
        first.weights_file.write_bytes(first.weights_file.read_bytes()[:1000])
    elif damage == "unfitting":
        save_file({"other": torch.zeros(1)}, first.weights_file)
    elif damage == "no log":
        first.metrics_file.unlink()
    elif damage == "half a record":
        first.update(provenance={})
    elif damage == "gone":
        first.weights_file.unlink()
    elif damage == "unreadable record":
        first.record_file.write_text("{")
    else:
        first.update(state=State.FAILED)
    second, steps = make(tmp_path, "head=none", "evaluation.label_images=1")
    assert len(steps) == STEPS
    assert second.read()["trained"] is None
    alone, _ = make(tmp_path / "alone", "head=none", "evaluation.label_images=1")
    assert_same_outcome(second, alone)


def test_a_run_that_has_to_train_after_all_does_not_say_that_another_did(tmp_path):
    first, _ = make(tmp_path, "head=none")
    config = tiny_config(tmp_path, "method=psps", "head=none", "evaluation.label_images=1")
    second = Run(tmp_path, run_id(config, {"train": "points"}))
    with pytest.raises(KeyboardInterrupt):
        run_cell(second, config, "command", Interrupted(in_evaluation=True))
    assert second.read()["trained"] == {"run_id": first.run_id}
    first.weights_file.unlink()
    second.weights_file.unlink()
    assert len(trained_steps(second, config)) == STEPS
    assert second.read()["trained"] is None


def test_an_interrupted_run_goes_on_from_its_own_checkpoint(tmp_path):
    words = ["head=none", "evaluation.label_images=1"]
    config = tiny_config(tmp_path, "method=psps", *words)
    run = Run(tmp_path, run_id(config, {"train": "points"}))
    with pytest.raises(KeyboardInterrupt):
        run_cell(run, config, "command", Interrupted(after_step=8))
    make(tmp_path, "head=none")
    _, steps = make(tmp_path, *words)
    assert steps == [7, 8, 9, 10]


def test_a_grid_of_thresholds_trains_once_and_says_so(tmp_path):
    words = grid_words(tmp_path, "method=psps", "head.score_threshold=0.5,0.01,0.9")
    assert main(words) == 0
    records = runs_in(tmp_path)
    assert len(records) == 3
    trained = [record["run_id"] for record in records.values() if not record["trained"]]
    assert len(trained) == 1
    assert [r["trained"]["run_id"] for r in records.values() if r["trained"]] == 2 * trained
    page = (tmp_path / "quickstart" / "report" / "table.md").read_text()
    assert "Took over the weights of a run that differs only in what happens after training: 2 of 3 runs." in page


def test_past_runs_without_a_training_do_not_judge_what_one_costs(tmp_path):
    make(tmp_path, "head=none")
    second, _ = make(tmp_path, "head=none", "evaluation.label_images=1")
    first_cost = PastRuns(tmp_path).cost(second.read()["config"], _data(second))
    record = second.read()
    second.update(wall_seconds=1e6)
    assert PastRuns(tmp_path).cost(record["config"], _data(second)) == first_cost


def _data(run):
    return str(run.read()["provenance"]["fingerprints"]["data"])
