"""The report as one HTML file that needs nothing beside it."""

import base64
import hashlib
import html
import io
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from string import Template

import matplotlib
from matplotlib.figure import Figure

from d4rl_tasks.command_line import printable
from reports.curves import (
    BAND,
    DIAGNOSTICS,
    QUANTITIES,
    Quantity,
    draw_panel,
    has_diagnostics,
)
from reports.groups import Group, Task, make_tasks, methods_of
from reports.runs import Run
from reports.style import RC, SVG_METADATA, Style, styles_of
from reports.tables import OVERESTIMATES, Cell, Table, mean_and_std, score_text

TITLE = "Results"
PANEL = 4.2, 2.9  # inches of 96 pixels, so that text has the size of the page's
MARGINS = {"left": 0.16, "right": 0.98, "bottom": 0.17, "top": 0.97}
BANNER = (
    "Synthetic data. These tasks were trained on datasets that this project generates, not on "
    "D4RL's: their scores are not comparable with published ones. Tasks: "
)
DIAGNOSTICS_NOTE = (
    "On a fixed sample of the dataset's states, at every evaluation. "
    "Dotted: the highest discounted return in the data. Dashed: the highest return that the data's "
    "rewards allow; values above it are wrong. Limits far above the curves are left out."
)


def render_page(
    groups: Sequence[Group], tables: Sequence[Table], notes: Sequence[str], folder: Path
) -> str:
    """The page's text.

    Args:
        folder: of the page; it links to the runs' files from there.
    """
    full = [table for table in tables if table.rows]
    numbers = {id(group): index for index, group in enumerate(groups)}
    parts = [_banner(groups)]
    if full:
        parts += [_table(full[0], numbers), _panels(make_tasks(groups))]
        parts += [_table(table, numbers) for table in full[1:]]
        parts.append("<h2>Runs</h2>")
        parts += [_runs(group, f"g{index}", folder) for index, group in enumerate(groups)]
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    here = Path(__file__).parent
    script = (here / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = Template((here / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=TITLE, body="\n".join(parts), script=script, script_digest=digest
    )


def _banner(groups: Sequence[Group]) -> str:
    tasks = sorted({group.task for group in groups if group.runs[0].is_synthetic})
    if not tasks:
        return ""
    return f'<p class="banner">{html.escape(BANNER + ", ".join(tasks))}.</p>'


def _table(table: Table, numbers: dict[int, int]) -> str:
    header = "".join(
        f'<th scope="col"{_kind(cells)}><button type="button">{html.escape(name)}</button></th>'
        for name, *cells in zip(table.header, *table.rows, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(cell, numbers) for cell in row)}</tr>\n" for row in table.rows
    )
    return (
        f"<h2>{html.escape(table.title)}</h2>\n"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>\n"
        f'<p class="note">{html.escape(table.note)}</p>'
    )


def _kind(cells: Sequence[Cell]) -> str:
    """Text is set from the left; numbers from the right."""
    return ' class="text"' if any(isinstance(cell.key, str) and cell.key for cell in cells) else ""


def _cell(cell: Cell, numbers: dict[int, int]) -> str:
    key, text = html.escape(str(cell.key)), html.escape(cell.text)
    if cell.is_best:
        text = f"<b>{text}</b>"
    if cell.group is not None:
        text = f'<a href="#g{numbers[id(cell.group)]}">{text}</a>'
    return f'<td{_kind([cell])} data-key="{key}">{text}</td>'


def _panels(tasks: Sequence[Task]) -> str:
    """The figures, one task at a time; lists choose the task and the methods."""
    groups = [group for task in tasks for group in task.groups]
    styles = styles_of(methods_of(groups))
    options = "".join(
        f'<option value="t{index}">{html.escape(task.name)}</option>'
        for index, task in enumerate(tasks)
    )
    boxes = "".join(
        f'<label><input type="checkbox" checked value="m{index}">{_sample(styles[method])}'
        f"{html.escape(method)}</label>"
        for index, method in enumerate(styles)
    )
    band = ""
    if any(len(group.runs) > 1 for group in groups):
        band = f'<span class="band"><i></i>{html.escape(BAND)}</span>'
    sections = "".join(_task_section(i, task, styles) for i, task in enumerate(tasks))
    return (
        f'<h2>Curves</h2>\n<form class="choice"><label>Task <select>{options}</select></label>'
        f"<fieldset><legend>Methods</legend>{boxes}{band}</fieldset></form>\n{sections}"
    )


def _sample(style: Style) -> str:
    """A piece of a method's line."""
    dashes = " ".join(f"{style.width * length:.1f}" for length in style.dashes)
    return (
        '<svg class="sample" viewBox="0 0 34 8" aria-hidden="true"><line x1="1" x2="33" y1="4" '
        f'y2="4" stroke="{style.colour}" stroke-width="{style.width:.1f}" '
        f'stroke-dasharray="{dashes}"/></svg>'
    )


def _task_section(index: int, task: Task, styles: dict[str, Style]) -> str:
    """The figures of one task."""
    figures = "".join(
        _figure(task, quantity, styles, f"t{index}-{name}") for name, quantity in QUANTITIES.items()
    )
    if has_diagnostics(task.groups):
        figures += f'<h3>Values and weights</h3><p class="note">{DIAGNOSTICS_NOTE}</p>'
        figures += "".join(
            _figure(task, quantity, styles, f"t{index}-d{number}")
            for number, quantity in enumerate(DIAGNOSTICS)
        )
    return (
        f'<section class="task" id="t{index}"><h3>{html.escape(task.name)}</h3>{figures}</section>'
    )


def _figure(task: Task, quantity: Quantity, styles: dict[str, Style], prefix: str) -> str:
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=PANEL)
        axis = figure.subplots(gridspec_kw=MARGINS)
        draw_panel(axis, task, quantity, styles, prefix)
        axis.set_ylabel(quantity.label)
        axis.set_xlabel("train steps")
        drawing = _svg(figure)
    label = html.escape(f"{quantity.label} on {task.name}", quote=True)
    return f'<figure role="img" aria-label="{label}">{drawing}</figure>'


