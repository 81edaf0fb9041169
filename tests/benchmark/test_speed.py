"""The measuring program: its harness, its references and its files. Nothing here asks how fast anything is."""

from __future__ import annotations

import gc
import itertools
import json
import math
import mmap
import os

import numpy as np
import pytest
import torch

from benchmark.data.sources import build_source
from benchmark.metrics import PanopticQuality
from benchmark.speed import commands, geodesic, harness, inputs, loading, memory, plain, quality, sinkhorn, tree
from benchmark.speed.command import SECTIONS, main
from benchmark.speed.harness import Agreement, Budget, Settings, closeness, compare, interleaved, same_labels
from benchmark.speed.record import Record, describe
from benchmark.speed.rows import COMPARISONS, STEPS, Table, comparison_row, error_row, measurement_row, ratios, summary
from benchmark.speed.steps import step_row, take_turns
from benchmark.speed.tables import document, duration, judgements, render, times
from benchmark.speed.targets import Target
from benchmark.speed.training import Trainer, cells
from methods.ops.geodesic import NEIGHBOURS
from methods.ops.grid_dijkstra import grid_graph
from methods.ops.transport import solve_transport
from methods.point2mask.spanning_tree import spanning_tree
from methods.point2mask.tree_energy import tree_filter
from tests.benchmark.panoptic_maps import CATEGORIES, encode, oracle, random_sample

CPU = torch.device("cpu")
SETTINGS = Settings(CPU, 1, quick=True, tell=lambda line: None)
TINY_SCENES = (
    "scale=demo", "input.short=64", "input.long=64", "schedule.batch_size=2", "dataset.train.count=4", "dataset.val.count=1",
    "dataset.size=64", "dataset.stuff_only=0",
)  # fmt: skip


