"""Grids made of grids, and cells that start from the network of another run."""

from __future__ import annotations

import json
import multiprocessing
import shlex
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

import benchmark.grid as grid_module
from benchmark.checkpoint import load_network, save_weights
from benchmark.configs import ConfigError, names_in
from benchmark.data.errors import DataError
from benchmark.expand import expand
from benchmark.grid import Block, GridDefinition, Member, load_grid, read_grid
from benchmark.grid_file import write_grid
from benchmark.plan import plan
from benchmark.request import Request, command_for, is_chosen, read_request
from benchmark.run import main, write_grids
from benchmark.runs import Run, State
from tests.benchmark.test_plan import Known
from tests.benchmark.tiny_runs import grid_words, runs_in

SCALES = ("demo", "paper")
COMPOSED = {"ablations_voc": (137, 135), "main_voc": (24, 29), "main_coco": (22, 23), "fidelity_voc": (32, 30)}
"""Grid -> cells at each of SCALES; main_coco is meant for paper_coco, where it has 24."""


@cache
def cells_of(name, scale):
    return expand(load_grid(name), [f"scale={scale}"])


def grid(name, *blocks, **changes):
    return GridDefinition(name, name, ["scale=demo"], list(blocks), **changes)


PSPS = grid("first", Block({"method.temperature": ["0.07", "0.1"]}, ("method=psps",)))
FDD = grid("second", Block({"method.temperature": ["0.07", "0.2"]}, ("method=psps",)), Block({"method": ["fdd"]}))


# --- composing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSED)
def test_the_grids_of_the_papers_are_the_cells_of_their_members_each_once(name):
    for scale, count in zip(SCALES, COMPOSED[name], strict=True):
        cells = cells_of(name, scale)
        configs = {json.dumps([cell.config, cell.source and cell.source.config], sort_keys=True) for cell in cells}
        assert len(cells) == len(configs) == count
        assert {cell.config["scale"] for cell in cells} == {scale}


def test_ablations_are_those_of_all_methods():
    members = {member.grid.name for member in load_grid("ablations_voc").members}
    main_tables = {"p2m_voc", "p2m_coco", "p2m_points", "p2m_pretrained", "p2m_fidelity", "psps_fidelity", "fdd_fidelity",
                   "fdd_voc", "fdd_coco"}  # fmt: skip
    assert members - {"agmm_assignment", "agmm_mixture"} == {
        name for name in names_in("grid") if name.startswith(("p2m_", "psps_", "fdd_", "anchor_"))
    } - main_tables
    methods = {cell.config["method"]["name"] for cell in cells_of("ablations_voc", "paper")}
    assert {"psps", "point2mask", "fdd", "anchor_query", "agmm"} <= methods


def test_the_default_setting_of_a_method_is_one_run_in_all_its_ablations():
    cells = cells_of("ablations_voc", "demo")
    of_members = [len(cells_of(member.grid.name, "demo")) for member in load_grid("ablations_voc").members]
    assert sum(of_members) - len(cells) > 20


def test_a_shared_cell_is_named_by_its_first_member():
    both = grid("both", members=(Member(PSPS), Member(FDD)))
    cells = expand(both, [])
    assert [(cell.grid, cell.axes) for cell in cells] == [
        ("first", {"grid": "first", "method.temperature": "0.07"}),
        ("first", {"grid": "first", "method.temperature": "0.1"}),
        ("second", {"grid": "second", "method.temperature": "0.2"}),
        ("second", {"grid": "second", "method": "fdd"}),
    ]


def test_overrides_of_the_member_of_the_grid_and_of_the_user_win_in_this_order():
    def epochs(of_member=(), of_grid=(), of_user=()):
        whole = GridDefinition("g", "g", ["scale=demo", *of_grid], [], members=(Member(PSPS, tuple(of_member)),))
        return {cell.config["schedule"]["steps"] for cell in expand(whole, list(of_user))}

    words = [f"schedule.steps={n}" for n in (1, 2, 3)]
    assert epochs([words[0]]) == {1} and epochs([words[0]], [words[1]]) == {2}
    assert epochs([words[0]], [words[1]], [words[2]]) == {3}


