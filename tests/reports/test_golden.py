"""The made-up sweeps give the committed Markdown, LaTeX and CSV: a change of any of them is seen in review."""

import csv
import io

import pytest

from tests.reports.golden import FOLDER, GRIDS, all_forms

AGAIN = "if the change is wanted: python -m tests.reports.golden"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return all_forms(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", [f"{grid}.{form}" for grid in GRIDS for form in ("md", "tex")])
def test_text_is_the_committed_one(made, name):
    assert made[name] == (FOLDER / name).read_text(encoding="utf-8"), AGAIN


@pytest.mark.parametrize("grid", GRIDS)
def test_numbers_are_the_committed_ones(made, grid):
    found, expected = (list(csv.reader(io.StringIO(text))) for text in (
        made[f"{grid}.csv"], (FOLDER / f"{grid}.csv").read_text(encoding="utf-8")))  # fmt: skip
    assert found[0] == expected[0] and len(found) == len(expected), AGAIN
    for line, wanted in zip(found[1:], expected[1:], strict=True):
        for title, value, number in zip(found[0], line, wanted, strict=True):
            same = _number(value) == pytest.approx(_number(number), rel=1e-9) if _is_number(number) else value == number
            assert same, title


def _is_number(text):
    return text.replace(".", "", 1).replace("e-", "", 1).isdigit()


def _number(text):
    return float(text) if _is_number(text) else None


def test_the_ablation_has_verdicts_and_a_claim_that_holds(made):
    text = made["p2m_sinkhorn_iterations.md"]
    assert "80 Sinkhorn iterations are best." in text and "| holds" in text
    assert "above" in text and "has the data set, scale, network, supervision and, where it is known, schedule" in text
