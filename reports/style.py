"""One look for all figures: colours, lines, fonts, files."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from d4rl_tasks.files import atomic_path
from experiment.options import POLICIES

# Okabe and Ito's palette without black and yellow: people who are colour-blind can tell them apart.
OKABE_ITO = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
MORE_COLOURS = "#882255", "#7F7F7F", "#332288", "#8C6D31", "#117733", "#AA4499", "#333333"
PALETTE = OKABE_ITO + MORE_COLOURS
DASHES = ((), (5, 1.5), (2, 1.2), (6, 1.5, 1.5, 1.5), (8, 2, 3, 2))  # in widths of the line
MARKERS = "osD^v<>P"
WIDEST, THINNEST = 2.6, 1.2  # points
DPI = 150
SVG_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.scale_dashes": True,
    "svg.hashsalt": "report",
    "savefig.dpi": DPI,
    # Names come from users: a $ is a $.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Style:
    """The line of a method: no two have the same, and equal lines are seen through each other."""

    colour: str
    dashes: tuple[float, ...]
    marker: str
    width: float

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a matplotlib line."""
        return {
            "color": self.colour,
            "lw": self.width,
            "dashes": self.dashes or (None, None),
            "marker": self.marker,
            "ms": 3.5,
        }


def styles_of(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method.

    The first method of a policy has the policy's own, the same in all figures, and the others
    have styles of no policy.
    """
    places: dict[str, int] = {}
    further = itertools.count(len(POLICIES))
    for method in methods:
        policy = method.partition(" ")[0]
        place = POLICIES.index(policy) if policy in POLICIES else None
        if place is None or place in places.values():
            place = next(further)
        places[method] = place
    step = (WIDEST - THINNEST) / max(len(methods) - 1, 1)
    return {
        method: Style(
            PALETTE[place % len(PALETTE)],
            DASHES[place % len(DASHES)],
            MARKERS[place % len(MARKERS)],
            WIDEST - step * index,
        )
        for index, (method, place) in enumerate(places.items())
    }


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend below the panels, in as many columns as the figure is wide enough for."""
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def policy_colour(policy: str) -> str | None:
    """A policy's own colour, the same in all figures; None for a name that is not a policy's."""
    return PALETTE[POLICIES.index(policy) % len(PALETTE)] if policy in POLICIES else None


def component_colours(count: int) -> list[str]:
    """Colours of components, "#rrggbb", none black or yellow: for more than 8 of a colour map."""
    if count <= 8:
        return list(PALETTE[:count])
    colours = matplotlib.colormaps["viridis"]
    return [matplotlib.colors.to_hex(colours(0.85 * i / (count - 1))) for i in range(count)]


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write <stem>.png and <stem>.svg; the same figure gives the same bytes."""
    paths = []
    for suffix, metadata in {".png": {"Software": None}, ".svg": SVG_METADATA}.items():
        path = stem.with_name(stem.name + suffix)
        with atomic_path(path) as temporary, matplotlib.rc_context(RC):
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)
        paths.append(path)
    return paths
