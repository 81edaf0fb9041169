"""The papers' tables as data: what is in them, that they are possible, and what a wrong file is answered with."""

import re

import pytest

from benchmark.configs import ConfigError, names_in
from benchmark.papers import all_claims, identity_gap, load_paper, paper_names, paper_table, read_paper
from benchmark.papers.claims import Claim
from benchmark.papers.schedules import Schedule, read_schedule, schedule_differences

ROWS = [(table, row) for name in paper_names() for table in load_paper(name).tables for row in table.rows]
NAMES = [f"{table.name} {row.name}" for table, row in ROWS]


def row(table, name):
    return paper_table(table).row(name)


def triple(table, name):
    values = row(table, name).values
    return values["pq"], values["pq_th"], values["pq_st"]


@pytest.mark.parametrize(("table", "row"), ROWS, ids=NAMES)
def test_pq_is_the_mean_over_categories_but_for_listed_rows(table, row):
    """PQ = (n_th PQ_th + n_st PQ_st) / (n_th + n_st) up to rounding; a row that breaks it says so, and no other."""
    gap = identity_gap(row)
    rounding = 10.0**-table.decimals  # half a unit of the last digit in PQ, and as much in the mean of its parts
    broken = gap is not None and abs(gap) > rounding + 1e-9
    assert broken == bool(row.inconsistent), gap


def test_the_rows_that_break_the_identity():
    broken = [name for name, (_, row) in zip(NAMES, ROWS, strict=True) if row.inconsistent]
    assert broken == ["fdd/T9 Combination VOC", "point2mask/T7 Minimum Cost"]
    assert identity_gap(row("fdd/T9", "Combination VOC")) == pytest.approx(37.1 - (20 * 35.5 + 74.2) / 21)
    assert identity_gap(row("point2mask/T7", "Minimum Cost")) == pytest.approx(51.9 - (20 * 50.1 + 90.2) / 21)
    assert identity_gap(row("point2mask/T2", "Point2Mask R50")) == pytest.approx(32.4 - (80 * 32.6 + 53 * 32.2) / 133)
    assert identity_gap(row("point2mask/T6", "8")) is None  # only PQ is printed


def test_the_rows_with_slips():
    assert [name for name, (_, row) in zip(NAMES, ROWS, strict=True) if row.slip] == [
        "agmm/cityscapes AGMM, 20 clicks", "point2mask/T1 Panoptic SegFormer", "point2mask/README COCO P10 R50"
    ]  # fmt: skip
    clicks = [row("agmm/cityscapes", f"AGMM, {count} clicks").values["miou"] for count in (20, 50, 100)]
    assert clicks[0] > clicks[2] > clicks[1]
    assert triple("point2mask/README", "COCO P10 R50") == triple("point2mask/T2", "Point2Mask R50")
    assert triple("point2mask/README", "COCO P10 R50") != triple("point2mask/A1", "COCO R50")


def test_only_the_summary_page_of_epld_is_contradicted_and_it_is_by_the_papers():
    contradicted = {table.name for table, row in ROWS if row.contradicted}
    assert contradicted == {"epld/summary_page"} and all(row.contradicted for row in paper_table("epld/summary_page").rows)
    for method, theirs in (("PSPS", ("psps/quoted", "COCO P1")), ("Point2Mask", ("point2mask/T2", "Point2Mask R50"))):
        claimed, printed = row("epld/summary_page", method).values["pq"], row(*theirs).values["pq"]
        assert claimed > printed + 10
    assert row("epld/summary_page", "EPLD").values["pq"] > row("epld/quoted", "COCO R50").values["pq"] + 10


def test_epld_is_quoted_by_trace():
    assert {row.source for row in paper_table("epld/quoted").rows} == {"TRACE (ICLR 2026), Table 2"}
    assert triple("epld/quoted", "VOC R50") == (56.6, 54.9, 89.6)
    assert triple("epld/quoted", "COCO Swin-L") == (41.0, 39.9, 42.7)