def test_seeds_of_the_command_then_of_the_grid_then_of_the_member():
    member = replace(PSPS, seeds=[5])

    def seeds(of_grid=None, of_user=None):
        return sorted({cell.seed for cell in expand(grid("g", seeds=of_grid, members=(Member(member),)), [], of_user)})

    assert seeds() == [5] and seeds([1, 2]) == [1, 2] and seeds([1, 2], [7]) == [7]


def test_a_member_without_a_block_at_the_scale_is_passed_over():
    elsewhere = replace(FDD, blocks=[replace(block, scales={"paper": []}) for block in FDD.blocks])
    assert {cell.grid for cell in expand(grid("g", members=(Member(PSPS), Member(elsewhere))), [])} == {"first"}
    with pytest.raises(ConfigError, match="nothing at scale=demo"):
        expand(grid("g", members=(Member(elsewhere),)), [])


@pytest.mark.parametrize(
    ("name", "scale"), [("ablations_voc", "demo"), ("fidelity_voc", "paper"), ("main_voc", "paper"), ("main_coco", "demo")]
)
def test_the_command_of_a_cell_selects_it(name, scale):
    """Also of a cell that several grids have; of one that starts from another run, both."""
    for cell in cells_of(name, scale)[::3]:
        request = read_request(shlex.split(command_for(Request(name, [f"scale={scale}"]), cell))[3:])
        (again,) = (c for c in expand(load_grid(request.grid), request.overrides, request.seeds) if is_chosen(c, request))
        assert again.config == cell.config
        assert (again.source and again.source.config) == (cell.source and cell.source.config)


def test_a_grid_file_names_its_members_with_overrides(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text("title: T\noverrides: [scale=demo]\ngrids: [p2m_units, p2m_assignment: [method.beta=0.3]]\n")
    betas = Counter(cell.config["method"]["beta"] for cell in expand(read_grid(path), []) if cell.grid == "p2m_assignment")
    assert list(betas) == [0.3]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("title: T\ngrids: [nonesuch]\n", "Unknown grid 'nonesuch'"), ("title: T\n", "neither blocks nor grids"),
        ("title: T\nblocks: [{axes: {}, scales: {demo: []}, init_from: {paper: []}}]\n", "different scales"),
    ],
)
def test_a_wrong_grid_of_grids_is_one_sentence(tmp_path, text, part):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part):
        read_grid(path)


def test_a_grid_that_is_part_of_itself_is_said(tmp_path, monkeypatch):
    (tmp_path / "grid").mkdir()
    for name, member in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / "grid" / f"{name}.yaml").write_text(f"title: T\ngrids: [{member}]\n")
    monkeypatch.setattr(grid_module, "CONF", tmp_path)
    monkeypatch.setattr(grid_module, "names_in", lambda _: ["a", "b", "c"])
    with pytest.raises(ConfigError, match="'a' is part of itself: a > b > c > a"):
        load_grid("a")


def test_members_have_grid_files_of_their_own_with_all_their_cells(tmp_path):
    both = grid("both", members=(Member(PSPS), Member(FDD)))
    request = Request("both", [f"results_dir={tmp_path}"])
    write_grids(both, plan(both, request, Known()), request, Known())
    whole, first, second = (
        json.loads((tmp_path / folder / "grid.json").read_text()) for folder in ("both", "both/first", "both/second")
    )
    assert [len(content["runs"]) for content in (whole, first, second)] == [4, 2, 3]
    assert set(first["runs"]) | set(second["runs"]) == set(whole["runs"])


def write_often(folder, number):
    cells = expand(PSPS, [])
    for _ in range(300):
        write_grid(folder, PSPS, [(cell, Run(folder, f"run-{number}" * 200)) for cell in cells])


def test_a_grid_file_that_two_commands_write_is_always_whole(tmp_path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_often, args=(tmp_path, number)) for number in range(2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers) or not seen:
        if (tmp_path / "grid.json").exists():
            seen.add(tuple(json.loads((tmp_path / "grid.json").read_text())["runs"]))
    assert all(len(set(runs)) == 1 for runs in seen)  # each as one of them wrote it
    assert [path.name for path in tmp_path.iterdir()] == ["grid.json"]


