"""The page in a real browser: what is laid out, loaded and clickable, on a narrow and a wide window, light and dark.

The page's own policy forbids foreign scripts, so a second page holds it in a frame of the wanted width (a frame may be
narrower than the least window of the browser), looks into it and leaves what it found as JSON in its own text.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from reports.build import build_report
from tests.reports.sweep import write_sweep

NAMES = ("chromium", "chromium-browser", "google-chrome")
NARROW, WIDE = 400, 1400

LOOK = r"""
const right = (cell) => { const range = document.createRange(); range.selectNodeContents(cell.firstChild);
                          return range.getBoundingClientRect().right; };
const light = (color) => color.match(/[\d.]+/g).slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const ground = light(getComputedStyle(page.body).backgroundColor);
  const contrast = (element) => { const [a, b] = [light(getComputedStyle(element).color), ground].sort((x, y) => x - y);
                                  return (b + 0.05) / (a + 0.05); };
  const tables = [...page.querySelectorAll("table.results")];
  const quality = tables[0], heads = [...quality.tHead.rows[quality.tHead.rows.length - 1].cells];
  const pq = heads.findIndex((head) => head.textContent === "PQ");
  const order = () => [...quality.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
  const found = {
    scrollWidth: root.scrollWidth, innerWidth: frame.contentWindow.innerWidth, ground,
    rows: tables.map((table) => [...table.tBodies[0].rows].map((row) => row.cells.length)),
    heads: tables.map((table) => [...table.tHead.rows].map((row) => [...row.cells].reduce((n, c) => n + c.colSpan, 0))),
    titles: heads.map((head) => [head.textContent, head.title]),
    digits: [...quality.tBodies[0].rows].map((row) => right(row.cells[pq])),
    images: [...page.images].map((image) => [image.naturalWidth, image.width, image.alt]),
    plots: [...page.querySelectorAll("figure.plot svg")].map((svg) => [svg.getBoundingClientRect().width,
      getComputedStyle(svg.querySelector("text")).fill, contrast(svg.querySelector("text"))]),
    claims: [...page.querySelectorAll("table.claims tbody tr")].map((row) => row.cells[2].textContent.trim()),
    outside: [...page.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1
      && !e.closest(".scroll")).map((e) => e.tagName),
    contrast: [".facts", ".about", ".terms dd", ".good", "tr.unfinished td"]
      .map((q) => page.querySelector(q)).filter(Boolean).map(contrast),
    before: order(),
  };
  heads[pq].querySelector("button").click();
  found.down = order();
  heads[pq].querySelector("button").click();
  found.up = order();
  const input = page.querySelector("input[data-filters]");
  const filter = (text) => { input.value = text; input.dispatchEvent(new Event("input"));
                             return [order(), page.getElementById("shown").textContent,
                                     [...tables[1].tBodies[0].rows].filter((row) => !row.hidden).length]; };
  found.filtered = filter(found.words = FILTER);
  found.nothing = filter("no such row")[0];
  found.all = filter("")[0];
  const dialog = page.getElementById("run");
  found.closed = dialog.open;
  [...quality.tBodies[0].rows].find((row) => row.cells[0].textContent === OPENED).cells[2].click();
  const box2 = dialog.getBoundingClientRect();
  found.panel = {
    open: dialog.open, title: dialog.querySelector("h2").textContent, text: dialog.textContent,
    heads: [...dialog.querySelectorAll("h3")].map((head) => head.textContent), bold: dialog.querySelectorAll("b").length,
    images: dialog.querySelectorAll("img").length, lines: dialog.querySelectorAll("polyline").length,
    inside: box2.left >= 0 && box2.right <= root.clientWidth + 1, contrast: contrast(dialog.querySelector(".body")),
  };
  dialog.querySelector("button.close").click();
  found.panel.closed = !dialog.open;
  const box = quality.closest(".scroll");
  box.scrollLeft = 10000;
  found.scrolled = box.scrollLeft;
  found.sticky = quality.tBodies[0].rows[0].cells[0].getBoundingClientRect().left - box.getBoundingClientRect().left;
  document.getElementById("found").textContent = JSON.stringify(found);
}
"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs a headless browser on a file: (file, flags) -> (DOM after loading, what was logged)."""
    paths = [path for path in map(shutil.which, NAMES) if path]
    runs = [path for path in paths if subprocess.run([path, "--version"], capture_output=True).returncode == 0]
    if not runs:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)}); on Debian: apt-get install chromium")
    profile = tmp_path_factory.mktemp("profile")

    def browse(file, *flags):
        command = [
            runs[0], "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
            f"--user-data-dir={profile}", f"--window-size={WIDE},1000", *flags, "--dump-dom", file.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, done.stderr

    return browse


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    write_sweep(results)
    return build_report(results, "demo")


@pytest.fixture(scope="module")
def look(browse, page, tmp_path_factory):
    """What the browser shows of a page in a frame, filtered by words and with a row opened: (width, flags) -> dict."""

    def look(width, *flags, page=page, words="point2mask", opened="point2mask"):
        outer = tmp_path_factory.mktemp("outer") / "outer.html"
        source = html.escape(page.read_text(encoding="utf-8"), quote=True)
        outer.write_text(
            f'<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            f"<script>const FILTER = {json.dumps(words)}, OPENED = {json.dumps(opened)};{LOOK}</script>"
            f'<pre id="found"></pre><iframe style="border:0;width:{width}px;height:900px" onload="look(this)" '
            f'srcdoc="{source}"></iframe>', encoding="utf-8",
        )  # fmt: skip
        dom, log = browse(outer, *flags)
        text = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]
        assert text, f"the page could not be looked into: {log[-2000:]}"
        return json.loads(html.unescape(text))

    return look


