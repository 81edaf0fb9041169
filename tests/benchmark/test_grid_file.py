"""What a command does to the grid file that is there: a part of a comparison does not take the rest out of its report."""

from __future__ import annotations

import json

import pytest

from benchmark.run import main
from tests.benchmark.tiny_runs import grid_words


def listed(results, grid="quickstart"):
    return json.loads((results / grid / "grid.json").read_text())


def quick(results, *words):
    return grid_words(results, "head=none", "report=false", *words)


BOTH = "method=nearest_point,oracle_nearest"


@pytest.mark.parametrize(
    "part", ["method=nearest_point seeds=[0,1]", f"{BOTH} seeds=[1]", f"{BOTH} seeds=[1] cell={{method:nearest_point}}"]
)
def test_a_command_for_a_part_leaves_the_file_whole(tmp_path, capsys, part):
    assert main(quick(tmp_path, BOTH, "seeds=[0,1]")) == 0
    before = (tmp_path / "quickstart" / "grid.json").read_bytes()
    capsys.readouterr()
    assert main(quick(tmp_path, *part.split())) == 0
    assert (tmp_path / "quickstart" / "grid.json").read_bytes() == before
    if "cell=" not in part:
        assert "lists 4 runs, 2 of them asked for here" in capsys.readouterr().out


def test_other_runs_take_the_place_of_the_listed_ones_and_it_is_said(tmp_path, capsys):
    assert main(quick(tmp_path, BOTH, "seeds=[0,1]")) == 0
    capsys.readouterr()
    assert main(quick(tmp_path, "method=nearest_point", "seeds=[1,2]")) == 0
    assert [cell["seed"] for cell in listed(tmp_path)["cells"]] == [1, 2]
    assert "3 of 4 runs that" in capsys.readouterr().out


def test_one_cell_takes_its_place_among_the_others(tmp_path):
    """A cell that became another run (fewer labelled images) stands where the old one stood; one that is new comes last."""
    words = [BOTH, "seeds=[0,1]"]
    assert main(quick(tmp_path, *words)) == 0
    before = listed(tmp_path)
    assert main(quick(tmp_path, *words, "evaluation.label_images=1", "seeds=[1]", "cell={method:nearest_point}")) == 0
    after = listed(tmp_path)
    changed = [i for i, (a, b) in enumerate(zip(before["runs"], after["runs"], strict=True)) if a != b]
    assert [(before["cells"][i]["axes"]["method"], before["cells"][i]["seed"]) for i in changed] == [("nearest_point", 1)]
    assert main(quick(tmp_path, *words, "seeds=[5]", "cell={method:nearest_point}")) == 0
    assert listed(tmp_path)["runs"][:-1] == after["runs"] and listed(tmp_path)["cells"][-1]["seed"] == 5


def test_a_file_that_cannot_be_read_is_written_anew(tmp_path):
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "grid.json").write_text("{")
    assert main(quick(tmp_path, BOTH)) == 0
    assert len(listed(tmp_path)["runs"]) == 2


def test_a_cell_of_a_grid_of_grids_is_written_into_its_member_only(tmp_path):
    """Other members have no cell with these axis values."""
    words = ["scale=demo", "head=none", "cell={method.beta:0.5}"]
    assert main(grid_words(tmp_path, *words, grid="ablations_voc")) == 0
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("**/grid.json"))
    assert files == ["ablations_voc/grid.json", "ablations_voc/p2m_beta/grid.json"]
    assert len(listed(tmp_path, "ablations_voc")["runs"]) == 1