# --- cells that start from another run --------------------------------------------------------------------------------


def pretrained(**changes):
    start = ["dataset.name=other", "dataset.train.seed=7"]
    return grid("p", replace(Block({"method": ["psps"]}, scales={"demo": []}, init_from={"demo": start}), **changes))


def test_the_run_that_a_cell_starts_from_shares_its_axes_seed_and_words():
    (cell,) = expand(pretrained(), ["schedule.steps=5", "init_from.dataset.val.count=3"], [4])
    source = cell.source.config
    assert cell.config["dataset"]["name"] == "scenes" and source["dataset"]["name"] == "other"
    for config in (cell.config, source):
        assert (config["method"]["name"], config["schedule"]["steps"], config["seed"]) == ("psps", 5, 4)
    assert (source["dataset"]["train"]["seed"], source["dataset"]["val"]["count"]) == (7, 3)
    assert cell.config["dataset"]["val"]["count"] == 64


def test_where_the_data_lie_is_said_for_each():
    words = ["dataset=coco_panoptic", "dataset.root=here", "init_from.dataset.root=there"]
    (cell,) = expand(pretrained(init_from={"demo": ["dataset.name=other"]}), words)
    assert (cell.config["dataset"]["root"], cell.source.config["dataset"]["root"]) == ("here", "there")
    (cell,) = expand(pretrained(init_from={"demo": ["dataset.name=other"]}), words[:2])
    assert cell.source.config["dataset"]["root"] is None


def test_words_for_a_start_where_there_is_none_are_refused():
    with pytest.raises(ConfigError, match=r"'init_from\.seed=3' is for runs that cells start from, but no cell of 'first'"):
        expand(PSPS, ["init_from.seed=3"])


def test_a_missing_data_set_of_the_start_names_the_words_for_it(tmp_path, capsys):
    words = ["grid=p2m_pretrained", "scale=mini", f"results_dir={tmp_path}", "dataset.root=nowhere"]
    assert main(words) == 2
    out = capsys.readouterr().out
    assert "other_photographs" in out and "init_from.dataset.root=FOLDER" in out and out.count("\n") == 1


def test_rows_pretrained_on_coco_have_the_papers_two_schedules():
    cells = {cell.paper_row: cell for cell in cells_of("p2m_pretrained", "paper")}
    assert set(cells) == {f"Point2Mask {backbone}, COCO" for backbone in ("R50", "R101", "Swin-L")}
    on_coco = {
        cell.config["model"]["name"]: cell.config for cell in cells_of("p2m_coco", "paper_coco")
        if cell.config["method"]["name"] == "point2mask"
    }
    for cell in cells.values():
        source = cell.source.config
        assert cell.config["schedule"]["epochs"] == 24 and cell.config["schedule"]["batch_size"] == 8
        same = on_coco[source["model"]["name"]]
        named = {**source, "dataset": {**source["dataset"], "name": same["dataset"]["name"]}}
        assert named == same  # the very run of p2m_coco, when that is run with dataset.name=coco


def test_a_start_is_planned_before_its_cell_and_is_no_row_of_the_table(tmp_path):
    request = Request("p", [f"results_dir={tmp_path}"])
    planned = plan(pretrained(), request, Known())
    (source, first), (cell, second) = planned
    assert source.starts_others and cell.config["init_from"] == first.run_id
    write_grid(tmp_path, pretrained(), planned)
    content = json.loads((tmp_path / "grid.json").read_text())
    assert content["runs"] == [second.run_id] and content["pretraining"] == [first.run_id]


def test_a_start_that_is_a_cell_as_well_is_a_row(tmp_path):
    both = pretrained()
    both.blocks.append(Block({"method": ["psps"]}, ("dataset.name=other", "dataset.train.seed=7")))
    planned = plan(both, Request("p", [f"results_dir={tmp_path}"]), Known())
    assert [cell.starts_others for cell, _ in planned] == [False, False]
    assert planned[1][0].config["init_from"] == planned[0][1].run_id