@pytest.fixture(scope="module")
def narrow(look):
    return look(NARROW)


@pytest.fixture(scope="module")
def wide(look):
    return look(WIDE, "--blink-settings=preferredColorScheme=0")


def complaints(log):
    return [line for line in log.splitlines() if "CONSOLE" in line]


def test_nothing_fails_to_load(browse, page):
    dom, log = browse(page)
    assert "<h1>A demo &amp; more</h1>" in dom
    assert complaints(log) == []


def test_a_failure_would_be_seen(browse, page, tmp_path):
    """The browser does log what the policy refuses: another script than the page's own."""
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text(encoding="utf-8").replace("</main>", "</main><script>1</script>"), encoding="utf-8")
    assert complaints(browse(broken)[1])


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_is_not_wider_than_the_window(width, narrow, wide):
    found = {NARROW: narrow, WIDE: wide}[width]
    assert found["innerWidth"] == width
    assert found["scrollWidth"] <= width and found["outside"] == []


def test_tables_have_a_cell_for_every_heading_in_every_row(wide):
    assert len(wide["rows"]) == 2
    for rows, heads in zip(wide["rows"], wide["heads"], strict=True):
        assert len(rows) == 4 and len(heads) == 2
        assert {*rows, *heads} == {rows[0]}
    assert all(title for _, title in wide["titles"])


def test_digits_of_equal_place_stand_below_each_other(wide):
    """Right edges of the means: 81.8 of "81.8 ± 4.3" and 84.9, which has no ±."""
    assert max(wide["digits"]) - min(wide["digits"]) < 0.5


def test_words_filter_rows_in_both_tables(wide):
    assert wide["filtered"] == [["point2mask"], "1 of 4 rows", 1]
    assert wide["nothing"] == [] and wide["all"] == wide["up"]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_a_click_opens_the_runs_of_a_row(width, narrow, wide):
    panel = {NARROW: narrow, WIDE: wide}[width]["panel"]
    assert panel["open"] and panel["closed"] and panel["inside"] and panel["title"] == "point2mask, P1"
    assert panel["heads"] == ["Seed 0: done", "Seed 1: diverged", "Pictures"]
    assert panel["images"] == 3  # its pseudo label, its distance map and its prediction
    assert "path distance: 0 to 25.2 px, bright is far, image 7" in panel["text"]
    assert "python -m benchmark.run grid=demo method=point2mask" in panel["text"]
    assert "<b>loss nan</b>" in panel["text"] and panel["bold"] == 0  # text from files stays text
    assert panel["contrast"] >= 4.5


def test_no_panel_is_open_at_first(narrow, wide):
    assert not narrow["closed"] and not wide["closed"]


@pytest.fixture(scope="module")
def ablated(look, ablation, tmp_path_factory):
    """The page of the ablation, of a copy of its results, its first row opened."""
    results = tmp_path_factory.mktemp("copy") / "results"
    shutil.copytree(ablation, results)
    page = build_report(results, "p2m_sinkhorn_iterations")
    return look(WIDE, "--blink-settings=preferredColorScheme=0", page=page, words="iterations 80 above", opened="point2mask")


def test_claims_and_plots_of_an_ablation(ablated):
    assert ablated["claims"] == ["holds", "holds"]
    assert len(ablated["plots"]) == 5
    for width, fill, contrast in ablated["plots"]:
        assert width > 200 and contrast >= 4.5
        assert fill == ablated["plots"][0][1]  # the page's own ink
    assert ablated["scrollWidth"] <= WIDE and ablated["outside"] == []


def test_the_panel_of_a_row_has_a_curve_for_every_seed(ablated):
    panel = ablated["panel"]
    assert panel["heads"] == ["Seed 0: done", "Seed 1: done", "Seed 2: done"]
    assert panel["lines"] == 3 * 3  # loss, labeler, head
    assert panel["title"] == "point2mask, P1, method.iterations=120"  # the first row, sorted by PQ
    assert "keybaselinethis runmethod.iterations40120" in panel["text"] and "95 % over seeds" in panel["text"]


def test_every_picture_of_the_gallery_is_decoded(narrow, wide):
    for found in (narrow, wide):
        assert len(found["images"]) == 9
        assert all(natural == 360 and 100 < shown <= 360 and alt for natural, shown, alt in found["images"])


def test_a_click_on_a_heading_sorts(wide):
    assert wide["before"] == ["psps", "point2mask", "fdd", "agmm"]
    assert wide["down"] == ["point2mask", "psps", "fdd", "agmm"]  # 84.9, 81.8, nothing
    assert wide["up"] == ["psps", "point2mask", "fdd", "agmm"]


def test_the_name_of_a_row_stays_while_a_narrow_table_scrolls(narrow):
    assert narrow["scrolled"] > 100
    assert abs(narrow["sticky"]) < 1


def test_text_is_readable_on_light_and_dark_ground(narrow, wide):
    assert narrow["ground"] > 0.9 and wide["ground"] < 0.1
    for found in (narrow, wide):
        assert min(found["contrast"]) >= 4.5  # WCAG 2 AA
