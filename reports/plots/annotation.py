"""Quality against the time that annotation takes: image tags, one point per target, full masks."""

from __future__ import annotations

from matplotlib.axes import Axes

from benchmark.papers import ANNOTATION_SECONDS, load_paper, paper_names
from reports.plots.figures import Plot, log_scale, look, panels, to_svg
from reports.plots.series import labels, percent
from reports.rows import Row
from reports.tables import ResultTable

TITLE = "Quality against annotation cost"
Place = tuple[str, float, float]
"""Name, seconds per image, PQ in percent."""


def annotation_cost(table: ResultTable) -> Plot | None:
    """None unless rows with a PQ read two kinds of supervision whose cost is known."""
    ours = [(str(row.values["label"]), seconds, pq) for row in table.rows
            if (seconds := _seconds(row)) is not None and (pq := percent(row, "pq")) is not None]  # fmt: skip
    if len({seconds for _, seconds, _ in ours}) < 2:
        return None
    figure, (left, right) = panels(2, 4.0, 3.7)
    theirs = printed()
    names = dict.fromkeys([*(name for name, _, _ in theirs), *labels(table)])
    kinds = {name: look(i) for i, name in enumerate(names)}
    _draw(left, theirs, kinds, "papers, VOC: PQ (%)")
    _draw(right, ours, kinds, "ours: PQ (%)")
    caption = (
        "Seconds of annotation per image of VOC, as Point2Mask quotes them: image tags 20, one point per target 22.1, full "
        "masks 239.7; that of ten points is not known. Another data set has other costs."
    )
    return Plot("annotation", TITLE, caption, to_svg(figure, "annotation", TITLE))


def _seconds(row: Row) -> float | None:
    if row.values.get("supervision") == "masks":
        return ANNOTATION_SECONDS["M"]
    return ANNOTATION_SECONDS["P1"] if row.values.get("points") == "1" else None


def printed() -> list[Place]:
    """The best PQ that the papers print for each method and kind of supervision on VOC, without Swin-L and
    without pretraining on COCO."""
    best: dict[tuple[str, float], float] = {}
    for paper in paper_names():
        for row in (row for table in load_paper(paper).tables for row in table.rows):
            setting, seconds = row.setting, ANNOTATION_SECONDS.get(row.setting.supervision)
            plain = setting.data == "voc" and not setting.pretraining and setting.backbone != "Swin-L"
            if plain and not row.contradicted and seconds is not None and "pq" in row.values:
                best[row.method, seconds] = max(best.get((row.method, seconds), 0.0), row.values["pq"])
    return [(method, seconds, pq) for (method, seconds), pq in best.items()]


def _draw(axis: Axes, places: list[Place], kinds: dict[str, dict[str, str]], title: str) -> None:
    for name, seconds, pq in places:
        axis.plot(seconds, pq, linestyle="none", marker=kinds[name]["marker"], color=kinds[name]["color"], markersize=6,
                  label=name)  # fmt: skip
    log_scale(axis, "x")
    axis.set_xlim(12, 420)
    axis.set_xlabel("annotation (s per image)")
    axis.set_ylabel(title)
    found = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(found.values(), found.keys(), fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
