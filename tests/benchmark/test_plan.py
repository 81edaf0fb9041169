"""Planning: where a run stands whatever happened to its process, what would run, what it costs, and why not this run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from benchmark import configs
from benchmark.configs import ConfigError, compose_run
from benchmark.estimate import CHECKPOINT_COPIES, PastRuns, expected
from benchmark.fingerprints import DataFingerprints
from benchmark.grid import Block, Cell, GridDefinition
from benchmark.local import LocalLauncher
from benchmark.ownership import Owner, claim
from benchmark.plan import look, pending, plan, plan_run, settle, waves
from benchmark.plan_view import plan_view
from benchmark.request import Request
from benchmark.reuse import differences
from benchmark.run import main
from benchmark.runs import Run, State
from tests.benchmark.tiny_runs import ROOT, environment, grid_words, runs_in, tiny_config

REQUEST = Request("g", [])
RETRY = Request("g", [], retry="failed")
POINTS = {"train": "a", "val": "b"}


class Known:
    """Fingerprints of data that are not there."""

    def of(self, config):
        return DataFingerprints(POINTS, f"data of {config['dataset']['name']}")


def nobody(_owner):
    return False


def run_in_state(folder, state, **changes):
    run = Run(folder, "a")
    if state is not None:
        run.update(state=state, **changes)
    return run


# --- where a run stands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "why", "with_retry"),
    [
        (None, "missing", "missing"), (State.PLANNED, "planned", "planned"), (State.DONE, "", ""),
        (State.CANCELLED, "cancelled", "cancelled"), (State.TIMEOUT, "timeout", "timeout"),
        (State.NODE_FAILED, "node_failed", "node_failed"), (State.FAILED, "", "failed"), (State.DIVERGED, "", "diverged"),
        (State.OUT_OF_MEMORY, "", "out_of_memory"), (State.RUNNING, "interrupted", "interrupted"),
        (State.SUBMITTED, "submitted", "submitted"),
    ],
)  # fmt: skip
def test_what_failed_by_itself_waits_for_retry_and_the_rest_goes_on(tmp_path, state, why, with_retry):
    run = run_in_state(tmp_path, state)
    assert (pending(run, REQUEST), pending(run, RETRY)) == (why, with_retry)
    assert pending(run, replace(REQUEST, force="a")) == "forced"


@pytest.mark.parametrize("state", [State.PLANNED, State.RUNNING, State.SUBMITTED, State.CANCELLED, State.FAILED])
def test_a_run_that_somebody_works_on_is_left_alone(tmp_path, state):
    run = run_in_state(tmp_path, state)
    token = claim(run)
    found = look(run, RETRY)
    assert found.why == "" and found.owner == Owner.here()
    token.release()
    assert pending(run, RETRY) != ""


def test_a_record_of_before_there_were_claims_tells_its_owner(tmp_path):
    mine = {"host": Owner.here().host, "pid": os.getpid()}
    run = run_in_state(tmp_path, State.RUNNING, owner=mine)
    assert pending(run, REQUEST) == ""
    run.update(owner={**mine, "pid": 2**22 + 1})
    assert pending(run, REQUEST) == "interrupted"


def test_a_waiting_job_keeps_its_run_as_long_as_the_queue_has_it(tmp_path):
    run = run_in_state(tmp_path, State.SUBMITTED, owner={"job": "7_3.0"})
    assert look(run, REQUEST).owner == Owner(job="7_3.0") and pending(run, REQUEST) == ""
    assert pending(run, REQUEST, nobody) == "submitted"


def lost_run(folder, **changes):
    """A run whose record says that it runs, with a claim as if of another process."""
    run = run_in_state(folder, State.RUNNING, command="the command")
    claim(run)
    path = run.owner_folder / "000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return run


@pytest.mark.parametrize(
    ("changes", "state", "part"),
    [({"started": 1}, State.CANCELLED, "ended without a word"), ({"boot": "x"}, State.NODE_FAILED, "started again")],
)
def test_a_process_that_ended_without_a_word_is_written_down(tmp_path, changes, state, part):
    run = lost_run(tmp_path, **changes)
    settle(run)
    record = run.read()
    assert record["state"] == state and part in record["reason"]["message"]
    assert record["reason"]["command"] == "the command" and record["owner"] is None
    assert pending(run, REQUEST) == str(state)


def test_only_runs_whose_process_is_gone_are_settled(tmp_path):
    run = lost_run(tmp_path, host="far-away")
    settle(run)
    assert run.state == State.RUNNING  # nothing is known of that host
    settle(run, nobody)
    assert run.state == State.CANCELLED
    done = run_in_state(tmp_path / "b", State.DONE)
    settle(done)
    assert done.state == State.DONE


# --- composing many cells ---------------------------------------------------------------------------------------------


WORDS = [
    "seed=3", "method.beta=0.5", "method.beta=null", "schedule.lr=1e-3", "schedule.color_warmup=0.25",
    "method.color_warmup=0.1", "schedule.decay_at=[0.5,0.9]", "method.sobel={border: 3}", "method.sobel.border=7",
    "labels.edge_weight=0.3", "dataset.points.seed=9", "model.branch.layers=1", "method.layers=4", "+method.extra=1",
    "method.units='equal'", "model.branch.levels=2", "method.assignment=transport",
]  # fmt: skip
REFERRING = ["dataset.name=${scale}", "method.warmup=${schedule.lr}"]


@pytest.mark.parametrize("number", range(40))
def test_values_set_on_a_copy_are_those_that_hydra_and_omegaconf_set(number):
    """Any words in any order, beside all of them set and resolved by OmegaConf."""
    words = random.Random(number).choices(WORDS + REFERRING * (number % 2), k=8)
    groups = ("method=point2mask", "scale=demo")
    assert compose_run([*groups, *words]) == configs._resolved(groups, tuple(words))


def test_a_config_belongs_to_its_cell_alone():
    first = compose_run(["scale=demo"])
    first["schedule"]["decay_at"].append(1)
    first["method"]["warmup"] = "changed"
    assert compose_run(["scale=demo"]) != first


def test_a_cell_is_chosen_by_exactly_its_axis_values(tmp_path):
    axes = [{}, {"method.temperature": ["7.0e-2", "0.1"]}, {"method.projector.inputs": ["[map,level]"]}]
    blocks = [Block(values) for values in axes]
    grid = GridDefinition("g", "G", ["scale=demo", "method=psps", f"results_dir={tmp_path}"], blocks)

    def chosen(**cell):
        named = {axis.replace("__", "."): value for axis, value in cell.items()}
        return [c.axes for c, _ in plan(grid, replace(REQUEST, cell=named), Known())]

    assert chosen() == [{}]
    assert chosen(method__temperature=0.1) == [{"method.temperature": "0.1"}]
    assert chosen(method__projector__inputs=["map", "level"]) == [{"method.projector.inputs": "[map,level]"}]
    with pytest.raises(ConfigError, match="No cell of grid 'g' has exactly"):
        chosen(method__temperature=0.3)


@pytest.mark.slow
def test_planning_ten_thousand_cells(tmp_path, capsys):
    """How long it takes is printed, and for people to judge: machines differ."""
    values = [f"{(n + 1) * 1e-7:.7f}" for n in range(1000)]
    block = Block({"method": ["psps"], "schedule.lr": values})
    grid = GridDefinition("large", "Large", ["scale=demo"], [block], list(range(10)))
    request = Request("large", [f"results_dir={tmp_path}"])
    began, cpu = time.monotonic(), time.process_time()
    planned = plan(grid, request, Known())
    looks = [look(run, request) for _, run in planned]
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    with capsys.disabled():
        print(f"\nplanned {len(planned)} cells in {took:.1f} s ({cpu:.1f} s of this process)")
    assert len({run.run_id for _, run in planned}) == len(looks) == 10_000
    assert {found.why for found in looks} == {"missing"}


def test_a_plan_needs_no_torch_once_the_points_are_drawn(tmp_path):
    words = grid_words(tmp_path, "method=psps,nearest_point", "plan=true")
    code = f"import sys; from benchmark.run import main; main({words!r}); print('torch' in sys.modules)"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600,
            check=True,
        )
    assert done.stdout.splitlines()[-1] == "False"


def test_what_is_remembered_of_data_is_looked_at_again_when_a_file_changes(tmp_path):
    from benchmark.fingerprints import Fingerprints

    config = tiny_config(tmp_path)
    first = Fingerprints().of(config)
    memory = tmp_path / "points" / "fingerprints.json"
    entries = json.loads(memory.read_text())
    (entry,) = entries.values()
    entry["data"] = "from memory"
    memory.write_text(json.dumps(entries))
    assert Fingerprints().of(config).data == "from memory"
    assert Fingerprints(read_again=True).of(config) == first
    entry["data"] = "from memory"
    memory.write_text(json.dumps(entries))
    points = next(file for file in (tmp_path / "points").glob("*.npz"))
    os.utime(points, (1, 1))
    assert Fingerprints().of(config) == first
    memory.write_text("{")  # it is only a memory
    assert Fingerprints().of(config) == first


# --- runs that start from others --------------------------------------------------------------------------------------


def cell(folder, *words, **changes):
    return replace(Cell({}, 0, compose_run(["scale=demo", f"results_dir={folder}", *words]), "g"), **changes)


def test_a_null_start_is_no_part_of_a_runs_identity(tmp_path):
    plain = cell(tmp_path).config
    without = {key: value for key, value in plain.items() if key != "init_from"}
    assert plan_run(replace(cell(tmp_path), config=without), POINTS) == plan_run(cell(tmp_path), POINTS)
    assert plan_run(cell(tmp_path, "init_from=some-run"), POINTS) != plan_run(cell(tmp_path), POINTS)


def test_a_weights_file_counts_by_its_content(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, content in zip(paths, (b"one", b"one", b"two"), strict=True):
        path.write_bytes(content)
    first, same, other = (plan_run(cell(tmp_path, f"init_from={path}"), POINTS) for path in paths)
    assert first == same != other


def test_a_start_that_is_nowhere_is_one_sentence(tmp_path):
    grid = GridDefinition("g", "G", ["scale=demo", f"results_dir={tmp_path}"], [Block({"method": ["psps"]})])
    with pytest.raises(ConfigError, match=r"init_from=nowhere of psps.* neither a run"):
        plan(grid, Request("g", ["init_from=nowhere"]), Known())
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors is a weights file that does not exist"):
        plan(grid, Request("g", ["init_from=nowhere.safetensors"]), Known())


def test_runs_come_in_waves(tmp_path):
    first = cell(tmp_path)
    start = plan_run(first, POINTS)
    second = cell(tmp_path, f"init_from={start.run_id}")
    middle = plan_run(second, POINTS)
    third = cell(tmp_path, f"init_from={tmp_path}/runs/{middle.run_id}")
    alone = cell(tmp_path, "seed=1")
    cells = [(third, plan_run(third, POINTS)), (second, middle), (first, start), (alone, Run(tmp_path, "x"))]
    assert [[run.run_id for _, run in wave] for wave in waves(cells)] == [
        [start.run_id, "x"], [middle.run_id], [cells[0][1].run_id]
    ]
    assert waves(cells[:1]) == [cells[:1]]  # a start that is not among them is there, or it is skipped


def test_one_cell_of_each_training_comes_before_the_others(tmp_path):
    """Side by side they would not find each other's weights."""
    thresholds = [cell(tmp_path, f"head.score_threshold={value}") for value in (0.1, 0.2, 0.3)]
    others = [cell(tmp_path, "schedule.lr=1e-3"), cell(tmp_path, "seed=1")]
    cells = [(one, plan_run(one, POINTS)) for one in (*thresholds, *others)]
    assert waves(cells) == [[cells[0], cells[3], cells[4]], [cells[1], cells[2]]]


