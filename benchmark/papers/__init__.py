"""What the papers report, as data: every number with its table, row, setting and source.

A file ``<paper>.yaml`` holds the tables of one paper as printed, the rows of other methods included::

    method: Point2Mask
    title: "Point2Mask: ..."
    venue: ICCV 2023
    schedules: {voc: 24 epochs}          # of the paper's own method, by data set
    tables:
      T5:
        title: Number of pixels that a point supplies
        source: Point2Mask, Table 5      # where the numbers are printed
        data: voc                        # the setting of all rows; a row may say its own
        backbone: R50
        supervision: P1
        metrics: [pq, pq_th, pq_st]      # meaning of the values, in percent
        rows:
          - {name: Equal Division, values: [52.4, 50.5, 90.2]}

Optional: ``decimals`` (printed digits, 1) and ``note`` of a table; ``method`` (another paper's), ``data``, ``backbone``,
``supervision``, ``pretraining``, ``schedule``, ``source``, ``note``, ``slip`` and ``inconsistent`` of a row. A blank value
is null. A table is named ``<paper>/<table>``, as in ``point2mask/T5``. ``contradicted`` of a table or row says which primary
sources contradict its numbers: they are on record, but never a target, and no grid may name such a row. ``claims`` are the
orderings that the paper concludes from its tables (`benchmark.papers.claims`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmark.configs import ConfigError, unknown
from benchmark.papers.checks import METRICS, check_keys, check_unique
from benchmark.papers.claims import Claim, read_claim

FOLDER = Path(__file__).resolve().parent

ANNOTATION_SECONDS = {"I": 20.0, "P1": 22.1, "M": 239.7}
"""Supervision -> seconds of annotation per image of VOC, as Point2Mask quotes them; that of ten points is not known."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of the papers: its name and its numbers of thing and stuff categories."""

    title: str
    things: int
    stuff: int


DATA = {
    "voc": DataSet("VOC", 20, 1),
    "coco": DataSet("COCO", 80, 53),
    "cityscapes": DataSet("Cityscapes", 8, 11),
}
"""Key of a data set -> what is known of it; tables are of its validation images."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a number was measured with.

    Attributes:
        data: key of `DATA`.
        backbone: as the papers write it ("R50", "Swin-L"); "" where the paper does not say.
        supervision: the papers' letters: M masks, B boxes, I image tags, P1 and P10 points per target.
        pretraining: data beside ImageNet that the network was trained on before, else "".
        schedule: length of the training, else "" where it is not known.
    """

    data: str
    backbone: str = ""
    supervision: str = ""
    pretraining: str = ""
    schedule: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """("VOC", "R50", "P1"), with "pretrained on COCO" behind it where that holds; without the schedule."""
        pretraining = f"pretrained on {self.pretraining}" if self.pretraining else ""
        return tuple(p for p in (DATA[self.data].title, self.backbone, self.supervision, pretraining) if p)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of a printed table.

    Attributes:
        name: unique in its table.
        method: whose result it is, which may be another paper's.
        values: metric -> percentage as printed; a blank has no entry.
        source: where the numbers are printed.
        note: what a reader must know about the row.
        slip: why a printed number is known or suspected to be wrong.
        inconsistent: why `identity_gap` is larger than rounding can explain.
        contradicted: why the numbers are not believed at all; "" for those that a grid may stand for.
    """

    name: str
    method: str
    values: Mapping[str, float]
    setting: Setting
    source: str
    note: str = ""
    slip: str = ""
    inconsistent: str = ""
    contradicted: str = ""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One printed table; ``name`` is ``<paper>/<table>`` and ``decimals`` the number of printed digits."""

    name: str
    title: str
    source: str
    metrics: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    decimals: int = 1
    note: str = ""

    def row(self, name: str) -> PaperRow:
        """The row of that name; ConfigError with the known ones for an unknown one."""
        for row in self.rows:
            if row.name == name:
                return row
        raise unknown(f"row of {self.name}", name, [row.name for row in self.rows])


@dataclass(frozen=True, slots=True)
class Paper:
    """The tables of one paper and what it claims from them."""

    method: str
    title: str
    venue: str
    tables: tuple[PaperTable, ...]
    claims: tuple[Claim, ...] = ()


