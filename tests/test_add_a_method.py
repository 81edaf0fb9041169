"""docs/add-a-method.md, followed word by word in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "add-a-method.md"
PACKAGES = ("methods", "benchmark", "reports", "slurm")
BLOCK = re.compile(r"^```(?P<kind>\w+) ?(?P<path>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

TINY = (
    "schedule.steps=4 schedule.batch_size=2 dataset.train.count=4 dataset.val.count=2 dataset.size=64 input.short=64 "
    "input.long=64 evaluation.label_images=2 evaluation.gallery_images=1 threads=1 device=cpu"
)


def blocks(kind):
    """(path, text) of the page's code blocks of a kind, in order."""
    return [(found["path"], found["text"]) for found in BLOCK.finditer(PAGE.read_text()) if found["kind"] == kind]


def contents(folder):
    """Text of every source file below a folder, by relative path."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def insert(text, line):
    """A table with one more line, beside those of the same form."""
    pattern = re.compile(r'^\s*"\w+": "[\w.]+:\w+",$')
    lines = text.splitlines(keepends=True)
    rows = [number for number, existing in enumerate(lines) if pattern.match(existing)]
    assert rows, "the table has no line of the form of the page's"
    assert pattern.match(line), "the page's line has not the form of the table's"
    lines.insert(rows[-1] + 1, line)
    return "".join(lines)


@pytest.fixture
def copy(tmp_path):
    """The project's packages in a folder of their own."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def write(copy, kind):
    """Write the page's files of a kind; their texts by path."""
    texts = dict(blocks(kind))
    for path, text in texts.items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(text)
    return texts


def shell(copy, line):
    """Run a line of the page in the copy: what it imports is the copy, although the project is installed too."""
    environment = {
        **os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "400",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(line, shell=True, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_page_works_word_by_word(copy):
    before = contents(copy)
    written = write(copy, "python") | write(copy, "yaml")
    assert len(written) >= 3 and not written.keys() & before.keys()
    ((table, line),) = blocks("line")
    (copy / table).write_text(insert((copy / table).read_text(), line))

    imported = "import methods, benchmark, reports; print(*(m.__file__ for m in (methods, benchmark, reports)))"
    files = shell(copy, f'python -c "{imported}"').split()
    assert [Path(file).parent.parent for file in files] == [copy] * 3

    ((_, command),) = blocks("shell")
    out = shell(copy, f"{command.strip()} {TINY}")
    name = next(re.search(r"^name: (\w+)$", text, re.MULTILINE)[1] for text in written.values() if "name: " in text)
    records = [json.loads(path.read_text()) for path in (copy / "results" / "runs").glob("*/run.json")]
    assert {record["method"]: record["state"] for record in records} == {name: "done", "nearest_point": "done"}
    (mine,) = [record for record in records if record["method"] == name]
    assert mine["parameters"]["labeler"] > 0 and mine["timings"]["steps"] == 4  # it did train
    assert mine["supervision"] == {"kind": "points", "points_per_target": 1, "boxes": 0, "masks": 0}
    for table_of_results in (out, (copy / "results" / "quickstart" / "report" / "table.md").read_text()):
        assert any(row.startswith(f"| {name} ") for row in table_of_results.splitlines())

    # "Ablate an option from the command line": the page's last words are accepted
    ablation = re.search(r"`(method\.\w+=[^`]*,[^`]*)`", PAGE.read_text())[1]
    plan = shell(copy, f"python -m benchmark.run grid=quickstart method={name} {ablation} {TINY} plan=true")
    rows = [row for row in plan.splitlines() if row.startswith("│") and ("missing" in row or "done" in row)]
    assert len(rows) == ablation.count(",") + 1

    shutil.rmtree(copy / "results")
    after = contents(copy)
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {*written, table} and before.keys() <= after.keys()
    added = [row for row in after[table].splitlines() if row not in before[table].splitlines()]
    assert added == [line.rstrip("\n")]


def test_every_block_says_what_it_is():
    """A block of another kind would not be tested."""
    kinds = [found["kind"] for found in BLOCK.finditer(PAGE.read_text())]
    assert len(kinds) == PAGE.read_text().count("\n```") / 2
    assert set(kinds) == {"python", "yaml", "line", "shell"}
    assert all(path for kind in ("python", "yaml", "line") for path, _ in blocks(kind))


def test_the_code_of_the_page_passes_the_linter(copy):
    files = write(copy, "python")
    shell(copy, " ".join(["python -m ruff check --no-cache", *files]))
