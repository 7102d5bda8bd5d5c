"""The report's tables, as Markdown and CSV."""

import csv
import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reports.runs import LAST_EVALUATIONS, Group, Run, data_label, policy_rank
from reports.statistics import Estimate, interquartile_mean, probability_of_improvement


@dataclass(frozen=True)
class Cell:
    """What a table shows, and the number (or text) that it is sorted by."""

    text: str
    key: float | str


@dataclass(frozen=True)
class Table:
    """A table of cells; `note` says in a sentence or two how to read it."""

    title: str
    note: str
    header: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Line:
    """What stands in one line of the report: a task with its data, under one setting.

    Attributes:
        groups: of the policies that were run so, in the paper's order.
    """

    task: str
    settings: str
    groups: list[Group]


EMPTY = Cell("", "")
SCORE_NOTE = (
    f"Normalised score x 100: for each run the mean of its last {LAST_EVALUATIONS} evaluations (of "
    "all, if there are fewer); then mean ± standard deviation over the seeds (number of seeds)."
)
LOSS_NOTE = (
    "Critic loss (squared TD error, summed over the twins) summed over all train steps; mean ± "
    "standard deviation over the seeds (number of seeds)."
)
IQM_NOTE = (
    "Interquartile mean of the score x 100 over all runs of all tasks, with its 95 % bootstrap "
    'interval: "runs" were drawn anew within each task, or, with one seed a task, "tasks".'
)
IMPROVEMENT_NOTE = (
    "Probability that a run of the row's policy scores above one of the column's, mean over the "
    "tasks both have, with its 95 % bootstrap interval (drawn as above)."
)


def make_lines(groups: Sequence[Group]) -> list[Line]:
    """Bring groups of different policies under equal settings into one line."""
    lines: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        lines[data_label(group, groups), group.label].append(group)
    return [Line(task, settings, members) for (task, settings), members in lines.items()]


def make_tables(lines: Sequence[Line]) -> list[Table]:
    """All tables of the report, the scores first."""
    return [
        by_policy("Scores", SCORE_NOTE, lines, lambda run: run.final_score, ".1f"),
        *comparisons(lines),
        by_policy(
            "Accumulated critic loss", LOSS_NOTE, lines, lambda run: run.critic_loss_sum, ".0f"
        ),
    ]


def policies_of(lines: Iterable[Line]) -> list[str]:
    """The policies that occur, in the paper's order."""
    return sorted({group.policy for line in lines for group in line.groups}, key=policy_rank)


def by_policy(
    title: str, note: str, lines: Sequence[Line], quantity: Callable[[Run], float], digits: str
) -> Table:
    """Tasks by policies: a quantity of the runs, shown in the format `digits`."""
    policies = policies_of(lines)
    has_settings = any(line.settings for line in lines)
    rows = []
    for line in lines:
        cells = {group.policy: _mean_cell(group.runs, quantity, digits) for group in line.groups}
        first = [Cell(line.task, line.task)]
        if has_settings:
            first.append(Cell(line.settings, line.settings))
        rows.append(first + [cells.get(policy, EMPTY) for policy in policies])
    header = ["task", "settings"] if has_settings else ["task"]
    return Table(title, note, header + policies, rows)


def _mean_cell(runs: Sequence[Run], quantity: Callable[[Run], float], digits: str) -> Cell:
    values = np.array([quantity(run) for run in runs])
    if np.isnan(values).any():
        return EMPTY
    mean, spread = mean_and_std(values)
    shown = f"{mean:{digits}}" + ("" if spread is None else f" ± {spread:{digits}}")
    return Cell(f"{shown} ({len(values)})", float(mean))


