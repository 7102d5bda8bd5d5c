"""The report over all runs: reads, prints, writes."""

from pathlib import Path

from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import atomic_path
from reports.curves import make_figures
from reports.errors import ReportError
from reports.page import render_page
from reports.runs import group_notes, group_runs, read_runs
from reports.style import save
from reports.tables import csv_table, make_lines, make_tables, markdown


def write_report(results: Path, out: Path, html: bool) -> None:
    """Print the tables, and write report.md, report.csv, the figures and perhaps index.html.

    Raises:
        ReportError: there are no runs, or `out` cannot be written.
    """
    runs, left_out = read_runs(results)
    groups = group_runs(runs)
    lines = make_lines(groups)
    tables = make_tables(lines)
    notes = [f"left out: {line}" for line in left_out] + group_notes(groups)
    text = markdown(tables, notes)
    print(text)
    try:
        _write(out / "report.md", text)
        _write(out / "report.csv", csv_table(groups))
        figures = make_figures(lines) if lines else {}
        paths = [save(figure, out / name) for name, figure in figures.items()]
        if html:
            page = render_page(tables, [svg for _, svg in paths], notes)
            _write(out / "index.html", page)
    except D4RLTaskError as error:
        raise ReportError(str(error)) from error
    print(f"written to {out}/")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
