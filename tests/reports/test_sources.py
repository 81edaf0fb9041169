"""A report that is older than its records is recognised."""

import json

import pytest

from reports import build, sources
from reports.build import build_report, main
from reports.sources import staleness


@pytest.fixture
def built(results, monkeypatch):
    monkeypatch.setattr(build, "page", lambda *_: "page")
    build_report(results, "demo")
    return results


def test_a_fresh_report_is_up_to_date(built, capsys):
    assert staleness(built, "demo") == ""
    assert main([f"results_dir={built}", "check=true"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_grid_without_a_report_says_so(results):
    assert staleness(results, "demo") == "demo has no report yet."


@pytest.mark.parametrize("change", ["record", "new", "grid", "papers"])
def test_what_changed_is_named(built, change, monkeypatch, tmp_path, capsys):
    run = built / "runs" / "psps-s0" / "run.json"
    if change == "record":
        run.write_text(run.read_text() + " ")
    elif change == "new":
        (built / "runs" / "fdd-s0").mkdir()
        (built / "runs" / "fdd-s0" / "run.json").write_text("{}")
    elif change == "grid":
        (built / "demo" / "grid.json").write_text((built / "demo" / "grid.json").read_text() + "\n")
    else:
        (tmp_path / "papers").mkdir()
        (tmp_path / "papers" / "new.yaml").write_text("corrected")
        monkeypatch.setattr(sources, "FOLDER", tmp_path / "papers")
    name = {"record": "psps-s0", "new": "fdd-s0", "grid": "grid.json", "papers": "papers"}[change]
    assert staleness(built, "demo") == f"The report of demo is stale: {name} changed since it was made."
    if change != "papers":
        assert main([f"results_dir={built}", "check=true"]) == 1
        assert "stale" in capsys.readouterr().out
        build_report(built, "demo")
        assert staleness(built, "demo") == ""


def test_many_changes_are_counted(built):
    for path in built.glob("runs/*/run.json"):
        path.write_text("{}")
    assert " and 2 more changed" in staleness(built, "demo")


@pytest.mark.parametrize("content", [None, "[1, 2", json.dumps([3])])
def test_a_report_without_its_sources_says_so(built, content):
    path = built / "demo" / "report" / "sources.json"
    path.unlink() if content is None else path.write_text(content)
    assert "does not say what it was made from" in staleness(built, "demo")


def test_a_report_is_stale_when_a_member_of_its_grid_changed(composed, monkeypatch):
    monkeypatch.setattr(build, "page", lambda *_: "page")
    build_report(composed, "whole")
    assert staleness(composed, "whole") == ""
    path = composed / "whole" / "p2m_units" / "grid.json"
    path.write_text(path.read_text() + "\n")
    changed = "whole/p2m_units/grid.json changed since it was made."
    assert staleness(composed, "whole") == f"The report of whole is stale: {changed}"
