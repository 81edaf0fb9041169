"""Run folders: atomic records, and what a broken one says."""

import json
import os

import pytest
import torch

from benchmark.data.errors import DataError
from benchmark.execute import _message
from benchmark.runs import Run, State, run_id, write_json_atomically


def test_a_record_grows_and_keeps_what_was_written(tmp_path):
    run = Run(tmp_path, "a-1")
    assert run.read() is None
    assert run.state == State.PLANNED
    run.update(state=State.RUNNING, seed=3)
    run.update(state=State.DONE)
    assert run.state == State.DONE
    assert run.read()["seed"] == 3
    assert json.loads(run.record_file.read_text())["state"] == "done"


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomically(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"run_id": "other"}'])
def test_a_broken_record_says_which_file_and_what_to_do(tmp_path, content):
    run = Run(tmp_path, "a-1")
    run.folder.mkdir(parents=True)
    run.record_file.write_text(content)
    with pytest.raises(ValueError, match=r"run\.json.*delete the folder"):
        run.read()


def test_where_the_files_of_a_points_folder_lie_is_not_what_a_run_computes():
    def name(kind, **places):
        dataset = {"name": "d", "kind": kind, "points": {"count": 1}, "images": "a", "val": {"json": "a"}} | places
        config = {"precision": "auto", "dataset": dataset, "method": {"label": "m"}, "scale": "mini", "seed": 0}
        return run_id(config, {"train": "t"})

    assert name("points_folder") == name("points_folder", images="b", val={"json": "b"}, categories="c")
    assert name("points_folder") != name("points_folder", redistributable=False)
    assert name("coco_panoptic") != name("coco_panoptic", images="b")  # there it is a pattern


class BrokenData(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise KeyError("first")
        except KeyError as error:
            raise DataError("The image a.png is broken: DataError: it ends early.\nMake it again.") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_the_message_of_a_loaders_worker_is_the_sentence_that_it_told(workers):
    with pytest.raises(DataError) as caught:
        list(torch.utils.data.DataLoader(BrokenData(), num_workers=workers))
    assert _message(caught.value) == "The image a.png is broken: DataError: it ends early.\nMake it again."