class FakeTime:
    """A clock that calls move on by what they cost."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def call(self, name, cost):
        def run():
            self.order.append(name)
            self.now += cost

        return run

    def __call__(self):
        return self.now


# --- the harness --------------------------------------------------------------------------------------------------------


def test_calls_take_turns_until_the_budget_is_used():
    time = FakeTime()
    seconds = interleaved({"a": time.call("a", 1.0), "b": time.call("b", 3.0)}, Budget(13, least=1), CPU, time)
    assert time.order == ["a", "b"] * 3  # a fourth round would end after 16 seconds
    assert seconds == {"a": [1.0] * 3, "b": [3.0] * 3}


@pytest.mark.parametrize(("budget", "rounds"), [(Budget(0, least=4), 4), (Budget(1e9, least=1, most=6), 6)])
def test_rounds_have_a_least_and_a_most(budget, rounds):
    time = FakeTime()
    assert len(interleaved({"a": time.call("a", 1.0)}, budget, CPU, time)["a"]) == rounds


def test_the_collector_works_between_rounds_only():
    seen = []
    interleaved({"a": lambda: seen.append(gc.isenabled())}, Budget(0, least=2), CPU)
    assert seen == [False, False] and gc.isenabled() and gc.get_freeze_count() == 0
    with pytest.raises(ZeroDivisionError):
        interleaved({"a": lambda: 1 / 0}, Budget(0), CPU)
    assert gc.isenabled()


def test_quick_settings_take_one_round():
    assert SETTINGS.budget(20) == Budget(1, 1)
    assert Settings(CPU, 1).budget(20, least=3) == Budget(20, 3)


def test_threads_are_pinned_and_given_back():
    before = torch.get_num_threads()
    with harness.pinned(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_summaries_are_medians_and_quartiles_and_ratios_are_taken_within_rounds():
    assert summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3, "lower": 2, "upper": 4, "rounds": [4, 1, 2, 3, 5]}
    with pytest.raises(ValueError, match="no round"):
        summary([])
    # the machine was ten times slower in the last round: the ratio is not
    row = comparison_row("case", "other", {"ours": [1, 2, 10], "other": [3, 6, 30]}, {}, Target(3, at_least=True))
    assert row["ratio"]["rounds"] == [3, 3, 3] and row["met"] is True and row["target"] == "≥ 3x"
    assert ratios([1, 2], [2, 1]) == [0.5, 2]


def test_what_differs_is_an_error_and_is_not_timed():
    calls = []

    def value(name, number):
        return lambda: calls.append(name) or np.array([number])

    wrong = compare("case", "other", value("a", 1.0), value("b", 1.1), lambda a, b: closeness(a, b, 1e-3), Budget(0), CPU)
    assert calls == ["a", "b"] and "results differ: largest difference 0.1" in wrong["error"] and "ratio" not in wrong
    right = compare("case", "other", value("a", 1.0), value("b", 1.0), lambda a, b: closeness(a, b, 1e-3), Budget(0), CPU)
    assert "error" not in right and len(right["ratio"]["rounds"]) == 5 and right["agreement"]["largest difference"] == 0


def test_closeness_and_labels():
    inf = math.inf
    assert closeness(np.array([1, inf, 100.0]), torch.tensor([1, inf, 100.01]), 1e-3).same
    assert not closeness(np.array([1, inf, 100.0]), np.array([1, inf, 101.0]), 1e-3).same
    assert not closeness(np.array([1, inf]), np.array([1, 2.0]), 1e9).same
    assert not closeness(np.array([math.nan]), np.array([math.nan]), 1e9).same
    with pytest.raises(ValueError, match="shape"):
        closeness(np.zeros(2), np.zeros(3), 1)
    assert same_labels(torch.arange(10), np.arange(10), 1.0).same
    labels = torch.arange(10)
    labels[0] = 5
    assert same_labels(labels, torch.arange(10), 0.9) == Agreement(True, {"equal labels": 0.9})
    assert not same_labels(labels, torch.arange(10), 0.95).same


def test_targets():
    assert Target(5, at_least=True).met(5) and not Target(5, at_least=True).met(4.99)
    assert Target(0.05, at_least=False, unit="%").met(0.05) and not Target(3, at_least=False, unit="s").met(3.1)
    told = [str(Target(0.05, False, "%")), str(Target(1.25, False)), str(Target(3, True, "s"))]
    assert told == ["≤ 5 %", "≤ 1.25x", "≥ 3 s"]


# --- the files ----------------------------------------------------------------------------------------------------------


def section(value, title="table", **changes):
    rows = [measurement_row("case", value, "s", Target(3, at_least=False, unit="s"))]
    return describe([Table(title, "measurements", "a note", rows)], "cpu", 1, False, 2.0) | changes


def test_measuring_a_section_again_keeps_the_others(tmp_path):
    found = Record(tmp_path / "speed", "cpu")
    found.put("tree", section(1.0, measured="then"), tuple(SECTIONS))
    found.put("geodesic", section(2.0), tuple(SECTIONS))
    found.put("geodesic", section(4.0), tuple(SECTIONS))
    content = json.loads(found.file.read_text())
    assert list(content["sections"]) == ["geodesic", "tree"]  # in the order of the program
    values = {name: each["tables"][0]["rows"][0]["value"] for name, each in content["sections"].items()}
    assert values == {"geodesic": 4.0, "tree": 1.0} and content["sections"]["tree"]["measured"] == "then"
    page = found.page.read_text()
    assert "Targets met: 1 of 2." in page and "- geodesic, table: case" in page and "Measured then" in page
    assert page == document(content)


def test_a_section_says_what_made_it():
    origin = section(1.0)["provenance"]
    assert {"revision", "dirty", "python", "packages", "hardware"} <= origin.keys()
    assert {"torch", "numpy", "numba", "scipy", "POT", "hotcoco"} <= origin["packages"].keys()
    assert origin["hardware"]["device"] == "cpu" and origin["hardware"]["threads"] == 1
    told = json.dumps(origin)
    assert os.uname().nodename not in told and os.getcwd() not in told


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    found = Record(tmp_path, "cpu")
    found.put("tree", section(1.0), tuple(SECTIONS))
    before = found.file.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("benchmark.runs.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        found.put("tree", section(9.0), tuple(SECTIONS))
    assert found.file.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu.json", "cpu.md"]


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99, "device": "cpu"}', '{"schema": 1, "device": "cuda"}'])
def test_a_foreign_file_is_not_overwritten(tmp_path, content, capsys):
    (tmp_path / "cpu.json").write_text(content)
    assert main([f"out={tmp_path}", "only=geodesic"]) == 2
    assert "cpu.json" in capsys.readouterr().out and (tmp_path / "cpu.json").read_text() == content


def test_pages_show_errors_bounds_and_what_was_missed():
    bound = comparison_row("b", "POT", {"ours": [1.0], "POT": [30.0]}, {"error": 1e-9}, Target(20, at_least=True))
    rows = [
        comparison_row("a", "SciPy", {"ours": [0.002], "SciPy": [0.003]}, {"error": math.inf}, Target(2, at_least=True)),
        bound | {"lower_bound": True}, error_row("c", "the results differ", "NumPy"),
    ]  # fmt: skip
    table = Table("title", COMPARISONS, "", rows).to_json()
    lines = render(table)
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
    assert "| a | 2 ms | SciPy | 3 ms | 1.5x (1.5 to 1.5) | 1 | ≥ 2x | **no** |" in lines[2]
    assert "≥ 30x" in lines[3] and "| yes | error 1e-09 |" in lines[3]
    assert lines[4].startswith("| c, against NumPy | **error: the results differ** |")
    assert judgements([table]) == [
        ("title: a, against SciPy", False), ("title: b, against POT", True), ("title: c, against NumPy", None),
    ]  # fmt: skip
    assert times({"median": 2.411, "lower": 2.0, "upper": 1470.2}) == "2.41x (2 to 1,470)"
    assert [duration(s) for s in (12.34, 0.1234, 1.2e-5, 1234.0)] == ["12.3 s", "123 ms", "12 µs", "1234 s"]


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["onyl=tree"], "Unknown word 'onyl'; did you mean 'only'?"),
        (["only=tree,geodesics"], "Unknown section 'geodesics'; did you mean 'geodesic'?"),
        (["device=gpu"], "Unknown device 'gpu'"),
        (["threads=0"], "threads=0"),
        (["quick"], "'quick' is not understood"),
    ],
)
def test_a_word_that_cannot_be_used_is_answered_in_a_sentence(words, message, capsys, tmp_path):
    assert main([*words, f"out={tmp_path}"]) == 2
    assert message in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(capsys, tmp_path):
    assert main(["device=cuda", f"out={tmp_path}"]) == 2
    assert "device=cuda needs a CUDA device" in capsys.readouterr().out


@pytest.fixture
def environment(monkeypatch):
    """What the command sets is put back."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA", "RAYON"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", "1")


