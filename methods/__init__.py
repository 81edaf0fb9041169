"""Methods that learn from clicked points: one folder per paper, one interface per kind of network, one table."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.base.labeler import PseudoLabeler
    from methods.base.semantic_method import SemanticMethod
    from methods.base.types import Categories

    Method = PseudoLabeler | SemanticMethod


class _Methods(UserDict):
    """Name -> class of the method. An entry may be given as ``"module:Class"``; it is imported when it is first looked up,
    so that one method's kernels can be used without loading every other method."""

    def __getitem__(self, name: str) -> type[Method]:
        if name not in self.data:
            raise KeyError(f"Unknown method '{name}'; the known methods are {', '.join(sorted(self.data))}.")
        entry = self.data[name]
        if isinstance(entry, str):
            module, class_name = entry.split(":")
            entry = self.data[name] = getattr(import_module(module), class_name)
        return entry


METHODS: Mapping[str, type[Method]] = _Methods(
    {
        "psps": "methods.psps.labeler:PSPS",
        "point2mask": "methods.point2mask.labeler:Point2Mask",
        "fdd": "methods.fdd.labeler:FDD",
        "anchor_query": "methods.anchor_query.labeler:AnchorQuery",
        "agmm": "methods.agmm.labeler:AGMM",
        "agmm_semantic": "methods.agmm.semantic:AGMMSemantic",
        "nearest_point": "methods.controls.nearest_point:NearestPoint",
        "semantics_nearest": "methods.controls.semantics_nearest:SemanticsNearest",
        "full_masks": "methods.controls.full_masks:FullMasks",
        "oracle_semantics": "methods.controls.oracle_semantics:OracleSemantics",
        "partial_cross_entropy": "methods.controls.partial_cross_entropy:PartialCrossEntropy",
    }
)
"""The methods by name, as in ``name:`` of their config file. A new method is its folder and one line here.

The class says what it trains: a `PseudoLabeler` labels for the panoptic network, a `SemanticMethod` trains a semantic one.
"""


def method_class(name: str) -> type[Method]:
    """The class of a method; KeyError that lists the known names otherwise."""
    return METHODS[name]


def build_labeler(name: str, categories: Categories, channels: int, options: Mapping[str, Any]) -> Any:
    """A labeler, or a method of a semantic network, from the options of its config.

    Args:
        name: a key of `METHODS`.
        categories: of the data set.
        channels: width D of the maps that it reads: the encoder's, or the fused map of a semantic network.
        options: the keys of the method's config but ``name``.

    Raises:
        KeyError: unknown method, listing the known ones.
        ValueError: an option that the method does not have, listing those it has.
    """
    from methods.base.options import call_with_options

    return call_with_options(method_class(name), options, f"method '{name}'", categories, channels)
