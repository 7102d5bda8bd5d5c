"""Draw the learning curves of finished runs: normalised score over train steps.

pip install matplotlib
python benchmarks/plot_curves.py results/*/*.csv --out curves.png
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's palette: people who are colour-blind can tell them apart.
COLOURS = {
    "DMPO": "#0072B2",
    "DMPO_ant": "#56B4E9",
    "AWAC": "#E69F00",
    "IQL": "#009E73",
    "mixAWAC": "#CC79A7",
    "LP_AWAC": "#D55E00",
}


def read_curve(path: Path) -> tuple[list[int], list[float]]:
    """Train steps and mean normalised scores of a run's CSV."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [int(row["step"]) for row in rows], [float(row["score_mean"]) for row in rows]


def scale_of(path: Path) -> str:
    """The scale in a run's name: "scale 10"."""
    (part,) = (part for part in path.stem.split("_") if part.startswith("scale"))
    return part.replace("scale", "scale ")


def first_of(policy: str, runs: list[tuple[str, Path]]) -> Path:
    """A policy's first run of a panel is drawn solid, its others dotted."""
    return next(path for name, path in runs if name == policy)


def draw(paths: list[Path], out: Path) -> None:
    """One panel for each task, one line for each run."""
    tasks: dict[str, list[tuple[str, Path]]] = {}
    for path in paths:
        policy = path.parent.name
        task = path.stem.removeprefix(policy + "_").split("_")[0]
        tasks.setdefault(task, []).append((policy, path))
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4.8 * len(tasks), 3.8), squeeze=False, layout="constrained"
    )
    for axis, (task, runs) in zip(axes[0], tasks.items(), strict=True):
        for policy, path in runs:
            axis.plot(
                *read_curve(path),
                marker="o",
                ms=3,
                label=f"{policy}, {scale_of(path)}",
                color=COLOURS[policy],
                linestyle="-" if path == first_of(policy, runs) else ":",
            )
        axis.set(title=task, xlabel="train steps", ylabel="normalised score (10 episodes)")
        axis.set_ylim(-0.05, 1.1)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("csv", type=Path, nargs="+", help="results/<policy>/<run>.csv")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    arguments = parser.parse_args()
    draw(arguments.csv, arguments.out)


if __name__ == "__main__":
    main()
