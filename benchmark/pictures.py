"""The gallery images of a run: labels, prediction and ground truth of the same images as COCO-style id maps, and the maps
that the labels were decided from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.data.segment_ids import encode_ids
from benchmark.runs import write_json_atomically
from benchmark.scalar_maps import gray_map
from methods.base.evidence import Evidence
from methods.base.types import Categories


class PictureBook:
    """Collects maps of chosen images under ``folder`` and writes the index last.

    Args:
        folder: the run's pictures folder.
        indices: places in the data set of the images to keep.
        split: their split, for the index.
        categories: of the data set.
        with_images: also keep the images (only where they may be redistributed, or the user asked for it).
    """

    def __init__(self, folder: Path, indices: list[int], split: str, categories: Categories, with_images: bool):
        self.folder, self.indices, self.split = folder, set(indices), split
        self.categories, self.with_images = categories, with_images
        self.entries: dict[int, dict[str, Any]] = {}

    def wants(self, item: Any) -> bool:
        """Whether an image is one of the gallery."""
        return item.index in self.indices

    def add_labels(self, item: Any, ids: np.ndarray, targets: list[tuple[int, int]]) -> None:
        """Keep pseudo labels: ``ids`` (H, W) with target index + 1, ``targets`` (segment id, category id)."""
        if self.wants(item):
            segments = [{"id": i + 1, "category_id": category} for i, (_, category) in enumerate(targets)]
            self._keep(item, "labels", ids, segments)

    def add_evidence(self, item: Any, evidence: Sequence[Evidence]) -> None:
        """Keep the maps that the pseudo labels were decided from, as grayscale of their own resolution or less
        (`benchmark.scalar_maps`); the index has what they are and between which values they lie."""
        if not self.wants(item):
            return
        entry = self._entry(item)
        entry["maps"] = []
        for each in evidence:
            stored = gray_map(each.values.cpu().numpy())
            file = f"{entry['key']}_map_{_slug(each.name)}.png"
            self._save(Image.fromarray(stored.gray), file)
            told = {"name": each.name, "about": each.about, "bright": each.bright, "unit": each.unit}
            ends = {"low": stored.low, "high": stored.high}
            entry["maps"].append({**told, "missing": each.missing, **ends, "file": file})

    def add_prediction(self, item: Any, ids: np.ndarray, segments: list[dict[str, Any]]) -> None:
        """Keep a panoptic prediction."""
        if self.wants(item):
            self._keep(item, "prediction", ids, segments)

    def write(self) -> None:
        """Write the index of what was kept."""
        if self.entries:
            write_json_atomically(self.folder / "index.json", [self.entries[i] for i in sorted(self.entries)])

    def _keep(self, item: Any, kind: str, ids: np.ndarray, segments: list[dict[str, Any]]) -> None:
        entry = self._entry(item)
        present = set(np.unique(ids).tolist())
        entry["segments"][kind] = [s for s in segments if s["id"] in present]
        self._save(Image.fromarray(encode_ids(ids)), f"{entry['key']}_{kind}.png")

    def _entry(self, item: Any) -> dict[str, Any]:
        if item.index in self.entries:
            return self.entries[item.index]
        entry = {
            "key": f"{self.split}_{item.index:06d}",
            "image_id": item.record.id,
            "split": self.split,
            "height": item.record.height,
            "width": item.record.width,
            "points": self._points(item),
            "segments": {},
        }
        self.entries[item.index] = entry
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep(item, "ground_truth", item.annotation.ids, item.annotation.segments)
        if self.with_images:
            self._save(_image(item), f"{entry['key']}_image.png")
        return entry

    def _points(self, item: Any) -> list[dict[str, Any]]:
        """The points at the image file's size."""
        labels, (height, width) = item.sample.points, item.sample.image.shape[-2:]
        scale_x, scale_y = item.record.width / width, item.record.height / height
        return [
            {
                "x": min(item.record.width - 1, int((x + 0.5) * scale_x)),
                "y": min(item.record.height - 1, int((y + 0.5) * scale_y)),
                "target": target,
                "label": self.categories[label].name,
                "category": self.categories[label].id,
                "is_thing": self.categories[label].is_thing,
            }
            for (x, y), target, label in zip(
                labels.xy.tolist(), labels.target.tolist(), labels.point_classes.tolist(), strict=True
            )
        ]

    def _save(self, picture: Image.Image, name: str) -> None:
        temporary = self.folder / f".{name}.partial"
        picture.save(temporary, format="PNG", optimize=True)
        temporary.replace(self.folder / name)


def _slug(name: str) -> str:
    """A name as part of a file name: lower case letters and digits, joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


def _image(item: Any) -> Image.Image:
    """The network's input image at the file's size."""
    pixels = (item.sample.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return Image.fromarray(pixels).resize((item.record.width, item.record.height), Image.Resampling.BILINEAR)