def test_only_the_network_is_loaded_and_the_labeler_stays_fresh(tmp_path):
    words = ["scale=demo", "method=psps"]
    (trained,), (other,) = (models(tmp_path, *words, f"seed={seed}") for seed in (0, 1))
    path = tmp_path / "w.safetensors"
    save_weights(path, trained)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    assert load_network(path, other) == []
    after, weights = other.state_dict(), load_file(path)
    network = {id(t) for m in other.network_modules() for t in (*m.parameters(), *m.buffers())}
    loaded = {name for name, tensor in other.state_dict(keep_vars=True).items() if id(tensor) in network}
    assert {name.split(".")[0] for name in loaded} == {"encoder", "head"}
    for name, tensor in after.items():
        assert torch.equal(tensor, weights[name] if name in loaded else before[name]), name


def models(results, *words):
    from benchmark.build import build_model
    from benchmark.configs import compose_run
    from benchmark.data.sources import build_source

    config = compose_run([*words, f"results_dir={results}"])
    torch.manual_seed(config["seed"])
    yield build_model(config, build_source(config["dataset"], "train").categories)


def test_a_head_of_other_classes_begins_afresh_and_another_encoder_is_refused(tmp_path):
    (model,) = models(tmp_path, "scale=demo", "method=psps")
    path = tmp_path / "w.safetensors"
    save_weights(path, model)
    weights = load_file(path)
    classes = next(name for name in weights if name.startswith("head."))
    save_file({**weights, classes: torch.zeros(3)}, path)
    assert load_network(path, model) == [classes]
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.backbone.")}
    save_file(kept, path)
    with pytest.raises(DataError, match="another network"):
        load_network(path, model)
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be read"):
        load_network(path, model)


@pytest.mark.slow
def test_a_start_runs_first_and_its_failure_skips_the_cell_until_it_is_repeated(tmp_path, monkeypatch):
    words = grid_words(
        tmp_path, "scale=demo", "method=semantics_nearest", "init_from.dataset.val.count=2", "report=false",
        grid="p2m_pretrained",
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.stages.train", lambda *_: 1 / 0)
        assert main(words) == 1
    records = list(runs_in(tmp_path).values())
    assert sorted(record["state"] for record in records) == ["failed", "skipped"]
    (skipped,) = [record for record in records if record["state"] == "skipped"]
    assert skipped["config"]["init_from"] in skipped["reason"]["message"] and "failed" in skipped["reason"]["message"]
    assert main([*words, "retry=failed"]) == 0
    cell, source = sorted(runs_in(tmp_path).values(), key=lambda record: record["config"]["init_from"] is None)
    assert cell["state"] == source["state"] == State.DONE
    assert cell["config"]["init_from"] == source["run_id"] == cell["provenance"]["fingerprints"]["start"]
    assert source["finished"] <= cell["started"]


@pytest.mark.slow
def test_a_grid_of_grids_has_reports_of_its_own_and_of_its_members(tmp_path, monkeypatch, capsys):
    near, true = (grid(name, Block({"method": methods}, ("head=none",))) for name, methods in (
        ("near", ["nearest_point", "oracle_nearest"]), ("true", ["oracle_nearest", "oracle_geodesic"])
    ))
    whole = grid("whole", members=(Member(near), Member(true)))
    monkeypatch.setattr("benchmark.run.load_grid", lambda name: whole)
    assert main(grid_words(tmp_path, grid="whole")) == 0
    assert len(runs_in(tmp_path)) == 3
    out = capsys.readouterr().out
    labels = {"nearest_point", "oracle_nearest", "oracle_geodesic"}
    absent = {"whole": set(), "whole/near": {"oracle_geodesic"}, "whole/true": {"nearest_point"}}
    for folder, missing in absent.items():
        table = (tmp_path / folder / "report" / "table.md").read_text()
        assert {label for label in labels if f"| {label} " in table} == labels - missing
        assert (tmp_path / folder / "report" / "index.html").exists()
    assert str(tmp_path / "whole" / "report" / "index.html") in out