def test_a_section_from_the_command_line_to_its_files(tmp_path, monkeypatch, capsys, environment):
    Record(tmp_path, "cpu").put("tree", section(1.0), tuple(SECTIONS))
    monkeypatch.setattr(geodesic, "SIDES", (16, 20))
    monkeypatch.setattr(geodesic, "SCALING_SIDE", 16)
    assert main(["quick=true", "only=geodesic", "threads=2", f"out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "cpu.json").read_text())
    assert list(content["sections"]) == ["geodesic", "tree"]
    measured = content["sections"]["geodesic"]
    against, scaling = measured["tables"]
    assert [row["case"] for row in against["rows"]] == ["16 x 16", "16 x 16", "20 x 20", "20 x 20"]
    assert all(row["ours"]["median"] > 0 and row["ratio"]["rounds"] for row in against["rows"])
    assert {f"images: 4, sources: 10, threads: {threads}" for threads in (1, 2)} <= {row["case"] for row in scaling["rows"]}
    assert measured["quick"] is True and measured["provenance"]["hardware"]["threads"] == 2
    assert "## geodesic" in (tmp_path / "cpu.md").read_text() and "## tree" in (tmp_path / "cpu.md").read_text()
    assert "Written" in capsys.readouterr().out


def test_every_section_is_told_of_in_the_help(capsys):
    assert main(["help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n                           {name} " in f"\n{told}" for name in SECTIONS)


def test_a_wrong_kernel_is_an_error_of_its_section(monkeypatch):
    monkeypatch.setattr(geodesic, "SIDES", (16,))
    right = geodesic.geodesic_distances
    monkeypatch.setattr(geodesic, "geodesic_distances", lambda costs, sources: 1.001 * right(costs, sources))
    table = next(geodesic.measure(SETTINGS, None))
    assert len(table.rows) == 2 and all("results differ" in row["error"] for row in table.rows)


# --- the references -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (4, 5)])
def test_the_plain_shortest_paths_are_those_of_relaxing_every_edge(size):
    rng = np.random.default_rng(0)
    costs = rng.random((*size, 8)) * (rng.random((*size, 8)) < 0.7)
    costs[rng.random(costs.shape) < 0.2] = np.inf
    cells = list(np.ndindex(size))
    distance = {cell: 0.0 if cell == cells[-1] else math.inf for cell in cells}
    for _ in cells:
        for (row, col), (k, (down, right)) in itertools.product(cells, enumerate(NEIGHBOURS)):
            there = (row + down, col + right)
            if there in distance:
                cost = float(np.float32(costs[row, col, k]))
                distance[there] = min(distance[there], distance[row, col] + cost)
    found = plain.scipy_distances(grid_graph(costs), [len(cells) - 1])
    np.testing.assert_allclose(found[0], [distance[cell] for cell in cells], rtol=1e-12)


def test_the_plain_iterations_by_hand():
    cost, supply, demand, eps = [[0.0, 0.3, 0.1], [0.2, 0.0, 0.4]], [2.0, 1.0], [1.0, 1.0, 1.0], 0.1
    u, v = [1.0, 1.0], [1.0, 1.0, 1.0]
    for _ in range(3):
        for j in range(3):
            total = sum(math.exp((u[i] - cost[i][j]) / eps) for i in range(2))
            v[j] = eps * (math.log(demand[j] + 1e-8) - math.log(total))
        for i in range(2):
            total = sum(math.exp((v[j] - cost[i][j]) / eps) for j in range(3))
            u[i] = eps * (math.log(supply[i] + 1e-8) - math.log(total))
    problem = [torch.tensor(each, dtype=torch.float64) for each in (cost, supply, demand)]
    found = plain.two_logsumexp_sinkhorn(*problem, eps, 3)
    plan = [[math.exp((u[i] + v[j] - cost[i][j]) / eps) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(found.plan(problem[0], eps), plan, rtol=1e-9)
    assert found.labels(problem[0]).tolist() == np.argmax(plan, axis=0).tolist()


def path_products(image, sigma):
    """(n, n) affinities along the spanning tree that Kruskal's algorithm gives: links by weight, then by cell."""
    _, height, width = image.shape
    links = []
    for row, col, (down, right) in itertools.product(range(height), range(width), ((0, 1), (1, 0))):
        if row + down < height and col + right < width:
            squared = float(((image[:, row, col] - image[:, row + down, col + right]) ** 2).sum())
            links.append((squared, row * width + col, (row + down) * width + col + right))
    part = list(range(height * width))
    affinity = np.eye(height * width)
    for squared, a, b in sorted(links, key=lambda link: link[0]):
        if part[a] == part[b]:
            continue
        first = [cell for cell, own in enumerate(part) if own == part[a]]
        second = [cell for cell, own in enumerate(part) if own == part[b]]
        joined = math.exp(-squared / sigma) * np.outer(affinity[first, a], affinity[b, second])
        affinity[np.ix_(first, second)], affinity[np.ix_(second, first)] = joined, joined.T
        for cell in second:
            part[cell] = part[a]
    return affinity


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (2, 2), (5, 6)])
@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_the_plain_tree_filter_is_the_dense_matrix_of_its_tree(size, levels):
    rng = np.random.default_rng(levels)
    image = rng.integers(0, levels, (3, *size)) / levels  # few levels: many equal links
    probs, gradient = rng.random((2, 4, *size))
    affinity = path_products(image, 0.3)
    levels_of_tree = plain.scipy_tree(plain.ranked_graph(image), image, 0.3)
    filtered, backward = plain.numpy_tree_filter(probs, gradient, levels_of_tree)
    flat = probs.reshape(4, -1), gradient.reshape(4, -1)
    np.testing.assert_allclose(filtered.reshape(4, -1), flat[0] @ affinity / affinity.sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(backward.reshape(4, -1), flat[1] / affinity.sum(axis=0) @ affinity, rtol=1e-9)
    # and it is the filter of this project, tree by tree
    leaf = torch.from_numpy(probs).requires_grad_()
    ours = tree_filter(leaf, None, 0.3, tree=spanning_tree(torch.from_numpy(image)))
    ours.backward(torch.from_numpy(gradient))
    np.testing.assert_allclose(ours.detach(), filtered, rtol=1e-9)
    np.testing.assert_allclose(leaf.grad, backward, rtol=1e-9)


def test_the_plain_panoptic_rule_equals_hotcoco(tmp_path):
    pytest.importorskip("hotcoco")
    rng = np.random.default_rng(7)
    samples = [random_sample(rng) for _ in range(60)]
    images = [(s["prediction_ids"], s["prediction_segments"], s["target_ids"], s["target_segments"]) for s in samples]
    sums, expected = plain.panoptic_sums(images, CATEGORIES), oracle(tmp_path, samples)["per_class"]
    for category in CATEGORIES:
        ours, theirs = sums[category["name"]], expected[category["id"]]
        assert [ours[key] for key in ("tp", "fp", "fn")] == [theirs[key] for key in ("tp", "fp", "fn")]
        assert ours["iou"] == pytest.approx(theirs["iou"], rel=1e-12) and min(ours["tp"], ours["fp"], ours["fn"]) > 0


def test_plain_ids_are_those_of_the_colours(tmp_path):
    from PIL import Image

    ids = np.array([[0, 1, 255], [256, 65536, 2**24 - 1]])
    Image.fromarray(encode(ids)).save(tmp_path / "ids.png")
    assert (plain.plain_ids(tmp_path / "ids.png") == ids).all()


# --- inputs and sections ------------------------------------------------------------------------------------------------


def test_inputs_are_what_the_kernels_take(tmp_path):
    assert inputs.colours((20, 30), 0).shape == (3, 20, 30)
    probabilities = inputs.probabilities((20, 30), 5, 0)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(20, 30))
    cost, supply, demand = inputs.transport_problem(4, (20, 30), 0)
    assert cost.shape == (4, 600) and cost.dtype == torch.float32 and cost.isfinite().all() and (supply > 0).all()
    assert float(supply.sum()) == pytest.approx(600) == float(demand.sum())
    assert len(np.unique(inputs.random_cells((5, 6), 30, 0), axis=0)) == 30
    inputs.write_photographs(tmp_path, (30, 40), train=2, val=1)
    config = {"kind": "coco_panoptic", "name": "photographs", "root": str(tmp_path), "json": "panoptic_{split}.json",
              "masks": "panoptic_{split}", "images": "{split}"}  # fmt: skip
    source = build_source(config, "train")
    assert len(source.records) == 2 and len(build_source(config, "val").records) == 1
    assert source.read_image(source.records[0]).shape == (30, 40, 3)
    _, ids, category_of = inputs.scene((30, 40), 0)
    annotation = source.read_annotation(source.records[0])
    assert (annotation.ids == ids).all() and {s["id"] for s in annotation.segments} == category_of.keys()


@pytest.mark.parametrize("seed", range(6))
def test_pairs_of_maps_are_valid_and_imperfect(seed):
    target, prediction = inputs.panoptic_pair((120, 160), seed)
    metric = PanopticQuality(quality.CATEGORY_DICTS)
    metric.update(prediction["ids"], prediction["segments_info"], target["ids"], target["segments_info"])
    assert 0 < metric.compute().pq < 1
    assert (target["ids"] == 0).any() and (prediction["ids"] == 0).any()


def test_panoptic_files_are_scored_alike_by_all(tmp_path, monkeypatch):
    pytest.importorskip("hotcoco")
    files = quality.Files(tmp_path, images=6, size=(60, 80))
    ours = files.ours()
    assert sum(sums["tp"] for sums in ours.values()) > 0
    assert quality.same_sums(ours, files.plain()).same and quality.same_sums(ours, files.hotcoco()).same
    changed = {name: {**sums, "fp": sums["fp"] + 1} for name, sums in ours.items()}
    assert not quality.same_sums(ours, changed).same


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    files = quality.Files(tmp_path, 1, (40, 50))
    monkeypatch.setattr(quality, "Files", lambda folder: files)
    rows = quality._on_files(tmp_path, SETTINGS).rows
    assert "hotcoco is not installed" in rows[0]["error"] and not any("error" in row for row in rows[1:])
    monkeypatch.setattr(sinkhorn, "find_spec", lambda name: None)
    assert all("POT is not installed" in row["error"] for row in sinkhorn._converged(SETTINGS).rows)


def test_misplaced_mass():
    plan, supply, demand = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1.0, 1.0]), np.array([1.0, 1.0])
    assert sinkhorn.misplaced(plan, supply, demand) == pytest.approx(0.5)  # the columns have 1.5 and 0.5
    assert sinkhorn.misplaced(np.eye(2), supply, demand) == 0


def test_pot_arrives_or_is_stopped():
    cost, supply, demand = (each.double() for each in inputs.transport_problem(3, (12, 16), 0))
    arrays = cost.numpy(), supply.numpy(), demand.numpy()
    arrived = sinkhorn.run_pot(*arrays, eps=0.2, limit=60)
    assert arrived.error <= sinkhorn.ERROR and arrived.iterations % sinkhorn.POT_CHUNK == 0
    ours = solve_transport(cost, supply, demand, eps=0.2, tolerance=1e-9)
    np.testing.assert_allclose(arrived.plan, ours.plan(), atol=1e-5)
    stopped = sinkhorn.run_pot(*arrays, eps=1e-3, limit=1e-9)
    assert stopped.iterations == sinkhorn.POT_CHUNK and stopped.error > sinkhorn.ERROR


def test_a_stopped_pot_is_a_lower_bound_that_misses_no_target(monkeypatch):
    problem = inputs.transport_problem(3, (12, 16), 0)
    monkeypatch.setattr(sinkhorn, "POT_SECONDS", 1e-9)
    row = sinkhorn._against_pot("case", problem, 1e-3, SETTINGS)
    assert row["lower_bound"] is True and row["met"] in (True, None) and "stopped at an error of" in row["note"]


def test_sections_of_kernels_agree_on_small_sizes(monkeypatch):
    monkeypatch.setattr(tree, "SIZES", ((9, 16),))
    monkeypatch.setattr(sinkhorn, "SIZES", ((12, 16), (10, 20)))
    tables = [*tree.measure(SETTINGS, None), sinkhorn._iterations(SETTINGS)]
    assert [len(table.rows) for table in tables] == [3, 4]
    assert not [row for table in tables for row in table.rows if "error" in row]


# --- training steps -----------------------------------------------------------------------------------------------------


def test_a_row_of_steps_judges_the_higher_ratio():
    def rounds(data, pseudo_labels, rest):
        step = {"data": data, "forward": rest, "pseudo_labels": pseudo_labels, "step": data + pseudo_labels + rest}
        return [step, step, step]

    reference = rounds(1.0, 0.0, 1.0)
    def row_of(own):
        return step_row("a", own, (own, reference), from_points=True, targeted=True)

    row = row_of(rounds(0.5, 0.1, 1.2))
    assert row["ratio"]["median"] == pytest.approx(1.8 / 2) and row["ratio_without_data"]["median"] == pytest.approx(1.3)
    assert row["met"] is False  # slow loading of masks hides nothing
    assert row["share"]["median"] == pytest.approx(0.1 / 1.3) and row["share_met"] is False
    row = row_of(rounds(1.7, 0.01, 1.0))
    assert row["met"] is False and row["share_met"] is True  # nor does what was moved into the loader
    assert row_of(rounds(1.0, 0.01, 1.1))["met"] is True
    assert step_row("a", reference, (reference, reference), from_points=False, targeted=False)["met"] is None
    pair = (rounds(1.0, 0.01, 1.6), reference)  # the ratio is that of the pair, stages are those of all methods in turn
    row = step_row("a", rounds(1.0, 0.01, 1.0), pair, from_points=True, targeted=True)
    assert row["met"] is False and row["step"]["median"] == pytest.approx(2.01)
    alone = step_row("a", reference, None, from_points=True, targeted=True)
    assert alone["ratio"] is None and alone["met"] is None
    lines = render(Table("t", STEPS, "", [row, alone, error_row("b", "a loss is not finite")]).to_json())
    assert len({line.count("|") for line in lines}) == 1


def test_only_what_trains_on_points_may_be_judged():
    rows = [step_row("a", [{"data": 0.0, "step": 1.0}], None, from_points=False, targeted=False)]
    assert judgements([Table("t", STEPS, "", rows).to_json()]) == []


def test_a_trainer_takes_the_steps_of_training(tmp_path):
    config = next(cell.config for cell in cells(TINY_SCENES, tmp_path) if cell.config["method"]["name"] == "psps")
    trainer = Trainer(config, CPU)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.warm_up(small=True)
    taken = take_turns({"a": trainer}, Budget(0, least=2))["a"]
    stages = {"data", "forward", "pseudo_labels", "losses", "backward", "optimizer", "rest"}
    for seconds in taken:
        assert seconds.keys() == stages | {"step"}
        assert sum(seconds[stage] for stage in stages) == pytest.approx(seconds["step"])
        assert all(value >= 0 for value in seconds.values())
    moved = [name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > 0.9 * len(before) and all(p.grad is None for p in trainer.model.parameters())
    rates = loading.images_per_second(config, trainer.model, 0, 0.0, CPU)
    assert rates["median"] > 0


def test_methods_come_from_the_grid(tmp_path):
    configs = [cell.config for cell in cells(TINY_SCENES, tmp_path)]
    trained = [config["method"]["name"] for config in configs if config["head"]["name"] != "none"]
    assert {"psps", "point2mask", "fdd", "anchor_query", "agmm", "full_masks", "nearest_point"} <= set(trained)
    assert all(config["results_dir"] == str(tmp_path) for config in configs)
    oracle_config = next(config for config in configs if config["head"]["name"] == "none")
    assert Trainer(oracle_config, CPU).trainable is False


def test_the_images_that_a_gpu_wants(tmp_path):
    cpu, cuda = Record(tmp_path, "cpu"), Record(tmp_path, "cuda")
    rows = [step_row(str(s), [{"data": 9.0, "step": 9.0 + s}], None, True, False) for s in (0.5, 0.25)]
    table = Table(loading.PAPER.title, STEPS, "", [*rows, error_row("x", "out of memory")])
    for each in (cpu, cuda):
        assert loading.wanted_images(each)[0] == loading.ASSUMED_WANTED
        each.put("steps", describe([table], "cpu", 1, False, 1.0), tuple(SECTIONS))
    assert loading.wanted_images(cpu) == (loading.ASSUMED_WANTED, "assumed: no GPU was measured")
    assert loading.wanted_images(cuda) == (pytest.approx(8.0), "the step of 0.25, measured here")


# --- commands and memory ------------------------------------------------------------------------------------------------


def test_whether_a_command_loads_torch_is_seen(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("")  # a stand-in: only its name counts
    (tmp_path / "with_it.py").write_text("import sys, torch\nassert sys.argv[1:] == ['a=1']\nprint('answer')\nsys.exit(0)")
    (tmp_path / "without_it.py").write_text("print('answer')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert commands.loads_torch(["with_it", "a=1"]) and not commands.loads_torch(["without_it"])
    assert commands.answer(["without_it"]) == "answer\n"


def test_a_command_that_fails_is_an_error_row(tmp_path):
    table = commands._table(["grid=nosuch", f"results_dir={tmp_path}"], tmp_path, SETTINGS)
    (row,) = table.rows
    assert "Unknown grid 'nosuch'" in row["error"].replace("\n", " ") and str(tmp_path) not in row["error"]


def test_the_slope_of_memory_is_that_of_the_settled_part():
    samples = [(step, 100.0 + 50 * min(step, 400) / 400 + 0.003 * step) for step in range(10, 2001, 10)]
    assert memory.slope(samples) == pytest.approx(3.0)


@pytest.mark.skipif(not memory.STATM.exists(), reason="resident memory is read from /proc")
def test_resident_memory_grows_with_what_is_kept():
    before = memory.resident()
    with mmap.mmap(-1, 60_000_000) as kept:  # fresh pages: the heap may have room from before
        kept.write(b"1" * 60_000_000)
        grown = memory.resident() - before
    assert 55 < grown < 130


@pytest.mark.slow
def test_memory_is_sampled_while_all_methods_train(monkeypatch):
    monkeypatch.setattr(memory, "WORDS", TINY_SCENES)
    found = memory.take_steps(CPU, 2 * memory.EVERY)
    assert [step for step, _ in found["resident memory"]] == [memory.EVERY, 2 * memory.EVERY]