def _svg(figure: Figure) -> str:
    """A figure as an element of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=SVG_METADATA, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _runs(group: Group, name: str, folder: Path) -> str:
    """The runs behind a cell, folded."""
    mean, spread = mean_and_std(group.scores)
    score = score_text(mean) + ("" if spread is None else f" ± {score_text(spread)}")
    count = "1 run" if len(group.runs) == 1 else f"{len(group.runs)} runs"
    title = f"{group.method} on {group.task}: score {score}, {count}"
    changed = ", ".join(f"{key} {value}" for key, value in group.changed.items()) or "none"
    source = group.runs[0].config["dataset"]["source"]
    facts = (
        f"Settings that are not at their defaults: {changed}. "
        f"Dataset: {printable(source)}, SHA-256 {group.data[:16]}."
    )
    items = "".join(_run(run, folder) for run in group.runs)
    return (
        f'<details id="{name}"><summary>{html.escape(title)}</summary>'
        f'<p class="note">{html.escape(facts)}</p><ul>{items}</ul></details>'
    )


def _run(run: Run, folder: Path) -> str:
    """A run's result, files, code and command."""
    links = ", ".join(
        f'<a href="{_link(path, folder)}">{path.suffix[1:]}</a>'
        for path in (run.path, run.path.with_suffix(".csv"))
    )
    result = f"seed {run.seed}: score {score_text(run.final_score)} after {run.train_steps} steps"
    if run.overestimates:
        result += f" ({OVERESTIMATES} {run.overestimates})"
    code = html.escape("; ".join(run.code))
    words = "".join(
        f"<span>{html.escape(word)}</span> " for word in printable(run.config["command"]).split()
    )
    return f"<li>{html.escape(result)}; {links}; {code}<br><code>{words}</code></li>"


def _link(path: Path, folder: Path) -> str:
    """A link to a file from a page in a folder."""
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # it is on another drive of Windows
        return html.escape(path.resolve().as_uri(), quote=True)
    return "./" + html.escape(urllib.parse.quote(os.fsencode(relative)), quote=True)