def test_a_number_that_several_tables_print_is_the_same_in_all():
    best = (53.8, 51.9, 90.5)
    places = [
        ("T1", "Point2Mask R50"), ("T3", "P^s + low + high"), ("T4", "partial + LAB + RGB"), ("T5", "Nearest Centroid"),
        ("A2", "80"), ("A3", "0.1"),
    ]  # fmt: skip
    assert {triple(f"point2mask/{table}", name) for table, name in places} == {best}
    assert triple("point2mask/T7", "Optimal Transport") == triple("point2mask/A1", "VOC R50 P1")
    assert row("point2mask/T6", "1").values["pq"] == pytest.approx(best[0], abs=0.05)
    assert row("point2mask/T6", "8").values["pq"] == pytest.approx(54.2, abs=0.05)
    for quoted, table, name in (
        ("VOC P1", "T1", "PSPS"), ("VOC P10", "A1", "PSPS VOC"), ("COCO P1", "T2", "PSPS"), ("COCO P10", "A1", "PSPS COCO"),
        ("JTSM VOC", "T1", "JTSM"), ("Panoptic FCN VOC P10", "T1", "Panoptic FCN P10"),
    ):  # fmt: skip
        assert triple("psps/quoted", quoted) == triple(f"point2mask/{table}", name)
        ours, theirs = row("psps/quoted", quoted).setting, row(f"point2mask/{table}", name).setting
        assert ours.parts == theirs.parts


def test_every_row_says_where_it_is_printed_and_what_it_was_measured_with():
    for name, (table, found) in zip(NAMES, ROWS, strict=True):
        assert found.source and found.values, name
        assert found.setting.supervision or found.contradicted, name
        assert found.setting.backbone or found.method == "Panoptic FPN" or found.contradicted or "no backbone" in table.note
        assert list(found.values) == [metric for metric in table.metrics if metric in found.values], name
    assert row("point2mask/T1", "Point2Mask R101, COCO").setting.parts == ("VOC", "R101", "P1", "pretrained on COCO")


def test_schedules_are_those_of_the_papers_own_method():
    assert row("point2mask/T5", "Equal Division").setting.schedule.startswith("24 epochs")
    assert row("point2mask/T2", "Point2Mask R50").setting.schedule.endswith("batch 16")
    assert row("point2mask/T2", "Point2Mask Swin-L").setting.schedule.endswith("batch 8")
    assert row("point2mask/T1", "PSPS").setting.schedule == ""
    assert row("psps/quoted", "VOC P1").setting.schedule.startswith("20 epochs")


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: load_paper("point2masks"), ["'point2masks'", "did you mean 'point2mask'", "psps"]),
        (lambda: paper_table("point2mask/T55"), ["'point2mask/T55'", "did you mean 'point2mask/T5'", "point2mask/A3"]),
        (lambda: paper_table("nonesuch/T1"), ["'nonesuch/T1'", "point2mask/T1", "psps/quoted"]),
        (lambda: row("point2mask/T5", "Nearest Center"), ["did you mean 'Nearest Centroid'", "Equal Division"]),
    ],
)
def test_an_unknown_name_lists_the_known_ones(call, parts):
    with pytest.raises(ConfigError) as error:
        call()
    for part in parts:
        assert part in str(error.value)


GOOD = """\
method: M
title: T
venue: V
schedules: {voc: 24 epochs}
tables:
  T1:
    title: Table
    source: M, Table 1
    data: voc
    supervision: P1
    metrics: [pq, pq_th]
    rows:
      - {name: first, values: [53.8, 51.9]}
      - {name: second, values: [null, 50]}
"""


def read(folder, text):
    path = folder / "paper.yaml"
    path.write_text(text)
    return read_paper(path)


