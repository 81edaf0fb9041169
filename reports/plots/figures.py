"""What all plots of a page share: colours that differ without colour vision, ink that follows the page, SVG as text.

Ink is drawn in a colour of its own that becomes ``currentColor``, so that one figure serves a light and a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK = "#010203"
COLORS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9", "#949494")
"""seaborn's "colorblind" palette without the two that fade on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")

STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "reports", "text.parse_math": False, "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"], "font.size": 9,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.12, "axes.titlesize": 9,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure of a page: its name (unique, a word), its title, what it shows, and itself as an ``<svg>`` element."""

    name: str
    title: str
    caption: str
    svg: str


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib as pages want it."""
    with matplotlib.rc_context(STYLE):
        yield


def look(index: int) -> dict[str, str]:
    """Colour, marker and dash of the series with this number: never all three alike in the first 32."""
    place = index % len(COLORS)
    turn = index // len(COLORS)
    marker = MARKERS[(place + turn) % len(MARKERS)]
    return {"color": COLORS[place], "marker": marker, "linestyle": DASHES[turn % len(DASHES)]}


def short(text: str, most: int = 34) -> str:
    """A name that fits beside an axis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def panels(count: int, height: float, width: float = 3.6) -> tuple[Figure, Sequence[Axes]]:
    """A figure with ``count`` axes side by side, sizes in inches."""
    figure = Figure(figsize=(max(width * count, 4.2), height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def log_scale(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make the x or y axis logarithmic, its ticks plain numbers (1, 2, 5, 10, ...)."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an ``<svg>`` element for inside a page: no prologue, its ids prefixed with ``name``, deterministic."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", text)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
