"""Section ``tree``: the tree filter of Point2Mask, against SciPy's spanning tree and NumPy sweeps over its levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmark.speed.harness import Agreement, Settings, closeness, compare, pinned
from benchmark.speed.inputs import colours, probabilities
from benchmark.speed.plain import numpy_tree_filter, ranked_graph, scipy_tree
from benchmark.speed.rows import COMPARISONS, Table
from benchmark.speed.targets import TREE
from methods.point2mask.spanning_tree import SpanningTree, spanning_tree
from methods.point2mask.tree_energy import tree_filter

SIZES = ((100, 150), (200, 300))
CHANNELS = 21
SIGMA = 0.02
TOLERANCE = 1e-4
"""Of float32 sums along paths of a thousand steps, relative to the largest value."""


def measure(settings: Settings, _: Any) -> Iterator[Table]:
    """Tree, filter with its gradient, and both."""
    table = Table(
        "Against SciPy and NumPy", COMPARISONS,
        f"{CHANNELS} channels on {settings.device.type}, one thread each; trees are made on the CPU. The other side: "
        "`minimum_spanning_tree` and `breadth_first_order` of a graph that is made before, then NumPy over the levels of "
        "the tree, in float32.",
    )
    with pinned(1):
        for size in SIZES:
            settings.tell(f"tree filter, {size[0]} x {size[1]}")
            table.rows.extend(_at(size, settings))
    yield table


def _at(size: tuple[int, int], settings: Settings) -> list[dict[str, Any]]:
    # colours of deviation 1, as the filter wants them; whole numbers of 64ths, so that both sides see the same ties
    image = 4 * colours(size, seed=4)
    probs = probabilities(size, CHANNELS, seed=4).to(settings.device)
    gradient = torch.randn(probs.shape, generator=torch.Generator().manual_seed(5)).to(settings.device)
    pixels, values, upstream = image.numpy(), probs.cpu().numpy(), gradient.cpu().numpy()
    graph, tree, levels = ranked_graph(pixels), spanning_tree(image), scipy_tree(ranked_graph(pixels), pixels, SIGMA)

    def filtered(tree: SpanningTree) -> tuple[np.ndarray, np.ndarray]:
        leaf = probs.clone().requires_grad_()
        result = tree_filter(leaf, None, SIGMA, tree=tree)
        result.backward(gradient)
        return result, leaf.grad

    def agree(ours: Any, other: Any) -> Agreement:
        both = [closeness(mine, theirs, TOLERANCE) for mine, theirs in zip(ours, other, strict=True)]
        worst = max(both, key=lambda agreement: agreement.figures["largest difference"])
        return Agreement(all(agreement.same for agreement in both), worst.figures)

    def same_weight(ours: SpanningTree, _: Any) -> Agreement:
        theirs = scipy_tree(graph, pixels, 1.0)  # at sigma 1 the logarithm of an affinity is a squared step
        total = float(-np.log(theirs.weights[theirs.weights > 0]).sum())
        return closeness(float(ours.squared_distances.double().sum()), total, 1e-6)

    case, budget, device = f"{size[0]} x {size[1]}", settings.budget(3), settings.device
    other = "SciPy and NumPy"
    return [
        compare(f"{case}, tree, forward and backward", other, lambda: filtered(spanning_tree(image)),
                lambda: numpy_tree_filter(values, upstream, scipy_tree(graph, pixels, SIGMA)), agree, budget, device, TREE),
        compare(f"{case}, tree alone", other, lambda: spanning_tree(image), lambda: scipy_tree(graph, pixels, SIGMA),
                same_weight, budget, device),
        compare(f"{case}, forward and backward alone", other, lambda: filtered(tree),
                lambda: numpy_tree_filter(values, upstream, levels), agree, budget, device, TREE),
    ]  # fmt: skip
