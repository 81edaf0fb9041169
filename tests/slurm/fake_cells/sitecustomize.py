"""On a job's PYTHONPATH: runs are executed by the real `benchmark.execute`, but what they train is a list of numbers.

Everything about claiming, recording, failing and being queued again is the real thing; only its heavy imports and the
training itself are replaced, so that a job takes a second instead of half a minute. `tests.slurm.fake_grid` makes such runs.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

LIGHT = ("benchmark.data.errors", "benchmark.initial", "benchmark.ownership", "benchmark.runs", "benchmark.stopping")
CHECKPOINT_EVERY = 5


def fake_run(run, config, listener):
    """Instead of training and evaluating: one number a step, and whatever accident ``config["fake"]`` asks for."""
    fake, numbers = config["fake"], []
    if int(os.environ["SLURM_PROCID"]):
        accident(fake["accident"])
        return {}
    checkpoint = run.checkpoints / "numbers.json"
    if checkpoint.exists():
        numbers = json.loads(checkpoint.read_text())
    begun = {"pid": os.getpid(), "job": os.environ["SLURM_JOB_ID"], "from": len(numbers), "at": time.time()}
    with (run.folder / "starts.jsonl").open("a") as file:
        file.write(json.dumps(begun) + "\n")
    for step in range(len(numbers), fake["steps"]):
        while fake["waits"] and step == fake["steps"] // 2 and not (run.folder / "go").exists():
            run.guard()
            between_steps(run, checkpoint, numbers)
            time.sleep(0.05)
        between_steps(run, checkpoint, numbers)
        time.sleep(fake["seconds"])
        numbers.append(step * (config["seed"] + 1))
        if step % CHECKPOINT_EVERY == 0:
            save(run, checkpoint, numbers)
        with run.metrics_file.open("a") as file:
            file.write(json.dumps({"step": step + 1}) + "\n")
        listener.training(step + 1, fake["steps"], {"loss": 1.0})
    accident(fake["accident"])
    import benchmark

    return {"metrics": {"numbers": numbers}, "code": benchmark.__file__, "ended_at": time.time()}


def between_steps(run, checkpoint, numbers):
    from benchmark.stopping import Preempted, preemption_asked

    if name := preemption_asked():
        save(run, checkpoint, numbers)
        raise Preempted(f"{name} announced the end after step {len(numbers)}")


def save(run, checkpoint, numbers):
    run.guard()
    checkpoint.parent.mkdir(exist_ok=True)
    temporary = checkpoint.with_suffix(".partial")
    temporary.write_text(json.dumps(numbers))
    temporary.replace(checkpoint)


def accident(kind):
    if kind == "error":
        raise RuntimeError("the labeler lost its thread")
    if kind == "memory":
        raise MemoryError("full")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


class LightExecute(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `benchmark.execute` without what it takes to train."""

    def find_spec(self, name, path, target=None):
        if name != "benchmark.execute":
            return None
        sys.meta_path.remove(self)
        tree = ast.parse(Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8"))
        modules = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)} | {"torch"}
        for heavy in modules - set(LIGHT) - sys.stdlib_module_names - {"collections.abc"}:
            sys.modules[heavy] = MagicMock()
        sys.modules["torch"].cuda.OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
        self.module = importlib.import_module(name)
        del sys.modules[name]  # the import system takes what is there for the result, as it was before it was changed
        self.module.train_and_evaluate = fake_run
        self.module._description = lambda config: {"method": "fake", "seed": config["seed"]}
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, LightExecute())