def test_cells_that_keep_weights_along_their_training_all_train(tmp_path):
    words = ["method=agmm_semantic", "model=deeplab_tiny", "head=none", "evaluation.candidates=2"]
    cells = [cell(tmp_path, *words, f"evaluation.multi_scale.scales=[{value}]") for value in (0.5, 1.0)]
    planned = [(one, plan_run(one, POINTS)) for one in cells]
    assert waves(planned) == [planned]


@pytest.mark.parametrize(("start_state", "why"), [(None, "skipped"), (State.FAILED, ""), (State.DONE, "skipped")])
def test_a_skipped_run_is_taken_up_when_its_start_is_there_or_on_the_way(tmp_path, start_state, why):
    start = Run(tmp_path, "start")
    if start_state is not None:
        start.update(state=start_state)
        start.weights_file.touch()
    run = run_in_state(tmp_path, State.SKIPPED, config=cell(tmp_path, "init_from=start").config)
    assert pending(run, REQUEST) == why
    assert pending(run, RETRY) == "skipped"


# --- what it would cost -----------------------------------------------------------------------------------------------


def finished(folder, name, hours, device="cpu", words=(), parameters=1_000_000):
    config = cell(folder, *words).config
    run = Run(folder, name)
    run.update(
        state=State.DONE, config=config, wall_seconds=hours * 3600, timings={"steps": 1},
        parameters={"network": parameters, "labeler": 0},
        provenance={"hardware": {"device": device}, "fingerprints": {"data": f"data of {config['dataset']['name']}"}},
    )


