"""From the file of results to Markdown: pure functions of stored values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmark.speed.rows import COMPARISONS, MEASUREMENTS, OURS, STEPS

STAGES = ("data", "forward", "pseudo_labels", "losses", "backward", "optimizer")
"""Stages of a training step, in their order."""

Row = Mapping[str, Any]


def document(content: Mapping[str, Any]) -> str:
    """The page of a file of results (`benchmark.speed.record`)."""
    sections = content["sections"]
    lines = [
        f"# Speed on {content['device']}", "",
        f"Written by `python -m benchmark.speed device={content['device']}`; every round is in `{content['device']}.json`. "
        "Times are medians of rounds in which the compared calls take turns, in one process and without their first, "
        "untimed call. Ratios are taken within a round: median (quartiles). A wrong result is an error, not a speed.", "",
    ]
    lines += _targets(sections)
    for name, section in sections.items():
        lines += [f"## {name}", "", _origin(section), ""]
        for table in section["tables"]:
            lines += [f"### {table['title']}", "", *([table["note"], ""] if table["note"] else []), *render(table), ""]
    return "\n".join(lines)


def render(table: Mapping[str, Any]) -> list[str]:
    """A stored table as lines of a Markdown table."""
    columns = COLUMNS[table["kind"]](table["rows"])
    rows = [
        [str(cell(row)) for cell in columns.values()] if "error" not in row else _failed(row, len(columns))
        for row in table["rows"]
    ]
    return [_line(columns), _line("---" for _ in columns), *(_line(row) for row in rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _failed(row: Row, columns: int) -> list[str]:
    case = f"{row['case']}, against {row['against']}" if row.get("against") else row["case"]
    return [case, f"**error: {row['error']}**", *[""] * (columns - 2)]


def _comparisons(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    return {
        "what": lambda row: row["case"],
        "ours": lambda row: duration(row[OURS]["median"]),
        "against": lambda row: row["against"],
        "takes": lambda row: duration(row["other"]["median"]),
        "times ours": lambda row: ("≥ " if row.get("lower_bound") else "") + times(row["ratio"]),
        "rounds": lambda row: str(len(row["ratio"]["rounds"])),
        **_judgement(rows),
        "same result": lambda row: ", ".join(f"{name} {value:.3g}" for name, value in row["agreement"].items()
                                             if value is not None),
        **_notes(rows),
    }


def _measurements(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    return {
        "what": lambda row: row["case"], "measured": lambda row: f"{row['value']:.3g} {row['unit']}".strip(),
        **_judgement(rows), **_notes(rows),
    }


def _steps(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    def stage(name: str) -> Callable[[Row], str]:
        return lambda row: milliseconds(row["stages"][name]["median"]) if name in row["stages"] else "–"

    return {
        "method": lambda row: row["case"],
        **{f"{name.replace('_', ' ')} (ms)": stage(name) for name in (*STAGES, "rest")},
        "step (ms)": lambda row: milliseconds(row["step"]["median"]),
        "pseudo labels' share": lambda row: f"{100 * row['share']['median']:.1f} %",
        "met (share)": lambda row: _met(row["share_met"], row["share_target"]),
        "to full masks": lambda row: times(row["ratio"]) if row["ratio"] else "–",
        "without loading": lambda row: times(row["ratio_without_data"]) if row["ratio_without_data"] else "–",
        "met (ratio)": lambda row: _met(row["met"], row["target"]),
        "rounds": lambda row: str(len(row["step"]["rounds"])),
        "rounds (ratio)": lambda row: str(len(row["ratio"]["rounds"])) if row["ratio"] else "–",
    }


COLUMNS: Mapping[str, Callable[[Sequence[Row]], dict[str, Callable[[Row], str]]]] = {
    COMPARISONS: _comparisons, MEASUREMENTS: _measurements, STEPS: _steps,
}


def _judgement(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    if not any(row.get("target") for row in rows):
        return {}
    return {"target": lambda row: row["target"] or "–", "met": lambda row: _met(row["met"], row["target"], short=True)}


def _notes(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    return {"note": lambda row: row["note"]} if any(row.get("note") for row in rows) else {}


def _met(met: bool | None, target: str | None, short: bool = False) -> str:
    if met is None:
        return "–"
    return ("yes" if met else "**no**") + ("" if short else f" ({target})")


def judgements(tables: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool | None]]:
    """(what, whether it is met) of every target of some tables; None where an error kept it from being measured."""
    found: list[tuple[str, bool | None]] = []
    for table in tables:
        for row in table["rows"]:
            what = f"{table['title']}: {row['case']}" + (f", against {row['against']}" if row.get("against") else "")
            if "error" in row:
                found.append((what, None))
            elif row.get("share_met") is not None:
                found.append((f"{what}, share of pseudo labels", row["share_met"]))
            if row.get("met") is not None:
                found.append((what, row["met"]))
    return found


def _targets(sections: Mapping[str, Any]) -> list[str]:
    judged = [(name, *one) for name, section in sections.items() for one in judgements(section["tables"])]
    missed = [f"- {name}, {what}" for name, what, met in judged if met is False]
    failed = [f"- {name}, {what}" for name, what, met in judged if met is None]
    lines = [f"Targets met: {sum(met is True for *_, met in judged)} of {len(judged)}.", ""]
    lines += ["Missed:", "", *missed, ""] if missed else []
    return lines + (["Not measured:", "", *failed, ""] if failed else [])


def _origin(section: Mapping[str, Any]) -> str:
    origin = section["provenance"]
    hardware = origin["hardware"]
    revision = (origin["revision"] or "no checkout")[:12] + (" with changes" if origin["dirty"] else "")
    packages = ", ".join(f"{name} {version}" for name, version in origin["packages"].items() if version != "not installed")
    gpu = f", {hardware['gpu']}" if hardware["gpu"] else ""
    quick = " Few rounds (quick=true)." if section["quick"] else ""
    return (
        f"Measured {section['measured']} in {section['wall_seconds']:.0f} s at {revision} on {hardware['processor']} "
        f"({hardware['cores']} cores, {hardware['threads']} threads used{gpu}, {hardware['system']}), Python "
        f"{origin['python']}; {packages}.{quick}"
    )


def duration(seconds: float) -> str:
    """Three digits of a time in the unit that suits it: ``12.3 ms``."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds * 1e6:.2g} µs"


def milliseconds(seconds: float) -> str:
    """Milliseconds, one digit behind the point where they are few."""
    return f"{1e3 * seconds:.1f}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def times(ratio: Mapping[str, float]) -> str:
    """``2.41x (2.38 to 2.45)``."""
    median, lower, upper = (
        f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in (ratio["median"], ratio["lower"], ratio["upper"])
    )
    return f"{median}x ({lower} to {upper})"