def paper_names() -> list[str]:
    """The papers that there is a file of, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@lru_cache(maxsize=32)
def load_paper(name: str) -> Paper:
    """A paper of this folder; ConfigError with the known ones for an unknown one."""
    if name not in paper_names():
        raise unknown("paper", name, paper_names())
    return read_paper(FOLDER / f"{name}.yaml")


def paper_table(name: str) -> PaperTable:
    """The table ``<paper>/<table>``; ConfigError with the known ones for an unknown one."""
    paper = name.split("/")[0]
    known = load_paper(paper).tables if paper in paper_names() else [t for p in paper_names() for t in load_paper(p).tables]
    for table in known:
        if table.name == name:
            return table
    raise unknown("table of a paper", name, [table.name for table in known])


def all_claims() -> list[Claim]:
    """The claims of all papers."""
    return [claim for name in paper_names() for claim in load_paper(name).claims]


def identity_gap(row: PaperRow) -> float | None:
    """Printed PQ minus the PQ that follows from PQ_th and PQ_st, None where one of them is missing.

    PQ is a mean over categories, so ``PQ = (n_th PQ_th + n_st PQ_st) / (n_th + n_st)`` where every category occurs.
    """
    if not {"pq", "pq_th", "pq_st"} <= row.values.keys():
        return None
    data = DATA[row.setting.data]
    both = data.things * row.values["pq_th"] + data.stuff * row.values["pq_st"]
    return row.values["pq"] - both / (data.things + data.stuff)


def read_paper(path: Path) -> Paper:
    """Read and check a paper's file.

    Raises:
        ConfigError: in one sentence, what is wrong with which table and row.
    """
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    what = f"Paper '{path.stem}'"
    check_keys(raw, what, ("method", "title", "venue", "tables"), ("schedules", "claims"))
    schedules = raw.get("schedules", {})
    for data in schedules:
        if data not in DATA:
            raise unknown(f"data set in the schedules of {what}", str(data), DATA)
    tables = tuple(_table(f"{path.stem}/{key}", table, raw["method"], schedules) for key, table in raw["tables"].items())
    sources = {key: table["source"] for key, table in raw["tables"].items()}
    claims = tuple(
        read_claim(path.stem, key, claim, sources) for key, claim in (raw.get("claims") or {}).items()
    )
    return Paper(raw["method"], raw["title"], raw["venue"], tables, claims)


SETTING_KEYS = ("data", "backbone", "supervision")
ROW_KEYS = (*SETTING_KEYS, "method", "pretraining", "schedule", "source", "note", "slip", "inconsistent", "contradicted")


def _table(name: str, raw: Any, method: str, schedules: Mapping[str, str]) -> PaperTable:
    what = f"Table {name}"
    check_keys(raw, what, ("title", "source", "metrics", "rows"), (*SETTING_KEYS, "decimals", "note", "contradicted"))
    metrics = tuple(raw["metrics"])
    for metric in metrics:
        if metric not in METRICS:
            raise unknown(f"metric of table {name}", str(metric), METRICS)
    check_unique(metrics, f"{what} has the metric")
    for row in raw["rows"]:
        check_keys(row, f"{what}, row {row.get('name') if isinstance(row, dict) else row}", ("name", "values"), ROW_KEYS)
    check_unique([row["name"] for row in raw["rows"]], f"{what} has the row")
    common = {key: raw[key] for key in (*SETTING_KEYS, "source", "contradicted") if key in raw}
    rows = tuple(_row(what, {**common, **row}, metrics, method, schedules) for row in raw["rows"])
    return PaperTable(name, raw["title"], raw["source"], metrics, rows, raw.get("decimals", 1), raw.get("note", ""))


def _row(what: str, raw: Mapping[str, Any], metrics: Sequence[str], method: str, schedules: Mapping[str, str]) -> PaperRow:
    what = f"{what}, row '{raw['name']}'"
    for key, value in raw.items():
        if key != "values" and not isinstance(value, str):
            raise ConfigError(f"{what}: {key} is {value!r}, not text; put it in quotes.")
    if raw.get("data") not in DATA:
        raise unknown(f"data set in {what}", str(raw.get("data")), DATA)
    own = raw.get("method", method) == method
    setting = Setting(
        raw["data"], raw.get("backbone", ""), raw.get("supervision", ""), raw.get("pretraining", ""),
        raw.get("schedule", schedules.get(raw["data"], "") if own else ""),
    )  # fmt: skip
    return PaperRow(
        raw["name"], raw.get("method", method), _values(what, raw["values"], metrics), setting, raw["source"],
        raw.get("note", ""), raw.get("slip", ""), raw.get("inconsistent", ""), raw.get("contradicted", ""),
    )  # fmt: skip


def _values(what: str, values: Any, metrics: Sequence[str]) -> dict[str, float]:
    if not isinstance(values, list) or len(values) != len(metrics):
        raise ConfigError(f"{what}: values are {values}, not one for each of {', '.join(metrics)} (null where it is blank).")
    found = {metric: value for metric, value in zip(metrics, values, strict=True) if value is not None}
    for metric, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise ConfigError(f"{what}: {metric} is {value!r}, not a percentage from 0 to 100.")
    return {metric: float(value) for metric, value in found.items()}
