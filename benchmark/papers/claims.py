"""What the papers claim from their tables, as data: orderings between cells of a grid.

A block ``claims`` of a paper's file names each claim::

    claims:
      units:
        sentence: Centroid unit numbers are best.
        table: T5                                  # of this file; or `source`, where no table prints it
        grids: [p2m_units]                         # whose cells the ordering is about
        where: {dataset.points.count: 1}           # axis values that all cells have; optional
        best: {method.units: centroid}             # better than every other cell; or `worst`
        order: [{...}, {...}]                      # instead: cells, the best first
        metrics: [pq, train_instance_iou]          # the verdict is one for each of them

``share`` (1 unless said) makes an ordering a collapse: the worse cell has at most this share of the better one. ``note``
says what a reader must know (a hypothesis, our reading). An axis that no cell of a grid has is not compared: at
``scale=demo`` a grid has no axis ``model``. Axes that a claim does not name are held equal within a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmark.configs import ConfigError, unknown
from benchmark.papers.checks import METRICS, check_keys

LABEL_METRICS = {
    f"{split}_{key}": f"{name} {split}"
    for split in ("train", "val")
    for key, name in (("instance_iou", "label IoU"), ("ambiguous_accuracy", "ambiguous"), ("label_pq", "label PQ"))
}
CLAIM_METRICS = METRICS | LABEL_METRICS
"""Key of a metric that a claim may be about, as in result tables, -> its name."""

CLAIM_KEYS = ("table", "source", "where", "order", "best", "worst", "share", "note")

Axes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """An ordering between cells of grids.

    Attributes:
        name: ``<paper>/<claim>``.
        sentence: the claim in words.
        source: paper and table, or where else it is made.
        table: ``<paper>/<table>`` with the numbers, "" if none is printed.
        grids: names of the grids whose cells it is about.
        metrics: keys of `CLAIM_METRICS`.
        where: axis values that all its cells have.
        order: axis values of cells, the best first; empty if ``best`` or ``worst`` is given.
        best, worst: axis values of the cell that is better (worse) than all others.
        share: the worse cell has less than this share of the better one.
        note: what a reader must know.
    """

    name: str
    sentence: str
    source: str
    table: str
    grids: tuple[str, ...]
    metrics: tuple[str, ...]
    where: Axes = field(default_factory=dict)
    order: tuple[Axes, ...] = ()
    best: Axes | None = None
    worst: Axes | None = None
    share: float = 1.0
    note: str = ""

    @property
    def axes(self) -> set[str]:
        """The axes that the claim names."""
        named = [self.where, *self.order, self.best or {}, self.worst or {}]
        return {axis for cell in named for axis in cell}

    def pairs(self, cells: Sequence[Axes], known: set[str] | None = None) -> list[tuple[int, int]]:
        """Indices (better, worse) of the cells to compare; [] if a cell that the claim names is missing or is several.

        Args:
            cells: axis values of the cells of one comparison, each once.
            known: the axes of the grid; those of ``cells`` if None.
        """
        known = {axis for cell in cells for axis in cell} if known is None else known
        inside = [i for i, cell in enumerate(cells) if _matches(cell, self.where, known)]
        if self.order:
            found = [[i for i in inside if _matches(cells[i], wanted, known)] for wanted in self.order]
            places = [places[0] for places in found if len(places) == 1]
            complete = len(places) == len(self.order) == len(set(places))
            return list(pairwise(places)) if complete else []
        extreme = [i for i in inside if _matches(cells[i], self.best or self.worst or {}, known)]
        if len(extreme) != 1:
            return []
        others = [i for i in inside if i != extreme[0]]
        return [(extreme[0], i) if self.best is not None else (i, extreme[0]) for i in others]


def axis_text(value: Any) -> str:
    """A value of an axis as the files of grids and records write it: null, true, 0.5, text."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _matches(cell: Axes, wanted: Axes, known: set[str]) -> bool:
    return all(axis not in known or (axis in cell and _same(cell[axis], value)) for axis, value in wanted.items())


def _same(first: str, second: str) -> bool:
    """Whether two axis values mean the same: 3 and 3.0 do."""
    try:
        return float(first) == float(second)
    except ValueError:
        return first.lower() == second.lower()


def read_claim(paper: str, key: str, raw: Any, sources: Mapping[str, str]) -> Claim:
    """A claim of a paper's file.

    Args:
        paper: name of the file.
        key: name of the claim.
        raw: what the file says.
        sources: the file's tables -> where they are printed.

    Raises:
        ConfigError: in one sentence, what is wrong.
    """
    what = f"Claim {paper}/{key}"
    check_keys(raw, what, ("sentence", "grids", "metrics"), CLAIM_KEYS)
    if len(given := [kind for kind in ("order", "best", "worst") if kind in raw]) != 1:
        raise ConfigError(f"{what} has {' and '.join(given) or 'no ordering'}; give one of order, best, worst.")
    table = raw.get("table", "")
    if table and table not in sources:
        raise unknown(f"table of {what}", str(table), sources)
    if not table and not raw.get("source"):
        raise ConfigError(f"{what} has neither a table nor a source.")
    for metric in raw["metrics"]:
        if metric not in CLAIM_METRICS:
            raise unknown(f"metric of {what}", str(metric), CLAIM_METRICS)
    share = raw.get("share", 1.0)
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"{what}: share is {share!r}, not a number above 0 and at most 1.")
    order = tuple(_cell(what, cell) for cell in raw.get("order", ()))
    if "order" in raw and len(order) < 2:
        raise ConfigError(f"{what}: order has {len(order)} cells, an ordering needs two or more.")
    return Claim(
        f"{paper}/{key}", raw["sentence"], raw.get("source") or sources[table], f"{paper}/{table}" if table else "",
        tuple(raw["grids"]), tuple(raw["metrics"]), _cell(what, raw.get("where", {})), order,
        _cell(what, raw["best"]) if "best" in raw else None, _cell(what, raw["worst"]) if "worst" in raw else None,
        float(share), raw.get("note", ""),
    )  # fmt: skip


def _cell(what: str, raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{what}: {raw!r} is not a cell, a mapping of axes to values.")
    return {axis: axis_text(value) for axis, value in raw.items()}
