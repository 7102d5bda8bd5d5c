"""The report's tables, as Markdown and CSV."""

import csv
import dataclasses
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.groups import Group, Task, make_tasks, methods_of
from reports.runs import LAST_EVALUATIONS, Run
from reports.statistics import Estimate, interquartile_mean, probability_of_improvement


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: as shown.
        key: the number or text that the table is sorted by.
        is_best: the best of its row.
        group: the runs that it comes from.
    """

    text: str
    key: float | str
    is_best: bool = False
    group: Group | None = None


@dataclass(frozen=True)
class Table:
    """A table of cells; `note` says in a sentence or two how to read it."""

    title: str
    note: str
    header: list[str]
    rows: list[list[Cell]]


EMPTY = Cell("", "")
OVERESTIMATES = "†"
SCORE_NOTE = (
    f"Score x 100 (D4RL's normalised score, OGBench's success rate): the mean of a run's last "
    f"{LAST_EVALUATIONS} evaluations (of all, if there are fewer), then mean ± standard deviation "
    "over the seeds (number of seeds). The best of a task is bold."
)
OVERESTIMATES_NOTE = (
    f" {OVERESTIMATES}: in a run the mean value of the policy's actions rose above any return that "
    "the data's rewards allow."
)
LOSS_NOTE = (
    "Critic loss (squared TD error, summed over the twins) summed over all train steps; mean ± "
    "standard deviation over the seeds (number of seeds). The lowest of a task is bold, where all "
    "runs have the same number of train steps."
)
IQM_NOTE = (
    "Interquartile mean of the score x 100 over all runs of all tasks, with its 95 % bootstrap "
    'interval: "runs" were drawn within each task, or, with one seed a task, "tasks".'
)
IMPROVEMENT_NOTE = (
    "Probability that a run of the row's method scores above one of the column's, mean over the "
    "tasks that both have, with its 95 % bootstrap interval (drawn as above)."
)


def make_tables(groups: Sequence[Group]) -> list[Table]:
    """All tables of the report, the scores first."""
    tasks = make_tasks(groups)
    has_marks = any(run.overestimates for group in groups for run in group.runs)
    note = SCORE_NOTE + OVERESTIMATES_NOTE * has_marks
    losses = by_method(
        "Accumulated critic loss",
        LOSS_NOTE,
        tasks,
        lambda run: run.critic_loss_sum,
        loss_text,
        min,
        is_fair=lambda task: task.has_one_length,
    )
    return [
        by_method("Scores", note, tasks, lambda run: run.final_score, score_text, max),
        *comparisons(groups),
        losses,
    ]


def by_method(
    title: str,
    note: str,
    tasks: Sequence[Task],
    quantity: Callable[[Run], float],
    show: Callable[[float], str],
    best: Callable,
    is_fair: Callable[[Task], bool] = lambda task: True,
) -> Table:
    """Tasks by methods: the mean of a quantity of the runs.

    Args:
        show: makes text of a value.
        best: max or min.
        is_fair: whether a task has a best.
    """
    methods = methods_of(group for task in tasks for group in task.groups)
    rows = []
    for task in tasks:
        cells = {group.method: _mean_cell(group, quantity, show) for group in task.groups}
        row = [cells.get(method, EMPTY) for method in methods]
        marked = _mark_best(row, show, best) if is_fair(task) else row
        rows.append([Cell(task.name, task.name), *marked])
    return Table(title, note, ["task", *methods], rows)


def _mark_best(row: list[Cell], show: Callable[[Any], str], best: Callable) -> list[Cell]:
    """Mark the best, and those that are shown as equal to it, if there are others."""
    values = [cell.key for cell in row if cell.key != ""]
    if len(set(map(show, values))) < 2:
        return row
    winner = show(best(values))
    return [
        dataclasses.replace(cell, is_best=cell.key != "" and show(cell.key) == winner)
        for cell in row
    ]


def _mean_cell(
    group: Group, quantity: Callable[[Run], float], show: Callable[[float], str]
) -> Cell:
    values = np.array([quantity(run) for run in group.runs])
    if np.isnan(values).any():
        return EMPTY
    mean, spread = mean_and_std(values)
    text = show(mean) + ("" if spread is None else f" ± {show(spread)}")
    mark = OVERESTIMATES if any(run.overestimates for run in group.runs) else ""
    return Cell(f"{text} ({len(values)}){mark}", mean, group=group)


def score_text(value: float) -> str:
    """A score x 100, or its spread."""
    return f"{value:z.1f}"  # z: no minus before a zero


def loss_text(value: float) -> str:
    """A loss, to about three digits."""
    if abs(value) >= 1e7:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def mean_and_std(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and sample standard deviation over seeds; one seed has none."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def comparisons(groups: Sequence[Group]) -> list[Table]:
    """Over the tasks of a family, synthetic data apart from other data.

    Where there is one task with one seed of each method, there is nothing to compare.
    """
    kinds: dict[tuple[str, bool], list[Group]] = defaultdict(list)
    for group in groups:
        kinds[group.kind].append(group)
    tables = []
    for (family, is_synthetic), members in kinds.items():
        chosen, note = one_dataset_each(members)
        if len({group.env for group in chosen}) > 1 or any(len(g.runs) > 1 for g in chosen):
            name = f"{family}, synthetic" if is_synthetic else family
            tables += _comparison(name, note, chosen)
    return tables


def one_dataset_each(groups: Sequence[Group]) -> tuple[list[Group], str]:
    """The groups to compare over tasks, and a note on others.

    Two datasets of one environment's name are not two tasks: the one with the most runs counts.
    """
    runs: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for group in groups:
        runs[group.env][group.data] += len(group.runs)
    chosen = {env: max(found, key=found.__getitem__) for env, found in runs.items()}
    several = [f"{env}: {chosen[env][:8]}" for env, found in runs.items() if len(found) > 1]
    note = ""
    if several:
        note = f" Where a task has several datasets, one counts ({', '.join(several)})."
    return [group for group in groups if group.data == chosen[group.env]], note


def _comparison(name: str, note: str, groups: Sequence[Group]) -> list[Table]:
    scores: dict[str, dict[str, np.ndarray]] = {method: {} for method in methods_of(groups)}
    for group in groups:
        scores[group.method][group.env] = group.scores
    tables = [_iqm_table(name, note, scores)]
    if len(scores) > 1:
        tables.append(_improvement_table(name, scores))
    return tables


def _iqm_table(name: str, note: str, scores: dict[str, dict[str, np.ndarray]]) -> Table:
    rows = []
    for method, by_task in scores.items():
        tasks = list(by_task.values())
        runs = sum(map(len, tasks))
        estimate = interquartile_mean(tasks)
        cells = [
            Cell(method, method),
            Cell(str(len(tasks)), len(tasks)),
            Cell(str(runs), runs),
            Cell(f"{estimate.value:.1f}", estimate.value),
            Cell(_interval(estimate, ".1f"), "" if estimate.low is None else estimate.low),
            Cell(estimate.drawn, estimate.drawn),
        ]
        rows.append(cells)
    counts = [{task: len(runs) for task, runs in by_task.items()} for by_task in scores.values()]
    if any(count != counts[0] for count in counts):
        note += " METHODS DIFFER IN TASKS OR NUMBER OF RUNS: their means are not comparable."
    header = ["method", "tasks", "runs", "interquartile mean", "95 % interval", "drawn"]
    return Table(f"Over tasks: {name}", IQM_NOTE + note, header, rows)


def _improvement_table(name: str, scores: dict[str, dict[str, np.ndarray]]) -> Table:
    cells: dict[tuple[str, str], Cell] = {}
    for ours, theirs in itertools.combinations(scores, 2):
        common = [task for task in scores[ours] if task in scores[theirs]]
        pairs = [(scores[ours][task], scores[theirs][task]) for task in common]
        if pairs:
            estimate = probability_of_improvement(pairs)
            cells[ours, theirs] = _probability_cell(estimate)
            cells[theirs, ours] = _probability_cell(estimate.of_the_opposite)
    rows = [
        [Cell(ours, ours), *(cells.get((ours, theirs), EMPTY) for theirs in scores)]
        for ours in scores
    ]
    header = ["method", *(f"above {method}" for method in scores)]
    return Table(f"Probability of improvement: {name}", IMPROVEMENT_NOTE, header, rows)


def _probability_cell(estimate: Estimate) -> Cell:
    interval = _interval(estimate, ".2f")
    text = f"{estimate.value:.2f} ({interval})" if interval else f"{estimate.value:.2f}"
    return Cell(text, estimate.value)


def _interval(estimate: Estimate, digits: str) -> str:
    if estimate.low is None:
        return ""
    return f"{estimate.low:{digits}} to {estimate.high:{digits}}"


def markdown_text(text: str) -> str:
    """Text from anywhere as text of Markdown: nothing in it is markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~#$]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def markdown_table(table: Table) -> str:
    """One table, its columns aligned for reading on a terminal."""
    texts = [[markdown_text(name) for name in table.header]]
    texts += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    header, *rows = [
        "| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |"
        for row in texts
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([header, rule, *rows])


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    return f"**{text}**" if cell.is_best else text


def markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The whole report in Markdown, without its figures."""
    parts = [
        f"## {markdown_text(t.title)}\n\n{markdown_table(t)}\n\n{markdown_text(t.note)}\n"
        for t in tables
        if t.rows
    ]
    if notes:
        parts.append("## Notes\n\n" + "".join(f"- {markdown_text(note)}\n" for note in notes))
    return "# Results\n\n" + "\n".join(parts)


def csv_table(groups: Sequence[Group]) -> str:
    """A line for each task and method; scores x 100, "" where a quantity is undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("task", "policy", "method", "settings", "synthetic", "data", "seeds", "score_mean"),
            *("score_std", "evaluations", "train_steps", "critic_loss_sum", "overestimate"),
        ]
    )
    for group in groups:
        writer.writerow(map(_csv_field, _csv_row(group)))
    return text.getvalue()


def _csv_row(group: Group) -> list:
    first = group.runs[0]
    mean, spread = mean_and_std(group.scores)
    losses = np.array([run.critic_loss_sum for run in group.runs])
    settings = ", ".join(f"{name} {value}" for name, value in group.changed.items())
    return [
        *(group.env, group.policy, group.method, settings, first.is_synthetic, group.data),
        *(len(group.runs), mean, "" if spread is None else spread),
        *(_listed(len(run.averaged_steps) for run in group.runs), _listed(group.train_steps)),
        "" if np.isnan(losses).any() else losses.mean(),
        sum(bool(run.overestimates) for run in group.runs),
    ]


def _listed(numbers: Iterable[int]) -> str:
    return " ".join(map(str, sorted(set(numbers))))


def _csv_field(value: object) -> object:
    """Spreadsheets run text that begins like a formula: it gets an apostrophe in front."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