def mean_and_std(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and sample standard deviation over seeds; one seed has none."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def comparisons(lines: Sequence[Line]) -> list[Table]:
    """Over the tasks of a family: only what was run under equal settings on the same kind of data.

    Where there is one task with one seed of each policy, there is nothing to compare.
    """
    kinds: dict[tuple[str, bool, str], list[Line]] = defaultdict(list)
    for line in lines:
        run = line.groups[0].runs[0]
        kinds[run.family, run.synthetic, line.settings].append(line)
    tables = []
    for (family, synthetic, settings), members in kinds.items():
        if len(members) == 1 and all(len(group.runs) == 1 for group in members[0].groups):
            continue
        notes = [family, *(["synthetic"] if synthetic else []), *([settings] if settings else [])]
        tables += _comparison(", ".join(notes), members)
    return tables


def _comparison(name: str, lines: Sequence[Line]) -> list[Table]:
    policies = policies_of(lines)
    scores: dict[str, dict[str, np.ndarray]] = {policy: {} for policy in policies}
    for line in lines:
        for group in line.groups:
            scores[group.policy][line.task] = group.scores
    tables = [_iqm_table(name, scores)]
    if len(policies) > 1:
        tables.append(_improvement_table(name, scores))
    return tables


def _iqm_table(name: str, scores: dict[str, dict[str, np.ndarray]]) -> Table:
    rows = []
    for policy, by_task in scores.items():
        tasks = list(by_task.values())
        runs = sum(map(len, tasks))
        estimate = interquartile_mean(tasks)
        cells = [
            Cell(policy, policy),
            Cell(str(len(tasks)), len(tasks)),
            Cell(str(runs), runs),
            Cell(f"{estimate.value:.1f}", estimate.value),
            Cell(_interval(estimate, ".1f"), "" if estimate.low is None else estimate.low),
            Cell(estimate.drawn, estimate.drawn),
        ]
        rows.append(cells)
    note = IQM_NOTE
    if len({frozenset(by_task) for by_task in scores.values()}) > 1:
        note += " NOT ALL POLICIES WERE RUN ON THE SAME TASKS: their means do not compare."
    header = ["policy", "tasks", "runs", "interquartile mean", "95 % interval", "drawn"]
    return Table(f"Over tasks: {name}", note, header, rows)


def _improvement_table(name: str, scores: dict[str, dict[str, np.ndarray]]) -> Table:
    cells: dict[tuple[str, str], Cell] = {}
    for ours, theirs in itertools.permutations(scores, 2):
        common = [task for task in scores[ours] if task in scores[theirs]]
        pairs = [(scores[ours][task], scores[theirs][task]) for task in common]
        if pairs:
            estimate = probability_of_improvement(pairs)
            interval = _interval(estimate, ".2f")
            text = f"{estimate.value:.2f} [{interval}]" if interval else f"{estimate.value:.2f}"
            cells[ours, theirs] = Cell(text, estimate.value)
    rows = [
        [Cell(ours, ours), *(cells.get((ours, theirs), EMPTY) for theirs in scores)]
        for ours in scores
    ]
    header = ["policy", *(f"above {policy}" for policy in scores)]
    return Table(f"Probability of improvement: {name}", IMPROVEMENT_NOTE, header, rows)


def _interval(estimate: Estimate, digits: str) -> str:
    if estimate.low is None:
        return ""
    return f"{estimate.low:{digits}} to {estimate.high:{digits}}"


def markdown_table(table: Table) -> str:
    """One table, its columns aligned for reading on a terminal."""
    texts = [table.header, *([cell.text for cell in row] for row in table.rows)]
    texts = [[text.replace("|", "\\|") for text in row] for row in texts]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    header, *rows = [
        "| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |"
        for row in texts
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([header, rule, *rows])


def markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """The whole report in Markdown, without its figures."""
    parts = [f"## {t.title}\n\n{markdown_table(t)}\n\n{t.note}\n" for t in tables if t.rows]
    if notes:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in notes))
    return "# Results\n\n" + "\n".join(parts)


def csv_table(groups: Sequence[Group]) -> str:
    """A line for each task, policy and setting; scores x 100, "" where a quantity is undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("task", "policy", "settings", "synthetic", "data", "seeds", "score_mean"),
            *("score_std", "evaluations", "train_steps", "critic_loss_sum"),
        ]
    )
    for group in groups:
        first = group.runs[0]
        mean, spread = mean_and_std(group.scores)
        losses = np.array([run.critic_loss_sum for run in group.runs])
        writer.writerow(
            [
                *(first.env, first.policy, group.label, first.synthetic, first.data),
                *(len(group.runs), mean, "" if spread is None else spread),
                *(min(LAST_EVALUATIONS, len(first.steps)), first.steps[-1]),
                "" if np.isnan(losses).any() else losses.mean(),
            ]
        )
    return text.getvalue()
