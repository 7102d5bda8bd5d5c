"""The report over all runs: reads, prints, writes."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import atomic_path
from reports import latent
from reports.curves import make_figures
from reports.errors import ReportError
from reports.models import play, read_model
from reports.page import render_page
from reports.runs import Group, group_notes, group_runs, read_run, read_runs
from reports.style import save
from reports.tables import Line, Table, csv_table, make_lines, make_tables, markdown

EPISODES = 3  # of the figure of a single run


@dataclass(frozen=True)
class Summary:
    """What the report says of a folder of runs; `notes` names what is left out, and why."""

    groups: list[Group]
    lines: list[Line]
    tables: list[Table]
    notes: list[str]


def summarize(results: Path) -> Summary:
    """Read all runs and compare them.

    Raises:
        ReportError: there are none.
    """
    runs, left_out = read_runs(results)
    groups = group_runs(runs)
    lines = make_lines(groups)
    notes = [f"left out: {line}" for line in left_out] + group_notes(groups)
    return Summary(groups, lines, make_tables(lines), notes)


def write_report(results: Path, out: Path, html: bool) -> None:
    """Write report.md, report.csv, the figures and perhaps index.html; print the tables.

    Raises:
        ReportError: there are no runs, or `out` cannot be written.
    """
    summary = summarize(results)
    text = markdown(summary.tables, summary.notes)
    try:
        _write(out / "report.md", text)
        _write(out / "report.csv", csv_table(summary.groups))
        figures = make_figures(summary.lines) if summary.lines else {}
        paths = [save(figure, out / name) for name, figure in figures.items()]
        if html:
            page = render_page(summary.tables, [svg for _, svg in paths], summary.notes)
            _write(out / "index.html", page)
    except D4RLTaskError as error:
        raise ReportError(str(error)) from error
    print(text)
    print(f"written to {out}/")


def figures_of_run(config: Path, model: Path | None, seed: int) -> dict[str, Figure]:
    """The report's figures of a single finished run, and which component acts where, if it has any.

    Args:
        config: results/<policy>/<run>.json, with its CSV beside it.
        model: models/<run>.pt, if it was written.
        seed: of the run.
    """
    figures = make_figures(make_lines(group_runs([read_run(config)])))
    if model is not None:
        trained = read_model(model)
        if trained.components:
            figures["latent"] = latent.draw(trained, play(trained, EPISODES, seed))
    return figures


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
