"""What a report was made from, so that a report that is older than its records can be recognised.

``sources.json`` beside a page has a digest of the grid file, of every record and of the papers' numbers. A page that lies in
a folder can't look at other files itself; `staleness` compares and says what changed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from benchmark.papers import FOLDER
from benchmark.runs import Run
from reports.grids import Grid, load_grid

SOURCES = "sources.json"
MISSING = "missing"
GRID_FILE = "grid.json"
PAPERS = "papers"
MOST_NAMED = 3


def digests(results_dir: Path, folder: str, grid: Grid) -> dict[str, str]:
    """Name of a source (run ids, `GRID_FILE` and those of members, `PAPERS`) -> digest of its bytes, `MISSING` if it has
    none."""
    found = {GRID_FILE: _digest([results_dir / folder / GRID_FILE]), PAPERS: _digest(sorted(FOLDER.glob("*.yaml")))}
    for member in grid.members:
        name = f"{member.name}/{GRID_FILE}"
        found[name] = _digest([results_dir / name])
    return found | {record.run_id: _digest([Run(results_dir, record.run_id).record_file]) for record in grid.records}


def _digest(paths: list[Path]) -> str:
    state = hashlib.sha256()
    for path in paths:
        try:
            state.update(path.read_bytes())
        except OSError:
            return MISSING
    return state.hexdigest()[:16]


def staleness(results_dir: Path | str, grid: str) -> str:
    """Why the report of a grid is not what its records say, in a sentence; "" if it is up to date.

    Raises:
        FileNotFoundError, ValueError: as `load_grid`.
    """
    results = Path(results_dir)
    folder = results / grid / "report"
    now = digests(results, grid, load_grid(results, grid))
    if not (folder / "index.html").exists():
        return f"{grid} has no report yet."
    try:
        then = dict(json.loads((folder / SOURCES).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return f"The report of {grid} does not say what it was made from."
    changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if not changed:
        return ""
    named = ", ".join(changed[:MOST_NAMED]) + (f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else "")
    return f"The report of {grid} is stale: {named} changed since it was made."
