"""One look for all figures: colours, fonts, files."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from d4rl_tasks.files import atomic_path
from reports.runs import POLICY_ORDER

# Okabe and Ito's palette: people who are colour-blind can tell them apart.
BLUE, SKY, ORANGE, GREEN, PURPLE, RED, BLACK, YELLOW = OKABE_ITO = (
    *("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#000000", "#F0E442"),
)
POLICY_COLOURS = dict(
    zip(POLICY_ORDER, (BLUE, SKY, ORANGE, GREEN, PURPLE, RED), strict=True),
)
DPI = 150
RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "report",
    "savefig.dpi": DPI,
}


def policy_colour(policy: str) -> str:
    """A policy's own colour; black for one that is not the paper's."""
    return POLICY_COLOURS.get(policy, BLACK)


def component_colours(count: int) -> list[str]:
    """Colours of components, "#rrggbb": Okabe and Ito's, or for more than 8 a colour map's."""
    if count <= len(OKABE_ITO):
        return list(OKABE_ITO[:count])
    colours = matplotlib.colormaps["viridis"].resampled(count)
    return [matplotlib.colors.to_hex(colours(index)) for index in range(count)]


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write <stem>.png and <stem>.svg; the same figure gives the same bytes."""
    paths = []
    for suffix, metadata in {".png": {"Software": None}, ".svg": {"Date": None}}.items():
        path = stem.with_name(stem.name + suffix)
        with atomic_path(path) as temporary, matplotlib.rc_context(RC):
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)
        paths.append(path)
    return paths
