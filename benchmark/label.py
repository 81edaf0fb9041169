"""``python -m benchmark.label run=RUN images=DIR points=FILE out=DIR``: labels for your images from their points.

    run=RUN             a finished run with its weights: its id, or its folder
    images=DIR          the folder of the images
    points=FILE         a CSV with the columns image,x,y,class,instance, or a points file (.npz)
    out=DIR             gets panoptic.json, instances.json, panoptic/, SegmentationClass/, SegmentationObject/, overlays/
    results_dir=results where runs are looked for
    count=N             use the first N points of each target only
    truth=FILE          a COCO panoptic JSON with its PNG folder beside it: measure the labels as well
    overlays=false      make no pictures
    device=auto         auto, cpu or cuda
    workers=0           processes that read images ahead

Every segment has a score. The same command again does what is missing; an image that cannot be used is passed over and
listed at the end and in skipped.txt. Exit status 0: every image has labels; 1: some have none; 2: the command cannot work.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from benchmark.export.command import LABEL, command
from benchmark.stopping import listen, preempt_on


def main(arguments: Sequence[str] | None = None) -> int:
    """Label the images; returns the exit status."""
    return command(LABEL, __doc__, arguments)


if __name__ == "__main__":
    listen(signal.SIGINT, signal.SIGTERM)
    preempt_on(signal.SIGUSR2)
    sys.exit(main())
