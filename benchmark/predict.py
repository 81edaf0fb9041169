"""``python -m benchmark.predict run=RUN images=DIR out=DIR``: what a trained network sees in your images, without points.

    run=RUN             a finished run with its weights and a head, or a semantic one: its id, or its folder
    images=DIR          the folder of the images; subfolders count
    out=DIR             gets panoptic.json, instances.json, panoptic/, SegmentationClass/, SegmentationObject/, overlays/;
                        of a semantic run, SegmentationClass/ and overlays/
    results_dir=results where runs are looked for
    truth=FILE          a COCO panoptic JSON with its PNG folder beside it: measure the predictions as well
    overlays=false      make no pictures
    device=auto         auto, cpu or cuda
    workers=0           processes that read images ahead

The same command again does what is missing; an image that cannot be used is passed over and listed at the end and in
skipped.txt. Exit status 0: every image has a prediction; 1: some have none; 2: the command cannot work.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from benchmark.export.command import PREDICT, command
from benchmark.stopping import listen, preempt_on


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict the images; returns the exit status."""
    return command(PREDICT, __doc__, arguments)


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)
    preempt_on(signal.SIGUSR2)
    sys.exit(main())