def test_a_file_is_read(tmp_path):
    (table,) = read(tmp_path, GOOD).tables
    assert (table.name, table.decimals, [row.name for row in table.rows]) == ("paper/T1", 1, ["first", "second"])
    assert table.rows[0].values == {"pq": 53.8, "pq_th": 51.9} and table.rows[1].values == {"pq_th": 50.0}
    assert table.rows[0].method == "M" and table.rows[0].setting.schedule == "24 epochs"


def test_a_table_is_contradicted_as_a_whole_or_in_a_row(tmp_path):
    (table,) = read(tmp_path, GOOD.replace("    data: voc\n", "    data: voc\n    contradicted: by all\n")).tables
    assert [row.contradicted for row in table.rows] == ["by all", "by all"]
    (table,) = read(tmp_path, GOOD.replace("name: second,", "name: second, contradicted: by one,")).tables
    assert [row.contradicted for row in table.rows] == ["", "by one"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[pq, pq_th]", "[pq, pq_thing]", "metric of table paper/T1 'pq_thing'.*did you mean 'pq_th'"),
        ("[pq, pq_th]", "[pq, pq]", "has the metric 'pq' 2 times"),
        ("name: second", "name: first", "paper/T1 has the row 'first' 2 times"),
        ("name: second", "name: 2", "row '2': name is 2, not text"),
        ("name: second, ", "", "has no 'name'"),
        ("[null, 50]", "[50]", "'second': values are .*not one for each of pq, pq_th"),
        ("[null, 50]", "[null, '50']", "'second': pq_th is '50', not a percentage"),
        ("[null, 50]", "[null, 101]", "pq_th is 101, not a percentage"),
        ("[null, 50]", "[null, true]", "pq_th is True, not a percentage"),
        ("name: second,", "name: second, sorce: X,", "key in Table paper/T1, row second 'sorce'.*did you mean 'source'"),
        ("name: second,", "name: second, data: voc12,", "row 'second' 'voc12'.*did you mean 'voc'"),
        ("    data: voc\n", "", "data set in .*'first' 'None'"),
        ("    source: M, Table 1\n", "", "Table paper/T1 has no 'source'"),
        ("venue: V\n", "", "Paper 'paper' has no 'venue'"),
        ("{voc: 24", "{vok: 24", "data set in the schedules of Paper 'paper' 'vok'"),
        ("supervision: P1", "supervisor: P1", "key in Table paper/T1 'supervisor'"),
        ("title: T\n", "title: T\ntitle: T\n", "cannot be read: .*duplicate key"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_table_and_row(tmp_path, old, new, message):
    assert GOOD.count(old) == 1
    with pytest.raises(ConfigError) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert re.search(message, str(error.value)), error.value
    assert "\n" not in str(error.value)


def test_every_paper_claims_something_about_grids_that_exist():
    claims = all_claims()
    assert {claim.name.split("/")[0] for claim in claims} == set(paper_names())
    assert {grid for claim in claims for grid in claim.grids} <= set(names_in("grid"))
    wanted = {
        "point2mask/transport", "point2mask/units", "point2mask/boundary_maps", "point2mask/sinkhorn_iterations",
        "point2mask/beta", "point2mask/beats_psps", "fdd/auxiliary_branch_p1", "fdd/sharing_p1", "fdd/injection_p1",
        "fdd/self_training_p1", "fdd/color_prior_p1", "fdd/border_biased_p1", "epld/rounds", "epld/aggregating",
        "agmm/adaptive_sigma", "agmm/over_partial_cross_entropy", "psps/edge_cost", "psps/manifold_cost",
    }  # fmt: skip
    assert wanted <= {claim.name for claim in claims}


def test_hypotheses_about_epld_say_that_they_are_none_of_its_numbers():
    for claim in load_paper("epld").claims:
        assert "our reading" in claim.note, claim.name
        assert claim.table in ("", "epld/quoted")  # never the contradicted page


UNITS = [{"units": unit, "points": points} for points in ("1", "10") for unit in ("equal", "nearest", "centroid")]


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ({"best": {"units": "centroid"}, "where": {"points": "1"}}, [(2, 0), (2, 1)]),
        ({"worst": {"units": "equal"}, "where": {"points": "10.0"}}, [(4, 3), (5, 3)]),
        ({"order": ({"units": "centroid"}, {"units": "nearest"}, {"units": "equal"}), "where": {"points": "1"}},
         [(2, 1), (1, 0)]),
        ({"order": ({"units": "centroid"}, {"units": "none"}), "where": {"points": "1"}}, []),  # no such cell
        ({"order": ({"units": "centroid"}, {"units": "equal"})}, []),  # two cells each
        # an axis that no cell has is not compared, and is no difference between cells
        ({"order": ({"units": "centroid", "model": "r50"}, {"units": "equal"}), "where": {"points": "1"}}, [(2, 0)]),
        ({"order": ({"model": "r50"}, {"model": "r101"}), "where": {"points": "1", "units": "equal"}}, []),
    ],
)  # fmt: skip
def test_the_cells_of_a_claim(claim, expected):
    assert Claim("p/c", "s", "src", "", ("g",), ("pq",), **claim).pairs(UNITS) == expected


