"""Runs that differ only in what happens after training share one training, and end like runs that train themselves."""

from __future__ import annotations

import pytest
import torch

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
MEASURED = ["dataset.val.seed=5", "evaluation.label_images=1"]


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(results, *words, fresh=False):
    """A run below ``results``, made by this process, and the steps that it trained."""
    config = tiny_config(results, "method=psps", *words)
    run = Run(results, run_id(config, {"train": "points"}))
    listener = Interrupted()
    assert run_cell(run, config, "command", listener, fresh=fresh) == State.DONE
    return run, listener.steps


@pytest.mark.parametrize("head", HEADS)
def test_a_run_with_other_thresholds_ends_as_if_it_had_trained(tmp_path, head):
    """Each threshold on its own folder trains, and has the weights that training with the defaults gave."""
    first, steps = make(tmp_path / "shared", f"head={head}")
    assert len(steps) == STEPS
    for name, words in (("merged", HEADS[head]), ("measured", MEASURED)):
        second, steps = make(tmp_path / "shared", f"head={head}", *words)
        assert second != first and steps == []
        alone, steps = make(tmp_path / name, f"head={head}", *words)
        assert len(steps) == STEPS
        assert_same_outcome(second, alone)
        assert second.read()["trained"]["run_id"] == first.run_id
        assert second.read()["timings"] == first.read()["timings"]
        assert "trained" not in alone.read()


def test_every_key_that_is_said_to_follow_training_is_tried():
    """The list is checked by the runs above: a key that training reads would change their weights."""
    tried = {word.split("=")[0] for words in (*HEADS.values(), MEASURED) for word in words}
    for key in AFTER_TRAINING:
        assert any(word == key or word.startswith(f"{key}.") for word in tried), key


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
    assert "trained" not in second.read()


@pytest.mark.parametrize("damage", ["torn", "gone", "unreadable record", "not done"])
def test_a_run_that_cannot_hand_over_its_weights_is_passed_over(tmp_path, damage):
    first, _ = make(tmp_path, "head=none")
    if damage == "torn":
        first.weights_file.write_bytes(first.weights_file.read_bytes()[:1000])
    elif damage == "gone":
        first.weights_file.unlink()
    elif damage == "unreadable record":
        first.record_file.write_text("{")
    else:
        first.update(state=State.FAILED)
    second, steps = make(tmp_path, "head=none", "evaluation.label_images=1")
    assert len(steps) == STEPS
    assert "trained" not in second.read()


def test_an_interrupted_run_goes_on_from_its_own_checkpoint(tmp_path):
    words = ["head=none", "evaluation.label_images=1"]
    config = tiny_config(tmp_path, "method=psps", *words)
    run = Run(tmp_path, run_id(config, {"train": "points"}))
    with pytest.raises(KeyboardInterrupt):
        run_cell(run, config, "command", Interrupted(after_step=8))
    make(tmp_path, "head=none")
    _, steps = make(tmp_path, *words)
    assert steps == [7, 8, 9, 10]


def test_who_took_weights_over_names_the_run_that_trained_them(tmp_path):
    first, _ = make(tmp_path, "head=none")
    second, _ = make(tmp_path, "head=none", "evaluation.label_images=1")
    first.weights_file.unlink()
    third, steps = make(tmp_path, "head=none", "evaluation.label_images=0")
    assert steps == []
    assert third.read()["trained"] == second.read()["trained"]
    assert third.read()["trained"]["run_id"] == first.run_id


def test_a_grid_of_thresholds_trains_once_and_says_so(tmp_path):
    words = grid_words(tmp_path, "method=psps", "head.score_threshold=0.5,0.01,0.9")
    assert main(words) == 0
    records = runs_in(tmp_path)
    assert len(records) == 3
    trained = [record for record in records.values() if "trained" not in record]
    assert len(trained) == 1
    assert {r["trained"]["run_id"] for r in records.values() if "trained" in r} == {trained[0]["run_id"]}
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
