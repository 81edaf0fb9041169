"""Runs that start from the network of another one: their records tell what that network had read."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from benchmark.initial import start_of
from benchmark.run import main
from benchmark.runs import Run
from tests.benchmark.tiny_runs import grid_words, runs_in


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Records of full_masks, of a run on points that starts from it, of one that starts from that, of one from a file."""
    results = tmp_path_factory.mktemp("results")
    tiny = ("report=false", "schedule.steps=2", "evaluation.label_images=0", "evaluation.gallery_images=0")

    def made(*words):
        known = runs_in(results).keys()
        assert main(grid_words(results, *tiny, *words)) == 0
        (name,) = runs_in(results).keys() - known
        return runs_in(results)[name]

    first = made("method=full_masks")
    second = made("method=semantics_nearest", f"init_from={first['run_id']}")
    third = made("method=nearest_point", f"init_from={second['run_id']}")
    file = results / "taken.safetensors"
    shutil.copyfile(Run(results, first["run_id"]).weights_file, file)
    fourth = made("method=nearest_point", f"init_from={file}")
    return results, first, second, third, fourth


def test_a_record_tells_what_its_start_had_read(chain):
    _, first, second, third, fourth = chain
    assert "start" not in first["supervision"]
    assert (second["supervision"]["kind"], second["supervision"]["masks"]) == ("points", 0)
    expected = {"weights": first["run_id"], "data_set": "scenes", **first["supervision"]}
    assert second["supervision"]["start"] == expected and expected["kind"] == "masks"
    assert third["supervision"]["start"] == {"weights": second["run_id"], "data_set": "scenes", **second["supervision"]}
    assert fourth["supervision"]["start"]["kind"] == "unknown"
    assert fourth["supervision"]["start"]["weights"].startswith("sha256:")


def test_a_start_that_says_nothing_of_its_own_start_is_unknown_from_there(chain, tmp_path):
    """As records have it that are older than the key."""
    results, _, second, _, _ = chain
    copy = Run(tmp_path, second["run_id"])
    shutil.copytree(Run(results, second["run_id"]).folder, copy.folder)
    old = json.loads(copy.record_file.read_text())
    del old["supervision"]["start"]
    copy.record_file.write_text(json.dumps(old))
    start = start_of({"init_from": copy.run_id, "results_dir": str(tmp_path)})
    assert start.supervision()["start"] == {"weights": old["config"]["init_from"], "kind": "unknown"}
    copy.record_file.unlink()
    assert start.supervision() == {"weights": copy.run_id, "kind": "unknown"}


def test_a_start_of_another_base_version_is_refused(chain, tmp_path):
    results, first, *_ = chain
    copy = Run(tmp_path, first["run_id"])
    shutil.copytree(Run(results, first["run_id"]).folder, copy.folder)
    start = start_of({"init_from": copy.run_id, "results_dir": str(tmp_path)})
    assert start.missing() == ""
    text = copy.record_file.read_text()
    copy.record_file.write_text(re.sub(r'"version": \d+', '"version": 99', text))
    assert start.missing() == ""  # its method made labels; the network is what counts
    copy.record_file.write_text(re.sub(r'"base_version": \d+', '"base_version": 99', text))
    assert "was made by version 99 of what all methods share" in start.missing()
