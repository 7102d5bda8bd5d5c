"""Learning curves, critic losses and values: a panel for each task."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from reports.groups import Group, Task, methods_of
from reports.runs import Run
from reports.style import RC, Style, add_legend, styles_of

COLUMNS = 3
PANEL = 3.4, 2.5  # inches
WIDE_PANEL = 5.6, 3.4  # inches, of a panel that stands alone
FARTHEST_LIMIT = 3  # times the highest value that is drawn
MOST_LIMITS = 3  # of runs with different discounts or rewards
FEWEST_FOR_SPARSE_MARKERS = 30
THOUSANDS = EngFormatter(sep="")
BAND = "band: ± 1 standard deviation over the seeds"


@dataclass(frozen=True)
class Quantity:
    """Something to draw against the train steps.

    Attributes:
        label: of the y axis.
        values: a run's value at each evaluation, (E,); NaN where it is unknown.
        is_shared: all panels have one y axis.
        is_log: the y axis is logarithmic where values differ by more than a factor of ten.
        from_zero: the y axis starts at zero.
        limits: (E,) values that do not depend on the policy, by their names; drawn as limits.
    """

    label: str
    values: Callable[[Run], np.ndarray]
    is_shared: bool = False
    is_log: bool = False
    from_zero: bool = False
    limits: tuple[tuple[str, str], ...] = ()


def _column(name: str) -> Callable[[Run], np.ndarray]:
    return lambda run: run.column(name)


QUANTITIES = {
    "learning_curves": Quantity("score x 100", lambda run: run.scores, is_shared=True),
    "critic_loss": Quantity(
        "critic loss (squared TD error)", lambda run: run.critic_loss, is_log=True
    ),
    "critic_loss_accumulated": Quantity(
        "summed critic loss", lambda run: run.accumulated_critic_loss, is_log=True
    ),
}
LIMITS = (
    ("data_return_max", "highest discounted return in the data"),
    ("value_bound", "highest return that the data's rewards allow"),
)
DIAGNOSTICS = (
    Quantity("Q of the policy's actions, mean", _column("value_policy"), limits=LIMITS),
    Quantity("Q of the data's actions, mean", _column("q_data"), limits=LIMITS[:1]),
    Quantity("largest Q", _column("value_max"), limits=LIMITS),
    Quantity("effective sample size, share", _column("effective_sample_size"), from_zero=True),
    Quantity("distance to the data's actions", _column("action_distance"), from_zero=True),
)
LIMIT_DASHES = {"data_return_max": (1, 2), "value_bound": (6, 2)}


def make_figures(tasks: Sequence[Task]) -> dict[str, Figure]:
    """The report's figures by the names of their files, in the order they are shown."""
    groups = [group for task in tasks for group in task.groups]
    styles = styles_of(methods_of(groups))
    figures = {
        name: draw(tasks, quantity, styles)
        for name, quantity in QUANTITIES.items()
        if _is_known(groups, quantity)
    }
    if has_diagnostics(groups):
        measured = [task for task in tasks if has_diagnostics(task.groups)]
        figures["diagnostics"] = draw_diagnostics(measured, styles)
    return figures


def has_diagnostics(groups: Sequence[Group]) -> bool:
    """Whether any run has a column of the diagnostics."""
    return any(_is_known(groups, quantity) for quantity in DIAGNOSTICS)


def draw(tasks: Sequence[Task], quantity: Quantity, styles: dict[str, Style]) -> Figure:
    """A quantity's mean over seeds against train steps, a panel for each task, with bands."""
    columns = min(COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    width, height = PANEL if len(tasks) > 1 else WIDE_PANEL
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width * columns, height * rows + 0.6), layout="constrained")
        cast(ConstrainedLayoutEngine, figure.get_layout_engine()).set(h_pad=0.08)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=quantity.is_shared)
        axes = list(grid.flat)
        for axis, task in zip(axes, tasks, strict=False):
            draw_panel(axis, task, quantity, styles)
            axis.set_title(task.name, loc="left", fontsize=8)
        for axis in axes[::columns]:
            axis.set_ylabel(quantity.label)
        for axis in axes[: len(tasks)][-columns:]:  # nothing is below them
            axis.set_xlabel("train steps")
        for axis in axes[len(tasks) :]:
            axis.remove()
        figure.align_ylabels()
        _add_legend(figure, tasks, styles)
    return figure


def draw_diagnostics(tasks: Sequence[Task], styles: dict[str, Style]) -> Figure:
    """A row of panels for each task: values, effective sample size, distance of the actions."""
    with matplotlib.rc_context(RC):
        size = 2.8 * len(DIAGNOSTICS), PANEL[1] * len(tasks) + 0.6
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(tasks), len(DIAGNOSTICS), squeeze=False)
        for row, task in zip(grid, tasks, strict=True):
            for axis, quantity in zip(row, DIAGNOSTICS, strict=True):
                draw_panel(axis, task, quantity, styles)
                axis.set_title(quantity.label, loc="left", fontsize=8)
            row[0].set_ylabel(task.name, fontsize=8)
        for axis in grid[-1]:
            axis.set_xlabel("train steps")
        _add_legend(figure, tasks, styles, LIMITS)
    return figure


