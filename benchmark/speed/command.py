"""``python -m benchmark.speed [key=value ...]``: measure the parts of this project beside what a user would pick instead.

    only=steps,geodesic    only these sections; the others keep what was measured before
                           steps       training steps of every method, split into stages
                           geodesic    shortest paths, against SciPy
                           sinkhorn    optimal transport, against plain loops and POT
                           tree        the tree filter, against SciPy and NumPy
                           pq          panoptic quality, against hotcoco and panopticapi's algorithm
                           loading     images per second of the data pipeline
                           commands    how soon plan=true and status answer
                           memory      memory over 2,000 training steps
    device=cpu|cuda        where tensors are (cpu)
    threads=N              of torch and of the compiled kernels (all cores); comparisons with one thread have one
    quick=true             few rounds, and no step of the papers' network on a CPU
    out=FOLDER             where FOLDER/<device>.json and .md go (results/speed)

Both files are written anew after every table. Measure on an idle machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console

from benchmark.configs import ConfigError, unknown
from benchmark.data.command import read_words, word_count, word_flag, word_names, word_path, word_text
from benchmark.data.errors import DataError

SECTIONS = {
    "steps": "benchmark.speed.steps", "geodesic": "benchmark.speed.geodesic", "sinkhorn": "benchmark.speed.sinkhorn",
    "tree": "benchmark.speed.tree", "pq": "benchmark.speed.quality", "loading": "benchmark.speed.loading",
    "commands": "benchmark.speed.commands", "memory": "benchmark.speed.memory",
}  # fmt: skip
"""Section -> module, whose ``measure(settings, record)`` yields its tables; imported once the threads are pinned."""

DEVICES = ("cpu", "cuda")
WORDS = {
    "only": word_names, "device": word_text, "threads": word_count, "quick": word_flag, "out": word_path,
}  # fmt: skip


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin_environment(threads: int) -> None:
    """Tell libraries that are not loaded yet how many threads to have. hotcoco gets one, as our metric is one thread."""
    for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["RAYON_NUM_THREADS"] = "1"


def measure_all(sections: Sequence[str], device: str, threads: int, quick: bool, out: Path, tell: Callable) -> None:
    """Measure sections one by one and write the files after each of their tables; ConfigError if a file cannot be kept."""
    import torch

    from benchmark.speed.harness import Settings, pinned
    from benchmark.speed.record import Record, describe
    from benchmark.speed.tables import render

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda needs a CUDA device, and torch finds none here; leave the word out.")
    record = Record(out, device)
    record.read()
    settings = Settings(torch.device(device), threads, quick, lambda line: tell(f"  {line}"))
    for name in sections:
        tell(f"{name} ...")
        began, tables = time.monotonic(), []
        with pinned(threads):
            for table in import_module(SECTIONS[name]).measure(settings, record):
                tables.append(table)
                record.put(name, describe(tables, device, threads, quick, time.monotonic() - began), tuple(SECTIONS))
                tell("\n".join(["", table.title, *render(table.to_json()), ""]))
    tell(f"Written: {record.page} and {record.file}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: measured; 1: stopped; 2: the command line cannot be used."""
    console = Console(highlight=False)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(word in ("-h", "--help", "help") for word in arguments):
        console.print(__doc__, markup=False)
        return 0

    def tell(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    try:
        words = read_words(arguments, WORDS)
        chosen = words.get("only", list(SECTIONS))
        for name in chosen:
            if name not in SECTIONS:
                raise unknown("section", name, SECTIONS)
        device = words.get("device", "cpu")
        if device not in DEVICES:
            raise unknown("device", device, DEVICES)
        threads = words.get("threads", available_cores())
        pin_environment(threads)
        in_order = [name for name in SECTIONS if name in chosen]
        measure_all(in_order, device, threads, words.get("quick", False), words.get("out", Path("results/speed")), tell)
    except (ConfigError, DataError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("Stopped; what was measured is kept.")
        return 1
    return 0