def test_past_runs_of_the_same_shape_are_the_measure(tmp_path):
    for number, hours in enumerate((1, 2, 9)):
        finished(tmp_path, f"psps-{number}", hours)
    finished(tmp_path, "fdd", 5, words=["method=fdd"])
    finished(tmp_path, "large", 50, words=["schedule.steps=10000"])
    finished(tmp_path, "gpu", 3, "cuda", ["model=r50", "devices=2"])
    past = PastRuns(tmp_path)

    def hours(*words):
        found = past.cost(cell(tmp_path, *words).config, "data of scenes")
        return found and found.hours

    assert hours() == 2 and hours("method=fdd") == 5 and hours("seed=3") == 2
    assert hours("method=agmm") == 3.5  # of any method, the median of four
    assert hours("model=r50") == 6  # on two devices
    assert hours("model=r101") is None and past.cost(cell(tmp_path).config, "other data") is None


def test_sums_of_hours_and_disk_say_what_they_leave_out(tmp_path):
    finished(tmp_path, "cpu", 2)
    finished(tmp_path, "gpu", 3, "cuda", ["model=r50"], parameters=2_000_000)
    words = ([], ["seed=1"], ["model=r50"], ["model=r101"])
    cells = [(c, plan_run(c, POINTS)) for c in (cell(tmp_path, *w) for w in words)]
    sums = expected(cells, Known())
    assert (sums.runs, sums.unknown, sums.cpu_hours, sums.gpu_hours) == (4, 1, 4, 3)
    assert sums.largest_passing_bytes == CHECKPOINT_COPIES * 4 * 2_000_000
    assert 16_000_000 <= sums.left_bytes < 16_100_000


