"""``python -m benchmark.data prepare NAME source=FOLDER out=FOLDER``: what people download, in COCO panoptic format.

    prepare voc2012     source=VOCdevkit/VOC2012 sbd=benchmark_RELEASE/dataset out=FOLDER
    prepare coco2017    source=FOLDER with annotations/, train2017/ and val2017/; out=FOLDER gets links
    prepare cityscapes  source=FOLDER with leftImg8bit/ and gtFine/; out=FOLDER

Further words:

    jobs=N              processes (default: one per core)
    allow_partial=true  go on with what is there, where files or images are missing, broken or other than published

Every image is decoded and checked. The same command again does only what is missing, and a split's JSON is written last.
Images are linked, not copied. The folder is then a data set: dataset.root=FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark.configs import ConfigError, unknown
from benchmark.data.command import read_words, word_count, word_flag, word_path
from benchmark.data.errors import DataError
from benchmark.data.preparations import plan_cityscapes, plan_coco, plan_voc
from benchmark.data.prepare import Preparation, carry_out
from benchmark.stopping import listen

PLANS: dict[str, Callable[[dict[str, Any], Path], Preparation]] = {
    "voc2012": lambda words, out: plan_voc(words["source"], words.get("sbd"), out),
    "coco2017": lambda words, out: plan_coco(words["source"], out),
    "cityscapes": lambda words, out: plan_cityscapes(words["source"], out),
}
WORDS = {"source": word_path, "out": word_path, "jobs": word_count, "allow_partial": word_flag}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(arguments: Sequence[str], console: Console) -> int:
    """Prepare the data set that the words after ``prepare`` ask for; the exit status.

    Raises:
        ConfigError, DataError: the words, folders or lists cannot be used.
    """
    if not arguments or arguments[0] not in PLANS:
        raise unknown("data set", arguments[0] if arguments else "", PLANS)
    name = arguments[0]
    known = {**WORDS, "sbd": word_path} if name == "voc2012" else WORDS
    words = read_words(arguments[1:], known, required=("source", "out"))
    out = words["out"].absolute()
    preparation = PLANS[name](words, out)
    if not carry_out(preparation, words.get("jobs", _cores()), words.get("allow_partial", False), console):
        return 1
    use = f"dataset=coco_panoptic dataset.root={out} dataset.name={preparation.name}"
    console.print(f"Use it with {use}", markup=False, soft_wrap=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: the folder is ready; 1: files are missing or broken; 2: words or folders cannot be used."""
    console = Console(highlight=False)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or any(word in ("-h", "--help", "help") for word in arguments):
        console.print(__doc__, markup=False)
        return 0 if arguments else 2
    try:
        if arguments[0] != "prepare":
            raise unknown("command", arguments[0], ["prepare"])
        return prepare(arguments[1:], console)
    except (ConfigError, DataError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on where this one ended.")
        return 1


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)  # a terminated command ends its processes as Ctrl-C does
    sys.exit(main())
