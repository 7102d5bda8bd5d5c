"""Learning curves and critic losses: a panel for each line of the report's table."""

import math
import textwrap
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from reports.runs import Group, Run
from reports.style import RC, policy_colour
from reports.tables import Line, policies_of

COLUMNS = 3
PANEL = 3.3, 2.5  # inches


def make_figures(lines: Sequence[Line]) -> dict[str, Figure]:
    """The report's figures by the names of their files, in the order they are shown."""
    with matplotlib.rc_context(RC):
        return {
            "learning_curves": draw(
                lines, lambda run: run.scores, "normalised score x 100", shared=True
            ),
            "critic_loss": draw(
                lines, lambda run: run.critic_loss, "critic loss (squared TD error)", log=True
            ),
            "critic_loss_accumulated": draw(
                lines,
                lambda run: run.accumulated_critic_loss,
                "critic loss, summed over steps",
                from_zero=True,
            ),
        }


def draw(
    lines: Sequence[Line],
    quantity: Callable[[Run], np.ndarray],
    label: str,
    *,
    shared: bool = False,
    log: bool = False,
    from_zero: bool = False,
) -> Figure:
    """Mean over seeds against train steps, with a band of one standard deviation to both sides.

    Args:
        quantity: a run's value at each evaluation, (E,).
        label: of the y axis.
        shared: all panels have one y axis.
        log: the y axis is logarithmic where values differ by more than a factor of ten.
        from_zero: the y axis starts at zero.
    """
    columns = min(COLUMNS, len(lines))
    rows = math.ceil(len(lines) / columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.5), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=shared).flat)
    for axis, line in zip(axes, lines, strict=False):
        for group in line.groups:
            _draw_group(axis, group, quantity)
        _finish(axis, line, log)
        if from_zero:
            axis.set_ylim(bottom=0)
    for axis in axes[::columns]:
        axis.set_ylabel(label)
    for axis in axes[: len(lines)][-columns:]:  # nothing is below them
        axis.set_xlabel("train steps")
    for axis in axes[len(lines) :]:
        axis.remove()
    figure.align_ylabels()
    _add_legend(figure, lines)
    return figure


def _draw_group(axis: Axes, group: Group, quantity: Callable[[Run], np.ndarray]) -> None:
    values = np.stack([quantity(run) for run in group.runs])
    steps, mean = group.runs[0].steps, values.mean(0)
    colour = policy_colour(group.policy)
    few = len(steps) <= 30
    axis.plot(steps, mean, color=colour, lw=1.4, marker="o" if few else None, ms=2.5)
    if len(values) > 1:
        std = values.std(0, ddof=1)
        axis.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.18, lw=0)


def _finish(axis: Axes, line: Line, log: bool) -> None:
    # A setting's name and value stay on one line.
    settings = ", ".join(part.replace(" ", "\xa0") for part in line.settings.split(", "))
    title = [line.task, *textwrap.wrap(settings, 42)]
    axis.set_title("\n".join(title), loc="left", fontsize=8)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    axis.set_xlim(left=0)
    values = np.concatenate([curve.get_ydata() for curve in axis.lines])
    values = values[np.isfinite(values)]  # none, if the policy has no critic
    if log and len(values) and values.max() > 10 * values.min() > 0:
        axis.set_yscale("log", nonpositive="clip")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def _add_legend(figure: Figure, lines: Sequence[Line]) -> None:
    policies = policies_of(lines)
    handles = [
        matplotlib.lines.Line2D([], [], color=policy_colour(policy), lw=2, label=policy)
        for policy in policies
    ]
    columns = len(policies) if len(lines) > 1 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