def shown(cells, request, width=300):
    from rich.console import Console

    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - for as long as the test
    console.print(plan_view(cells, request, LocalLauncher(), Known()))
    return console.export_text()


def test_a_plan_counts_its_cells(tmp_path):
    cells = [(c, plan_run(c, POINTS)) for c in (cell(tmp_path, f"seed={n}") for n in range(6))]
    states = (State.DONE, State.FAILED, State.RUNNING, State.CANCELLED, State.RUNNING)
    for (_, run), state in zip(cells, states, strict=False):
        run.update(state=state)
    claim(cells[4][1])
    text = shown(cells, REQUEST)
    assert "6 cells: 1 done, 1 missing, 2 interrupted, 1 failed, 1 in work; retry=failed repeats 1. 3 would run." in text
    assert "No finished run is like the 3 to run" in text
    assert "4 would run" in shown(cells, RETRY)


def test_a_large_plan_shows_some_cells_and_counts_all(tmp_path):
    base = cell(tmp_path)
    cells = [(base, Run(tmp_path, f"r{n}")) for n in range(300)]
    text = shown(cells, REQUEST)
    assert "300 cells: 0 done, 300 missing, 0 failed. 300 would run." in text and "first 200 of 300" in text
    assert "r199" in text and "r200" not in text


# --- why not this run -------------------------------------------------------------------------------------------------


def recorded(folder, *words):
    config = cell(folder, *words).config
    run = plan_run(replace(cell(folder), config=config), POINTS)
    run.update(state=State.DONE, config=config, provenance={"fingerprints": {"points": POINTS["train"]}})
    return run


def test_the_keys_that_differ_from_the_nearest_cell_are_told(tmp_path):
    run = recorded(tmp_path, "schedule.lr=5e-4", "method.temperature=0.5")
    words = (["seed=1", "schedule.lr=5e-4"], ["schedule.lr=5e-4"], ["method=fdd"])
    cells = [(c, plan_run(c, POINTS)) for c in (cell(tmp_path, *w) for w in words)]
    nearest, found = differences(run.run_id, cells, Known())
    assert nearest == cells[1][1]
    assert [(d.key, d.run, d.cell) for d in found] == [("method.temperature", "0.5", "0.07")]


def test_other_points_are_a_difference_and_where_it_ran_is_none(tmp_path):
    run = recorded(tmp_path, "threads=3", "schedule.lr=5e-4")
    run.update(provenance={"fingerprints": {"points": "others"}})
    cells = [(c, plan_run(c, POINTS)) for c in [cell(tmp_path)]]
    _, found = differences(run.run_id, cells, Known())
    assert [d.key for d in found] == ["schedule.lr", "points.train"]


def test_a_run_that_is_a_cell_differs_in_nothing(tmp_path):
    run = recorded(tmp_path)
    assert differences(run.run_id, [(cell(tmp_path), run)], Known()) == (run, [])


def test_an_unknown_run_is_answered_with_the_known_ones(tmp_path):
    run = recorded(tmp_path, "seed=1")
    with pytest.raises(ConfigError, match=f"Unknown run.*Known: {run.run_id}"):
        differences("psps-demo", [(cell(tmp_path), plan_run(cell(tmp_path), POINTS))], Known())


def test_the_command_tells_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    words = grid_words(tmp_path, "method=nearest_point", "head=none", "report=false")
    assert main(words) == 0
    (run_id,) = runs_in(tmp_path)
    capsys.readouterr()
    assert main([*words, f"why={run_id}"]) == 0
    assert f"{run_id} is a cell of this grid: done" in capsys.readouterr().out
    assert main([*words, "schedule.lr=7e-4", f"why={run_id}"]) == 0
    out = capsys.readouterr().out
    assert "schedule.lr" in out and "0.0007" in out and "0.002" in out and "1 keys differ" in out
    assert main([*words, "why=nonesuch"]) == 2
