"""Which component of DMPO acts where: states, time, values."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4rl_tasks.errors import D4RLTaskError
from reports.errors import ReportError
from reports.models import Episode, Model, play, read_model
from reports.style import RC, component_colours, save

TIME_BINS = 40


def write_latent(path: Path, out: Path | None, episodes: int, seed: int) -> None:
    """Play episodes of a model of DMPO or DMPO_ant, and draw them to <out>.png and .svg.

    Raises:
        ReportError: the model or `out` cannot be used, or the policy is another.
    """
    model = read_model(path)
    if not model.components:
        raise ReportError(
            f"{path} is a model of {type(model.policy).__name__}: only DMPO and DMPO_ant choose "
            "among components"
        )
    played = play(model, episodes, seed)
    stem = out or path.with_name(f"{path.stem}_latent")
    if stem.suffix in (".png", ".svg"):
        stem = stem.with_suffix("")
    try:
        paths = save(draw(model, played), stem)
    except D4RLTaskError as error:
        raise ReportError(str(error)) from error
    for component, share in enumerate(shares(played, model.components)):
        print(f"component {component} acts in {100 * share:5.1f} % of the steps")
    print("written to " + " and ".join(map(str, paths)))


def shares(episodes: Sequence[Episode], components: int) -> np.ndarray:
    """(K,) share of all steps in which each component acted."""
    acted = np.concatenate([episode.components for episode in episodes])
    return np.bincount(acted, minlength=components) / len(acted)


def draw(model: Model, episodes: Sequence[Episode]) -> Figure:
    """Four panels: states, component use over time, values and their differences in an episode."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, 7), layout="constrained")
        states, use, values, gaps = figure.subplots(2, 2).flat
        colours = component_colours(model.components)
        _draw_states(states, episodes, colours)
        _draw_use(use, episodes, colours)
        _draw_values(values, episodes[0], colours)
        _draw_gaps(gaps, episodes[0], colours)
        handles = [
            Line2D([], [], color=colour, lw=4, label=f"{index} ({100 * share:.1f} %)")
            for index, (colour, share) in enumerate(
                zip(colours, shares(episodes, model.components), strict=True)
            )
        ]
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(8, len(handles)),
            title="component (share of all steps in which it acts)",
        )
        figure.suptitle(model.name, fontsize=9)
    return figure


def principal_components(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project states on the two directions of largest variance.

    Args:
        states: (n, S).

    Returns:
        (n, 2) projections, and the shares (2,) of the variance that they hold.
    """
    centred = states - states.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variance = np.square(singular)
    # States that are all one have no variance; any positive number gives shares of 0.
    return centred @ directions[:2].T, variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def _draw_states(axis: Axes, episodes: Sequence[Episode], colours: list[str]) -> None:
    states = np.concatenate([episode.states for episode in episodes]).astype(np.float64)
    points, held = principal_components(states)
    acted = np.concatenate([episode.components for episode in episodes])
    # In random order, so that no component covers the others.
    order = np.random.default_rng(0).permutation(len(points))
    axis.scatter(
        *points[order].T, c=np.array(colours)[acted[order]], s=4, lw=0, alpha=0.6, rasterized=True
    )
    axis.set_title(f"visited states, {len(episodes)} episodes", loc="left")
    axis.set_xlabel(f"1st principal component ({100 * held[0]:.0f} % of variance)")
    axis.set_ylabel(f"2nd principal component ({100 * held[1]:.0f} %)")


def _draw_use(axis: Axes, episodes: Sequence[Episode], colours: list[str]) -> None:
    """Share of the steps in a stretch of time, over the episodes that still ran."""
    steps = np.concatenate([np.arange(len(episode.returns)) for episode in episodes])
    acted = np.concatenate([episode.components for episode in episodes])
    edges = np.unique(np.linspace(0, steps.max() + 1, TIME_BINS + 1).astype(int))
    counts, _, _ = np.histogram2d(acted, steps, bins=(np.arange(len(colours) + 1), edges))
    share = 100 * counts / counts.sum(0)
    bottom = np.zeros(share.shape[1])
    for row, colour in zip(share, colours, strict=True):
        axis.bar(edges[:-1], row, np.diff(edges), bottom, align="edge", color=colour, lw=0)
        bottom += row
    axis.set(xlim=(0, edges[-1]), ylim=(0, 100), xlabel="step of the episode")
    axis.set_ylabel("share of the running episodes (%)")
    axis.set_title("which component acts when", loc="left")
    axis.grid(False)


def _draw_values(axis: Axes, episode: Episode, colours: list[str]) -> None:
    # Ever thinner, so that those of equal value are all seen.
    widths = np.linspace(5, 1, len(colours))
    for values, colour, width in zip(episode.values.T, colours, widths, strict=True):
        axis.plot(values, color=colour, lw=width)
    axis.set_title("value of each component, first episode", loc="left")
    axis.set_ylabel("Q(s, mu(s, z)), discounted return")
    _time_axis(axis, episode)


def _draw_gaps(axis: Axes, episode: Episode, colours: list[str]) -> None:
    gaps = episode.values - episode.values.max(1, keepdims=True)
    for gap, colour in zip(gaps.T, colours, strict=True):
        axis.plot(gap, color=colour, lw=0.8)
    # A few steps of a fall must not flatten all others.
    axis.set_ylim(min(1.2 * np.quantile(gaps, 0.01), -1e-6), 0)
    axis.set_title("the same, relative to the best; strip: which acts", loc="left", pad=16)
    axis.set_ylabel("Q - max Q, discounted return")
    _time_axis(axis, episode)
    strip = axis.inset_axes((0, 1.01, 1, 0.05), sharex=axis)
    _draw_strip(strip, episode, colours)


def _draw_strip(axis: Axes, episode: Episode, colours: list[str]) -> None:
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in colours])
    steps = len(episode.returns)
    axis.imshow(
        rgb[episode.components][None], aspect="auto", extent=(0, steps, 0, 1), interpolation="none"
    )
    axis.axis("off")


def _time_axis(axis: Axes, episode: Episode) -> None:
    axis.set_xlim(0, len(episode.returns))
    axis.set_xlabel("step of the episode")
