"""The report on all runs: reads, prints, writes."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from d4rl_tasks.files import atomic_path
from reports import latent
from reports.curves import make_figures
from reports.groups import Group, group_notes, group_runs, make_tasks
from reports.models import is_playable, play, read_model
from reports.page import render_page
from reports.runs import read_run, read_runs
from reports.style import save
from reports.tables import Table, csv_table, make_tables, markdown

EPISODES = 3  # of the figure of a single run


@dataclass(frozen=True)
class Summary:
    """The content of a report; `notes` name the runs that are left out, and why."""

    groups: list[Group]
    tables: list[Table]
    notes: list[str]


def summarize(results: Path) -> Summary:
    """Read all runs and compare them.

    Raises:
        ReportError: as `read_runs`.
    """
    runs, left_out = read_runs(results)
    groups = group_runs(runs)
    notes = [f"left out: {line}" for line in left_out] + group_notes(groups)
    return Summary(groups, make_tables(groups), notes)


def write_report(results: Path, out: Path, html: bool) -> None:
    """Write report.md, report.csv, the figures and perhaps index.html; print the tables.

    Raises:
        ReportError: as `read_runs`.
        D4RLTaskError: `out` cannot be written.
    """
    summary = summarize(results)
    text = markdown(summary.tables, summary.notes)
    _write(out / "report.md", text)
    _write(out / "report.csv", csv_table(summary.groups))
    figures = make_figures(make_tasks(summary.groups)) if summary.groups else {}
    for name, figure in figures.items():
        save(figure, out / name)
    if html:
        page = render_page(summary.groups, summary.tables, summary.notes, out)
        _write(out / "index.html", page)
    print(text)
    print(f"written to {out}/")


def figures_of_run(config: Path, model: Path | None) -> dict[str, Figure]:
    """The report's figures of a single finished run, and which component acts where, if it has any.

    Args:
        config: results/<policy>/<run>.json, with its CSV beside it.
        model: models/<run>.safetensors, if it was written.
    """
    run = read_run(config)
    figures = make_figures(make_tasks(group_runs([run])))
    if model is not None and is_playable(run.settings["env"]):
        trained = read_model(model)
        if trained.components:
            figures["latent"] = latent.draw(trained, play(trained, EPISODES, trained.seed))
    return figures


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