CLAIM = """\
claims:
  c:
    sentence: First is best.
    table: T1
    grids: [g]
    best: {a: 1}
    metrics: [pq]
"""


def test_a_claim_is_read(tmp_path):
    (claim,) = read(tmp_path, GOOD + CLAIM.replace("{a: 1}", "{a: 1, b: null, c: true}")).claims
    assert (claim.name, claim.table, claim.source, claim.share) == ("paper/c", "paper/T1", "M, Table 1", 1.0)
    assert claim.best == {"a": "1", "b": "null", "c": "true"} and claim.axes == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    best: {a: 1}\n", "", "paper/c has no ordering; give one of order, best, worst"),
        ("    best: {a: 1}\n", "    best: {a: 1}\n    worst: {a: 2}\n", "has best and worst"),
        ("best: {a: 1}", "order: [{a: 1}]", "order has 1 cells"),
        ("best: {a: 1}", "best: a", "'a' is not a cell"),
        ("table: T1", "table: T2", "table of Claim paper/c 'T2'"),
        ("    table: T1\n", "", "neither a table nor a source"),
        ("[pq]", "[pk]", "metric of Claim paper/c 'pk'.*Known: miou, pq,"),
        ("    metrics: [pq]\n", "", "Claim paper/c has no 'metrics'"),
        ("    metrics", "    share: 2\n    metrics", "share is 2, not a number above 0"),
        ("    metrics", "    notes: 2\n    metrics", "key in Claim paper/c 'notes'.*did you mean 'note'"),
    ],
)
def test_a_wrong_claim_is_one_sentence(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, GOOD + CLAIM.replace(old, new))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24 epochs, decay after 15 and 20, batch 8", Schedule(24, (15, 20), 8)),
        ("20 epochs, decay after 15, batch 16", Schedule(20, (15,), 16)),
        ("80 epochs, crop 321, batch 16 per process", Schedule(80, (), None)),
        ("", Schedule()),
    ],
)
def test_schedules_are_read(text, expected):
    assert read_schedule(text) == expected


def test_every_schedule_of_the_papers_is_read():
    for name, (_, found) in zip(NAMES, ROWS, strict=True):
        if found.setting.schedule:
            schedule = read_schedule(found.setting.schedule)
            assert schedule.epochs and (schedule.batch or "per process" in found.setting.schedule), name


def test_what_a_schedule_leaves_open_is_no_difference():
    config = {"epochs": 24, "steps": None, "batch_size": 8, "decay_at": [0.625, 0.8333333333333334]}
    assert schedule_differences(config, "24 epochs, decay after 15 and 20, batch 8") == []
    assert schedule_differences({**config, "batch_size": 99}, "24 epochs, batch 8 per process") == []
    assert schedule_differences({**config, "batch_size": 99}, "") == []
    assert schedule_differences({**config, "epochs": None, "steps": 9}, "24 epochs") == ["9 steps, not 24 epochs"]
