"""The report on disk: complete, escaped, self-contained, replaced as a whole."""

import base64
import hashlib
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from reports import build
from reports.build import build_report, main, markdown_table
from tests.reports.sweep import record, write_ablation, write_run, write_sweep


class Page(HTMLParser):
    """Tags with attributes, and the text by the tag that it is in."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text_in(self, tag):
        return [data for where, data in self.texts if where == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    write_sweep(results)
    return build_report(results, "demo").read_text(encoding="utf-8")


@pytest.fixture
def quick(monkeypatch):
    """Reports with a page of one word: what is tested is where files go."""
    monkeypatch.setattr(build, "page", lambda *_: "page")


def test_all_files_are_written(results):
    path = build_report(results, "demo")
    folder = results / "demo" / "report"
    assert path == folder / "index.html"
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == ["gallery/val_000003.png", "index.html", "sources.json", "table.csv", "table.md", "table.tex"]
    assert (folder / "table.md").read_text() == markdown_table(results, "demo")
    with Image.open(folder / "gallery" / "val_000003.png") as sheet:
        assert sheet.width > 2 * 360 and sheet.height > 3 * 240
    assert sorted(p.name for p in (results / "demo").iterdir()) == ["grid.json", "report"]  # nothing temporary stays


def test_text_from_files_is_escaped(page):
    parsed = Page(page)
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "runs"}, {}]
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not any(tag == "it" for tag, _ in parsed.tags) and not any(tag == "fast" for tag, _ in parsed.tags)
    assert any("<b>loss nan</b>" in text for text in parsed.text_in("pre"))
    data, _ = parsed.text_in("script")
    assert "<" not in data and "&" not in data
    assert "<b>loss nan</b>" in json.loads(data)["runs"]["p2m-s1"]["log"]
    assert "A demo & more" in parsed.text_in("h1")


def test_nothing_outside_is_asked_for(page):
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "action", "poster"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/png;base64,", "#"))
    script = parsed.text_in("script")[1]
    own = "".join(parsed.text_in("style")) + script.replace("http://www.w3.org/2000/svg", "")
    assert own and not re.search(r"url\((?!#)|@import|//[a-z]|fetch|XMLHttpRequest|innerHTML", own)
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_the_page_says_what_happened_and_where_numbers_come_from(page):
    text = " ".join(html.unescape(" ".join(data for _, data in Page(page).texts)).split())
    for expected in (
        "81.8 ± 4.3", "1 done, 1 diverged", "python -m benchmark.run grid=demo method=point2mask", "NoRecord",
        "PQ_c = SQ_c RQ_c in every class", "points per target: 1, boxes: 0, masks: 0", "seeds 0, 1", "Some CPU <fast>",
        "abc123", "fingerprints.points", "n is too small", "bitwise equal",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_page_has_every_row_twice_and_its_pictures(page):
    parsed = Page(page)
    assert [text for text in parsed.text_in("button") if text in ("psps", "point2mask", "fdd", "agmm")] == [
        "psps", "point2mask", "fdd", "agmm"
    ] * 2  # fmt: skip
    rows = [attributes["data-row"] for tag, attributes in parsed.tags if tag == "tr" and "data-row" in attributes]
    assert rows == ["0", "1", "2", "3"] * 2
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 9 and all(image["alt"] and image["width"] == "360" for image in images)
    texts = [" ".join(data.split()) for _, data in parsed.texts]
    assert "path distance: 0 to 25.2 px, bright is far" in texts and "sureness <b>" in texts and "How <far>." in texts


def test_a_new_report_replaces_the_old_one(results, quick):
    folder = build_report(results, "demo").parent
    (folder / "gallery" / "stale.png").write_text("old")
    build_report(results, "demo")
    assert not (folder / "gallery" / "stale.png").exists()


def test_the_same_records_make_the_same_page(results):
    first, second = (build_report(results, "demo").read_text(encoding="utf-8") for _ in range(2))
    assert first == second


def test_the_old_report_stays_if_a_new_one_fails(results, quick, monkeypatch):
    path = build_report(results, "demo")
    before = path.read_text()
    monkeypatch.setattr(build, "page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_report(results, "demo")
    assert path.read_text() == before
    assert sorted(p.name for p in (results / "demo").iterdir()) == ["grid.json", "report"]


def test_the_old_report_comes_back_if_it_cannot_be_replaced(results, quick, monkeypatch):
    path = build_report(results, "demo")
    before = path.read_text()
    rename = Path.rename

    def refuse(self, target):
        if self.name.startswith(".report.") and target.name == "report":
            raise PermissionError("read-only")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        build_report(results, "demo")
    assert path.read_text() == before


def test_command_line(results, quick, capsys):
    assert main(["grid=demo", f"results_dir={results}"]) == 0
    assert capsys.readouterr().out.strip() == str(results / "demo" / "report" / "index.html")
    assert main(["grid=other", f"results_dir={results}"]) == 1
    assert "known: demo" in capsys.readouterr().err
    for arguments in (["demo"], ["grid="], ["grid=demo", "colour=red"], ["grid=demo", "format=pdf"], ["check=yes"]):
        assert main(arguments) == 2
        assert "usage: python -m reports.build" in capsys.readouterr().err


FORMS = [("markdown", "# A demo &amp; more"), ("latex", "% \\usepackage"), ("csv", "label,")]


@pytest.mark.parametrize(("name", "start"), FORMS)
def test_one_form_is_printed_and_nothing_written(results, capsys, name, start):
    assert main(["grid=demo", f"results_dir={results}", f"format={name}"]) == 0
    assert capsys.readouterr().out.startswith(start)
    assert not (results / "demo" / "report").exists()


def test_a_form_is_of_one_grid(results, ablation, capsys):
    write_ablation(results)
    assert main([f"results_dir={results}", "format=csv"]) == 2
    assert "of grid=NAME" in capsys.readouterr().err


def test_photographs_are_left_out_on_demand(results, quick, monkeypatch):
    asked = []
    original = build.load_gallery
    monkeypatch.setattr(build, "load_gallery", lambda table, wanted: asked.append(wanted) or original(table, wanted))
    assert main(["grid=demo", f"results_dir={results}", "photographs=false"]) == 0
    build_report(results, "demo")
    assert asked == [False, True]


def test_all_grids_and_the_reproduction_tables(results, quick, tmp_path, capsys):
    write_ablation(results)
    to = tmp_path / "to"
    assert main(["grid=all", f"results_dir={results}", f"to={to}"]) == 0
    assert (results / "demo" / "report" / "index.html").exists()
    written = sorted(path.name for path in to.iterdir())
    assert written == ["claims.md", "reproduction_paper.md"]  # runs without a scale are of none
    assert main([f"results_dir={tmp_path / 'none'}"]) == 1
    assert "There is no grid" in capsys.readouterr().err


def test_a_page_of_runs_that_go_on_says_so(tmp_path):
    write_run(tmp_path, record("a", "psps", 0, state="running"))
    write_run(tmp_path, record("b", "psps", 1))
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "grid.json").write_text(json.dumps({"runs": ["a", "b"]}))
    text = " ".join(data for _, data in Page(build_report(tmp_path, "g").read_text()).texts)
    assert "1 of 2 runs were not finished when this page was made" in text and "reports.build grid=g" in text


def test_reports_need_no_torch(results):
    code = (
        "import sys; from reports.build import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and 'mmdet' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "grid=demo", f"results_dir={results}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
