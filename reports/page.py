"""The report as one HTML file that needs nothing beside it."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template

from reports.tables import Cell, Table

CAPTIONS = {
    "learning_curves": "Learning curves",
    "critic_loss": "Critic loss",
    "critic_loss_accumulated": "Accumulated critic loss over training",
}
FIGURE_NOTE = "Mean over the seeds; the band is one standard deviation to both sides."


def render_page(tables: Sequence[Table], figures: Sequence[Path], notes: Sequence[str]) -> str:
    """The page's text.

    Args:
        figures: SVG files; they are put into the page.
    """
    scores, *others = [table for table in tables if table.rows] or [None]
    parts = [_table(scores)] if scores else []
    parts += [_figure(path) for path in figures]
    parts += [_table(table) for table in others]
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return template.substitute(title="Results", body="\n".join(parts))


def _table(table: Table) -> str:
    header = "".join(
        f'<th scope="col"{_kind(cells)}><button type="button">{html.escape(name)}</button></th>'
        for name, *cells in zip(table.header, *table.rows, strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in table.rows)
    return (
        f"<h2>{html.escape(table.title)}</h2>\n"
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>\n"
        f'<p class="note">{html.escape(table.note)}</p>'
    )


def _kind(cells: Sequence[Cell]) -> str:
    """Text is set from the left; numbers from the right."""
    return ' class="text"' if any(isinstance(cell.key, str) and cell.key for cell in cells) else ""


def _cell(cell: Cell) -> str:
    key, text = html.escape(str(cell.key)), html.escape(cell.text)
    return f'<td{_kind([cell])} data-key="{key}">{text}</td>'


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = CAPTIONS[path.stem]
    return (
        f"<h2>{caption}</h2>\n"
        f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">\n'
        f'<p class="note">{FIGURE_NOTE}</p>'
    )
