"""The reproduction tables: every number and claim of the papers, beside ours or as not run."""

import json
import re

import pytest

from benchmark.papers import load_paper, paper_names
from reports.claims import judge_claims
from reports.grids import load_grid
from reports.reproduction import write_reproductions
from reports.tables import result_table
from tests.reports.sweep import record, write_ablation, write_run


@pytest.fixture(scope="module")
def text(ablation, tmp_path_factory):
    path, claims = write_reproductions(ablation, tmp_path_factory.mktemp("to"))
    assert (path.name, claims.name) == ("reproduction_paper.md", "claims.md")
    return path.read_text(encoding="utf-8")


def test_cells_have_ours_gap_and_verdict(text):
    lines = [line for line in text.splitlines() if re.match(r"\| (80|120) +\|", line)]
    assert len(lines) == 2
    for line, printed, verdict in zip(lines, ("53.8", "52.2"), ("above", "within noise"), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:4] == ["VOC, R50, P1", "PQ", printed] and cells[6:] == [verdict, "p2m_sinkhorn_iterations"]
        mean = float(re.match(r"([\d.]+) ± [\d.]+ \(n=3\)$", cells[4])[1])
        assert float(cells[5]) == pytest.approx(mean - float(printed), abs=0.11)


def test_claims_are_judged_or_listed_as_not_run(text):
    assert "| 80 Sinkhorn iterations are best. |" in text and "2 holds" in text
    missing = [claim.sentence for name in paper_names() for claim in load_paper(name).claims
               if claim.name != "point2mask/sinkhorn_iterations"]  # fmt: skip
    assert all(f"* {sentence}" in text for sentence in missing)


def test_numbers_without_a_cell_are_not_run(text):
    assert re.search(r"\| VOC P1 +\| VOC, R50, P1 +\| PQ +\| +49.8 \| +– \| +– \| not run", text)
    assert "JTSM" not in text  # another method, no cell of ours
    assert "summary page, apparently" not in text and "57" not in re.findall(r"full supervision \| .*", text)


def test_claims_of_a_composed_grid_are_told_once(composed):
    path, _ = write_reproductions(composed, composed / "to")
    text = path.read_text()
    for sentence in ("80 Sinkhorn iterations are best.", "Centroid unit numbers are best."):
        assert text.count(f"| {sentence}") == 1, sentence
    members = [load_grid(composed, f"whole/{name}") for name in ("p2m_units", "p2m_sinkhorn_iterations")]
    judged = [claim for member in members for claim in judge_claims(member, result_table(member))]
    assert f"{len(judged)} holds" in text and len(judged) == len({(j.claim.name, j.metric) for j in judged})


def test_every_scale_has_a_table_and_the_row_with_most_seeds_counts(tmp_path):
    write_ablation(tmp_path / "r", shifts={"80": 2})
    config = {"scale": "demo", "model": {"name": "tiny"}, "dataset": {"name": "scenes", "points": {"count": 1}}}
    write_run(tmp_path / "r", record("alone", "psps", 0, config=config))
    (tmp_path / "r" / "z").mkdir()
    once = "p2m_sinkhorn_iterations-80-s0"
    cells = [{"run_id": "alone", "axes": {"a": "1"}}, {"run_id": once, "axes": {"a": "2"}, "paper_row": "80"}]
    content = {"runs": ["alone", once], "paper_table": "point2mask/A2", "cells": cells}
    (tmp_path / "r" / "z" / "grid.json").write_text(json.dumps(content))
    demo, paper, _ = write_reproductions(tmp_path / "r", tmp_path / "to")
    assert (demo.name, paper.name) == ("reproduction_demo.md", "reproduction_paper.md")
    assert "(n=3)" in paper.read_text() and "(n=1)" not in paper.read_text()
    assert "stands for: none" in demo.read_text()
