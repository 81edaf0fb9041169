"""The committed reports of the made-up sweeps. ``python -m tests.reports.golden`` writes them again."""

from __future__ import annotations

import tempfile
from contextlib import chdir
from pathlib import Path

from reports.claims import judge_claims
from reports.grids import load_grid
from reports.latex import to_latex
from reports.tables import result_table
from reports.writers import to_csv, to_markdown
from tests.reports.sweep import write_ablation, write_sweep

FOLDER = Path(__file__).parent / "golden"
GRIDS = ("demo", "p2m_sinkhorn_iterations")


def write_results(results: Path) -> None:
    """Both sweeps in one results folder."""
    write_sweep(results)
    write_ablation(results)


def all_forms(folder: Path) -> dict[str, str]:
    """The golden files of both sweeps, made in a folder that they don't name."""
    with chdir(folder):
        write_results(Path("results"))
        return {name: text for grid in GRIDS for name, text in forms(Path("results"), grid).items()}


def forms(results: Path, grid: str) -> dict[str, str]:
    """Name of a golden file -> what the code makes of the sweep."""
    loaded = load_grid(results, grid)
    table = result_table(loaded)
    markdown = to_markdown(table, judge_claims(loaded, table))
    return {f"{grid}.md": markdown, f"{grid}.tex": to_latex(table), f"{grid}.csv": to_csv(table)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = all_forms(Path(folder))
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
