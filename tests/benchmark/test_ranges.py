"""Words of the wrong kind or out of range are refused before anything runs, in one sentence that names key and value."""

from __future__ import annotations

import pytest

from benchmark.configs import ConfigError, compose_run, names_in, value_at
from benchmark.expand import NothingAtScale, expand
from benchmark.grid import load_grid
from benchmark.ranges import LEAST_WHOLE, check_ranges
from benchmark.run import main
from tests.benchmark.tiny_runs import grid_words


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("schedule.steps=abc", "'schedule.steps=abc' is not a number, as its default 220 is"),
        ("schedule.lr=abc", "'schedule.lr=abc' is not a number"),
        ("schedule.lr=true", "'schedule.lr=true' is not a number"),
        ("method.stuff_threshold=abc", "'method.stuff_threshold=abc' is not a number"),
        ("method.warmup=[0.1]", "'method.warmup=[0.1]' is not a number"),
        ("dataset.points.count=abc", "'dataset.points.count=abc' is not a number"),
        ("method.directed=3", "'method.directed=3' is not true or false"),
        ("schedule.decay_at=0.8", "'schedule.decay_at=0.8' is not a list"),
        ("schedule.steps=0", "schedule.steps=0 is not a whole number from 1 on"),
        ("schedule.steps=-3", "schedule.steps=-3 is not a whole number from 1 on"),
        ("schedule.steps=1.5", "schedule.steps=1.5 is not a whole number from 1 on"),
        ("schedule.log_every=0", "schedule.log_every=0"), ("schedule.checkpoint_every=0", "schedule.checkpoint_every=0"),
        ("schedule.lr=0", "schedule.lr=0 is not above 0"), ("schedule.lr=-1", "schedule.lr=-1 is not above 0"),
        ("evaluation.gallery_images=-1", "evaluation.gallery_images=-1 is not a whole number from 0 on"),
        ("method.layers=0", "method.layers=0"), ("jobs=0", "jobs=0 is not a whole number from 1 on"),
    ],
)
def test_a_wrong_value_is_one_sentence_and_leaves_nothing(tmp_path, capsys, word, part):
    assert main(grid_words(tmp_path, "method=psps", word)) == 2
    out = capsys.readouterr().out
    assert out.startswith("error: ") and out.count("\n") == 1 and part in out.replace("\n", " "), out
    assert not (tmp_path / "runs").exists() and not (tmp_path / "quickstart").exists()


@pytest.mark.parametrize(
    "word", ["schedule.lr=1", "schedule.steps=null", "method.stuff_threshold=1", "dataset.points.count=all",
             "+method.new=text", "schedule.decay_at=[]", "method.warmup=${schedule.color_warmup}"],
)  # fmt: skip
def test_what_has_a_meaning_is_accepted(word):
    compose_run(["scale=demo", "method=psps", word])


@pytest.mark.parametrize("name", names_in("grid"))
def test_every_cell_of_every_grid_is_in_range(name):
    for scale in ([], ["scale=paper"]):
        try:
            cells = expand(load_grid(name), scale, [0])
        except (NothingAtScale, ConfigError):
            continue  # a grid of keys that this scale does not have
        for cell in cells:
            check_ranges(cell.config)


def test_each_key_exists_in_some_config():
    configs = [compose_run([f"scale={scale}", f"method={method}"]) for scale in ("demo", "paper")
               for method in ("psps", "anchor_query")]  # fmt: skip
    assert [key for key in LEAST_WHOLE if all(value_at(config, key) is None for config in configs)] == []
