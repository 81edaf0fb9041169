"""A grid of a thousand runs and 21 classes: everything is in its page. The time is printed, not asserted."""

import json
import time

import pytest

from benchmark.label_quality import LabelQuality
from benchmark.metrics import MeanIoU, PanopticQuality
from reports.build import build_report
from tests.reports.sweep import record, write_run

CATEGORIES = [{"id": i, "name": f"class {i}", "isthing": int(i < 21)} for i in range(1, 22)]
CELLS, SEEDS, IMAGES = 200, 5, 100


def sums(cell, seed):
    """Made-up raw sums of 21 classes and a hundred images."""
    panoptic, labels, semantic = PanopticQuality(CATEGORIES), LabelQuality(CATEGORIES), MeanIoU(21)
    state = panoptic.state()
    for i, name in enumerate(state):
        tp = 20 + (i * 7 + cell) % 30
        state[name].update(iou=tp * (0.6 + 0.3 * ((cell + i + seed) % 7) / 7), tp=tp, fp=seed, fn=i)
    quality = {**labels.state(), "panoptic": state}
    quality["images"] = {str(k): [1.0 + (k + cell + seed) % 10 / 10, 2, 50, 90, 300, 400] for k in range(IMAGES)}
    quality["box_iou"] = dict.fromkeys(quality["images"], 1.0)
    confusion = semantic.state()
    confusion["confusion"] = [[90 if a == b else 1 for b in range(21)] for a in range(21)]
    part = {"quality": quality, "semantic": None}
    val = {"panoptic": state, "semantic": {"source": "panoptic map", **confusion}}
    return {"val": val, "labels_train": part, "labels_val": part}


@pytest.mark.slow
def test_a_thousand_runs(tmp_path, capsys):
    cells = []
    for cell in range(CELLS):
        for seed in range(SEEDS):
            run_id = f"r{cell}-s{seed}"
            config = {"seed": seed, "method": {f"key{k}": k for k in range(150)} | {"weight": cell}}
            folder = write_run(tmp_path, record(run_id, "psps", seed, metrics=sums(cell, seed), config=config))
            lines = (json.dumps({"step": step, "loss": 1 / step, "a/b": 0.5 / step}) for step in range(10, 250, 10))
            (folder / "metrics.jsonl").write_text("\n".join(lines))
            (folder / "log.txt").write_text("a line of the log\n" * 20)
            cells.append({"run_id": run_id, "axes": {"method.weight": str(cell)}, "seed": seed})
    (tmp_path / "g").mkdir()
    content = {"grid": "g", "title": "Large", "runs": [c["run_id"] for c in cells], "cells": cells}
    (tmp_path / "g" / "grid.json").write_text(json.dumps(content))
    began = time.perf_counter()
    page = build_report(tmp_path, "g").read_text(encoding="utf-8")
    seconds = time.perf_counter() - began
    with capsys.disabled():
        print(f"\n{CELLS * SEEDS} runs x 21 classes: page of {len(page) / 1e6:.1f} MB in {seconds:.1f} s")
    assert page.count('<tr data-row="') == 2 * CELLS and "200 rows are too many to be drawn" in page
    assert all(f'"r{cell}-s{seed}"' in page for cell in range(CELLS) for seed in range(SEEDS))
