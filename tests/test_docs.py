"""What the documents point at exists, and the commands that they show are accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmark.expand import expand
from benchmark.grid import load_grid
from benchmark.request import read_request

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("methods/*/README.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"python -m benchmark\.run[^`\n]*")
SUFFIXES = (".py", ".md", ".yaml", ".toml", ".js", ".css", ".html")
TOP = {path.name for path in ROOT.iterdir()}

OF_A_RUN = {"pictures/", "index.html"}
"""Written by runs and reports, below ``results/``."""


def prose(document):
    return FENCE.sub("", document.read_text())


def is_path(text):
    """Whether a quoted word is the path of a file or folder of the project, without placeholders."""
    if re.search(r"[\s<>*{}=|()$]", text) or re.search(r"\b[A-Z]{3,}\b", text.replace("README", "")):
        return False
    return text.endswith((*SUFFIXES, "/")) or ("/" in text and text.split("/")[0] in TOP)


def exists(path, document):
    """Relative to the project or to the document; a word without a folder (``types.py``) may be in any package."""
    if path in OF_A_RUN or path.startswith(("results/", ".venv/")):
        return True  # made by running the project
    if (ROOT / path).exists() or (document.parent / path).exists():
        return True
    name = path.rstrip("/")
    tops = ("methods", "benchmark", "reports", "slurm")
    return "/" not in name and any(next(ROOT.glob(f"{top}/**/{name}"), None) for top in tops)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_relative_links_lead_somewhere(document):
    targets = [link.partition("#")[0] for link in LINK.findall(prose(document)) if "://" not in link]
    assert [link for link in targets if link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_quoted_paths_exist(document):
    paths = [text for text in QUOTED.findall(prose(document)) if is_path(text)]
    assert [path for path in paths if not exists(path, document)] == []


DOTTED = re.compile(r"^[a-z_]+(\.\w+)+$")
FILE = re.compile(r"\.(py|csv|jsonl?|png|npz|log|safetensors)$")


def lacks(name, document):
    """Whether a quoted ``module.name`` names a module of the project that has no such name; other words are no modules."""
    parts = name.split(".")
    for folder in (document.parent, ROOT, ROOT / "methods", ROOT / "methods" / "ops", ROOT / "benchmark", ROOT / "reports"):
        for end in range(len(parts) - 1, 0, -1):
            module = folder.joinpath(*parts[:end]).with_suffix(".py")
            if module.is_file():
                return not re.search(rf"\b{parts[end]}\b", module.read_text())  # defined there, or handed on
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_quoted_names_of_modules_exist(document):
    names = [text for text in QUOTED.findall(prose(document)) if DOTTED.match(text) and not FILE.search(text)]
    assert [name for name in names if lacks(name, document)] == []


def test_the_check_of_names_can_fail():
    readme = ROOT / "methods" / "point2mask" / "README.md"
    assert lacks("transport_labels.nonesuch", readme) and not lacks("transport_labels.transported_owners", readme)
    assert lacks("benchmark.plan.nonesuch", readme) and not lacks("benchmark.plan.look", readme)
    assert not lacks("method.beta", readme)


def test_the_check_of_paths_can_fail():
    readme = ROOT / "README.md"
    assert is_path("methods/nonesuch.py") and not exists("methods/nonesuch.py", readme)
    assert is_path("nonesuch.py") and not exists("nonesuch.py", readme)
    assert is_path("benchmark/conf/nonesuch/") and not exists("benchmark/conf/nonesuch/", readme)
    assert not is_path("methods/<name>/") and not is_path("results/NAME/report/") and not is_path("head=none")
    found = sum(is_path(text) for document in DOCUMENTS for text in QUOTED.findall(prose(document)))
    assert found > 20


def commands():
    for document, name in zip(DOCUMENTS, NAMES, strict=True):
        for line in COMMAND.findall(document.read_text()):
            words = shlex.split(line, comments=True)[3:]
            if words:
                yield pytest.param(words, id=f"{name}: {' '.join(words)}")


@pytest.mark.parametrize("words", commands())
def test_commands_are_accepted(words):
    """Read as they are shown; every cell that they ask for has a config. No data is touched."""
    if any("disc_around_point" in word for word in words):
        words = [word.replace("disc_around_point,", "") for word in words]  # the method that its page adds
    request = read_request(words)
    assert expand(load_grid(request.grid), request.overrides, request.seeds)


def test_commands_are_found():
    assert len(list(commands())) >= 5


def test_the_readme_lists_every_method():
    """A method of the table without a line in the README would not be found by a reader."""
    labels = {path.stem for path in (ROOT / "benchmark" / "conf" / "method").glob("*.yaml")}
    quoted = set(QUOTED.findall((ROOT / "README.md").read_text()))
    assert labels <= quoted