def draw_panel(
    axis: Axes, task: Task, quantity: Quantity, styles: dict[str, Style], prefix: str = ""
) -> None:
    """One task's methods. In an SVG the parts of the i-th method have the id <prefix>-m<i>."""
    order = list(styles)
    for group in task.groups:
        index = order.index(group.method)
        _draw_group(axis, group, quantity, styles[group.method], index, f"{prefix}-m{index}")
    highest = max((np.nanmax(curve.get_ydata()) for curve in axis.lines), default=-math.inf)
    for name, _ in quantity.limits:
        _draw_limit(axis, task, name, FARTHEST_LIMIT * abs(highest))
    _finish(axis, quantity)


def mean_and_band(
    group: Group, values: Callable[[Run], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation over a group's runs at every step that one was evaluated at.

    Runs that were evaluated at other steps are interpolated; runs that have ended are left out.

    Returns:
        steps (E,), means (E,), standard deviations (E,): NaN where fewer than two runs are known.
    """
    steps = np.unique(np.concatenate([run.steps for run in group.runs]))
    rows = [
        np.interp(steps, run.steps, values(run), left=math.nan, right=math.nan)
        for run in group.runs
    ]
    known = np.ma.masked_invalid(np.stack(rows))
    std = known.std(0, ddof=1) if len(rows) > 1 else np.ma.masked_all(len(steps))
    std = np.ma.masked_where(known.count(0) < 2, std)
    return steps, known.mean(0).filled(math.nan), std.filled(math.nan)


def _draw_group(
    axis: Axes, group: Group, quantity: Quantity, style: Style, index: int, gid: str
) -> None:
    steps, mean, std = mean_and_band(group, quantity.values)
    if np.isnan(mean).all():
        return
    gap = max(1, len(steps) // 8)
    is_dense = len(steps) > FEWEST_FOR_SPARSE_MARKERS
    (line,) = axis.plot(
        steps,
        mean,
        **style.line,
        # Each method has its markers elsewhere, so that lines on each other are told apart.
        markevery=(index * gap // 4 % gap, gap) if is_dense else 1,
    )
    line.set_gid(gid)
    if np.isfinite(std).any():
        band = axis.fill_between(
            steps, mean - std, mean + std, color=style.colour, alpha=0.15, lw=0
        )
        band.set_gid(f"band{gid}")


def _draw_limit(axis: Axes, task: Task, name: str, farthest: float) -> None:
    """A line at a limit that follows from the data, unless it is above `farthest`."""
    values = np.concatenate([run.column(name) for group in task.groups for run in group.runs])
    values = np.unique(values[np.isfinite(values)])
    for value in values[values <= farthest][:MOST_LIMITS]:
        axis.axhline(value, color="#444444", lw=1, dashes=LIMIT_DASHES[name])


def _finish(axis: Axes, quantity: Quantity) -> None:
    axis.xaxis.set_major_formatter(_tick_text)
    axis.yaxis.set_major_formatter(_tick_text)
    axis.set_xlim(left=0)
    values = np.concatenate([np.zeros(0), *(curve.get_ydata() for curve in axis.lines)])
    values = values[np.isfinite(values)]
    if not len(values):
        axis.text(0.5, 0.5, "not measured", ha="center", color="#777777", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return
    if quantity.from_zero and values.min() >= 0:
        axis.set_ylim(0, 1.03 * axis.get_ylim()[1])
    if quantity.is_log and values.max() > 10 * values.min() > 0:
        axis.set_yscale("log", nonpositive="clip")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(_tick_text)
        axis.yaxis.set_minor_formatter(NullFormatter())


def _tick_text(value: float, _: float | None = None) -> str:
    """A number at an axis: 20k and not 20000, but 0.02."""
    return THOUSANDS(value) if abs(value) >= 1000 else f"{value:g}"


def _is_known(groups: Sequence[Group], quantity: Quantity) -> bool:
    return any(np.isfinite(quantity.values(run)).any() for group in groups for run in group.runs)


def _add_legend(
    figure: Figure,
    tasks: Sequence[Task],
    styles: dict[str, Style],
    limits: Sequence[tuple[str, str]] = (),
) -> None:
    handles: list = [
        Line2D(
            [],
            [],
            **style.line,
            label=method,
        )
        for method, style in styles.items()
    ]
    handles += [
        Line2D([], [], color="#444444", lw=1, dashes=LIMIT_DASHES[name], label=label)
        for name, label in limits
    ]
    if any(len(group.runs) > 1 for task in tasks for group in task.groups):
        handles.append(Patch(color="#777777", alpha=0.25, lw=0, label=BAND))
    add_legend(figure, handles)
