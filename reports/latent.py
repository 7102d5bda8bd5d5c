"""Which component of DMPO acts where: states, time, values."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.errors import ReportError
from reports.models import Episode, Model, play, read_model
from reports.paths import output_path
from reports.style import RC, component_colours, save

TIME_BINS = 40
LONGEST_LEGEND = 24
WINDOW = 150  # steps of the first episode that are shown one by one


def write_latent(path: Path, out: Path | None, episodes: int, seed: int | None) -> None:
    """Play episodes of a model with components, and draw them to <out>.png and .svg.

    Args:
        out: a file or a folder; None writes beside the model.
        seed: of the run whose evaluation is played; None takes the model's.

    Raises:
        UserError: the model or `out` cannot be used, or the policy has no components.
    """
    model = read_model(path)
    if not model.components:
        raise ReportError(
            f"{path} is a model of {model.policy_name}: only DMPO and DMPO_ant choose among "
            "components"
        )
    stem = output_path(out, path.with_name(f"{path.stem}_latent"))
    if stem.suffix in (".png", ".svg"):
        stem = stem.with_suffix("")
    played = play(model, episodes, model.seed if seed is None else seed)
    paths = save(draw(model, played), stem)
    for component, share in enumerate(shares(played, model.components)):
        print(f"component {component} acts in {100 * share:5.1f} % of the steps")
    print("written to " + " and ".join(map(str, paths)))


def shares(episodes: Sequence[Episode], components: int) -> np.ndarray:
    """(K,) share of all steps in which each component acted."""
    acted = np.concatenate([episode.components for episode in episodes])
    return np.bincount(acted, minlength=components) / len(acted)


def window(episode: Episode) -> slice:
    """The middle steps of an episode, at most 150."""
    start = max(0, (len(episode.returns) - WINDOW) // 2)
    return slice(start, min(start + WINDOW, len(episode.returns)))


def draw(model: Model, episodes: Sequence[Episode]) -> Figure:
    """Four panels: states, use over time, and a window of an episode: who acts, and the values."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(11, 7.5), layout="constrained")
        (states, use), (acting, gaps) = figure.subplots(2, 2)
        colours = component_colours(model.components)
        _draw_states(states, episodes, colours)
        _draw_use(use, episodes, model.components)
        _draw_acting(acting, episodes[0], colours)
        _draw_gaps(gaps, episodes[0])
        _add_legend(figure, shares(episodes, model.components), colours)
        figure.suptitle(f"{model.policy_name} on {model.env}, seed {model.seed}", fontsize=9)
    return figure


def _add_legend(figure: Figure, share: np.ndarray, colours: list[str]) -> None:
    """Name the components that act most."""
    most = np.sort(np.argsort(-share, kind="stable")[:LONGEST_LEGEND])
    handles = [
        Line2D([], [], color=colours[index], lw=4, label=f"{index} ({100 * share[index]:.1f} %)")
        for index in most
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(8, len(handles)),
        title="component (share of all steps in which it acts)",
    )


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
    # Equal states have no variance; any positive number gives shares of 0.
    return centred @ directions[:2].T, variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def _draw_states(axis: Axes, episodes: Sequence[Episode], colours: list[str]) -> None:
    states = np.concatenate([episode.states for episode in episodes]).astype(np.float64)
    points, held = principal_components(states)
    acted = np.concatenate([episode.components for episode in episodes])
    # In random order, so that no component covers the others.
    order = np.random.default_rng(0).permutation(len(points))
    x, y = points[order].T
    axis.scatter(x, y, c=np.array(colours)[acted[order]], s=4, lw=0, alpha=0.6, rasterized=True)
    axis.set_title(f"visited states, {len(episodes)} episodes", loc="left")
    axis.set_xlabel(f"1st principal component ({100 * held[0]:.0f} % of variance)")
    axis.set_ylabel(f"2nd principal component ({100 * held[1]:.0f} %)")


def use_over_time(episodes: Sequence[Episode], components: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each component acts in each stretch of time, of the episodes that still run.

    Returns:
        the edges of the stretches in steps (B + 1,), and shares (K, B) that sum to 1 over K.
    """
    steps = np.concatenate([np.arange(len(episode.returns)) for episode in episodes])
    acted = np.concatenate([episode.components for episode in episodes])
    edges = np.unique(np.linspace(0, steps.max() + 1, TIME_BINS + 1).astype(int))
    counts, _, _ = np.histogram2d(acted, steps, bins=(np.arange(components + 1), edges))
    return edges, counts / counts.sum(0)


def _draw_use(axis: Axes, episodes: Sequence[Episode], components: int) -> None:
    edges, share = use_over_time(episodes, components)
    image = axis.pcolormesh(
        edges, np.arange(components + 1) - 0.5, 100 * share, cmap="Blues", vmin=0, vmax=100
    )
    axis.figure.colorbar(image, ax=axis, label="share of the running episodes (%)")
    axis.set_title(f"which component acts when, {len(episodes)} episodes", loc="left")
    axis.set_xlabel("step of the episode")
    _component_axis(axis, components)


def _draw_acting(axis: Axes, episode: Episode, colours: list[str]) -> None:
    shown = window(episode)
    steps = np.arange(shown.start, shown.stop)
    acted = episode.components[shown]
    axis.bar(steps, 0.9, 1.0, acted - 0.45, align="edge", color=np.array(colours)[acted], lw=0)
    axis.set_title(f"which component acts, first episode, {len(steps)} steps", loc="left")
    axis.set(xlim=(shown.start, shown.stop), xlabel="step of the episode")
    _component_axis(axis, len(colours))


def _draw_gaps(axis: Axes, episode: Episode) -> None:
    """How far each component's value is below the best one's, in the same window."""
    shown = window(episode)
    values = episode.values[shown]
    gaps = (values.max(1, keepdims=True) - values).T
    image = axis.pcolormesh(
        np.arange(shown.start, shown.stop + 1),
        np.arange(len(gaps) + 1) - 0.5,
        gaps,
        cmap="viridis_r",
        vmin=0,
        # A few steps of a fall must not flatten all others.
        vmax=max(float(np.quantile(gaps, 0.99)), 1e-6),
    )
    axis.figure.colorbar(image, ax=axis, label="max Q - Q(s, mu(s, z)), discounted return")
    axis.set_title("value of each component, below the best one's, same steps", loc="left")
    axis.set_xlabel("step of the episode")
    _component_axis(axis, len(gaps))


def _component_axis(axis: Axes, components: int) -> None:
    axis.set_ylabel("component")
    axis.set_ylim(components - 0.5, -0.5)
    axis.set_yticks(range(0, components, max(1, components // 10)))
    axis.grid(False)
