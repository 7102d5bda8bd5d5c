"""Runs with equal settings except the seed, and how they are named in tables and figures."""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from d4rl_tasks.command_line import printable
from experiment.options import POLICIES, parse
from reports.runs import Run

# A table's column, its row, and the runs in a cell. All other settings name the column.
PLACE = ("policy", "env", "dataset_sha256", "seed")
LONGEST_VALUE = 24  # characters of a setting in a name


@dataclass(frozen=True, eq=False)
class Group:
    """Runs with equal settings except the seed, in order of their seeds.

    Attributes:
        method: the policy and the settings that tell it from others: "DMPO kl_weight 0.1".
        task: the environment's name, with what is special about the data.
        changed: its settings that are not at their defaults, as text.
    """

    runs: list[Run]
    method: str
    task: str
    changed: dict[str, str]

    @property
    def policy(self) -> str:
        return self.runs[0].policy

    @property
    def env(self) -> str:
        return self.runs[0].env

    @property
    def data(self) -> str:
        return self.runs[0].data

    @property
    def kind(self) -> tuple[str, bool]:
        """The tasks it may be averaged with: their family, and whether they are synthetic."""
        return self.runs[0].family, self.runs[0].is_synthetic

    @property
    def scores(self) -> np.ndarray:
        """(seeds,) final scores x 100."""
        return np.array([run.final_score for run in self.runs])

    @property
    def train_steps(self) -> list[int]:
        """The different lengths of its runs, sorted."""
        return sorted({run.train_steps for run in self.runs})


@dataclass(frozen=True, eq=False)
class Task:
    """A row of the tables: the groups that were trained on one dataset of one environment."""

    name: str
    groups: list[Group]

    @property
    def has_one_length(self) -> bool:
        """Whether all runs have as many train steps."""
        return len({steps for group in self.groups for steps in group.train_steps}) == 1


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Put runs with equal settings except the seed together, in order of tasks and methods."""
    same: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        same[_key(run)].append(run)
    members = [sorted(group, key=lambda run: run.seed) for group in same.values()]
    firsts = [group[0] for group in members]
    names = _method_names(firsts)
    groups = [
        Group(group, name, _task_name(group[0], firsts), _changed(group[0], firsts))
        for group, name in zip(members, names, strict=True)
    ]
    return sorted(groups, key=lambda group: (group.env, group.data, method_rank(group)))


def make_tasks(groups: Sequence[Group]) -> list[Task]:
    """The rows of the tables, in the groups' order."""
    rows: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        rows[group.env, group.data].append(group)
    return [Task(members[0].task, members) for members in rows.values()]


def methods_of(groups: Iterable[Group]) -> list[str]:
    """The methods that occur, in the paper's order."""
    ranks = {group.method: method_rank(group) for group in groups}
    return sorted(ranks, key=ranks.__getitem__)


def method_rank(group: Group) -> tuple[int, str, str]:
    """Sorts the paper's policies first, in the paper's order, and plain ones before others."""
    known = group.policy in POLICIES
    return (POLICIES.index(group.policy) if known else len(POLICIES)), group.policy, group.method


def group_notes(groups: Sequence[Group]) -> list[str]:
    """A line for each thing that a reader of the tables must know."""
    notes = _common_notes(groups)
    for group in groups:
        name = f"{group.method} on {group.task}"
        codes = sorted({code for run in group.runs for code in run.code})
        if len(codes) > 1:
            notes.append(f"{name}: computed by different code: {'; '.join(codes)}")
        if len({run.seed for run in group.runs}) < len(group.runs):
            notes.append(f"{name}: a seed occurs twice: {', '.join(r.name for r in group.runs)}")
        notes += [
            f"{run.name}: the policy's mean value was above any return that the data's rewards "
            f"allow: {run.overestimates}"
            for run in group.runs
            if run.overestimates
        ]
    for task in make_tasks(groups):
        if not task.has_one_length:
            lengths = {group.method: group.train_steps for group in task.groups}
            listed = ", ".join(f"{name} {_listed(steps)}" for name, steps in lengths.items())
            notes.append(f"{task.name}: trained for different numbers of steps: {listed}")
        elif len({run.averaged_steps for group in task.groups for run in group.runs}) > 1:
            notes.append(f"{task.name}: scores are means of evaluations at different steps")
    return notes


def _common_notes(groups: Sequence[Group]) -> list[str]:
    """The settings that no column names since all runs of a family share them."""
    notes = []
    for family in sorted({group.kind[0] for group in groups}):
        members = [group for group in groups if group.kind[0] == family]
        common = _common([group.runs[0] for group in members])
        names = sorted({name for group in members for name in group.changed} & common)
        if names:
            values = {name: v for group in members for name, v in group.runs[0].settings.items()}
            parts = [part_of_name(name, values[name]) for name in names]
            notes.append(f"all runs on {family}: {', '.join(parts)}")
    return notes


def _listed(steps: Sequence[int]) -> str:
    return " and ".join(map(str, steps))


def _key(run: Run) -> str:
    return json.dumps(
        {name: value for name, value in run.settings.items() if name != "seed"}, sort_keys=True
    )


def _method_names(firsts: Sequence[Run]) -> list[str]:
    """A name for each group, by its first run; no two groups of a task have the same."""
    families, tasks = defaultdict(list), defaultdict(list)
    for run in firsts:
        families[run.family].append(run)
        tasks[run.env, run.data].append(run)
    of_family = {family: _common(runs) for family, runs in families.items()}
    # Tasks may be trained for different numbers of steps: group_notes says so.
    of_task = {task: _common(runs) & {"max_timesteps"} for task, runs in tasks.items()}
    names = []
    for run in firsts:
        unnamed = of_family[run.family] | of_task[run.env, run.data]
        changed = [name for name in _changed(run, firsts) if name not in unnamed]
        parts = [part_of_name(name, run.settings[name]) for name in changed]
        names.append(f"{run.policy} {', '.join(parts)}".rstrip())
    cells = Counter((r.env, r.data, n) for r, n in zip(firsts, names, strict=True))
    return [
        f"{name} ({_digest(run)})" if cells[run.env, run.data, name] > 1 else name
        for run, name in zip(firsts, names, strict=True)
    ]


def _common(firsts: Sequence[Run]) -> set[str]:
    """The settings that all groups have, with one value. All have a length of training."""
    values: dict[str, list[str]] = defaultdict(list)
    for run in firsts:
        for name, value in ({"max_timesteps": run.config["max_timesteps"]} | run.settings).items():
            values[name].append(text_of(value))
    return {
        name for name, found in values.items() if len(found) == len(firsts) and len(set(found)) == 1
    }


def _changed(run: Run, firsts: Sequence[Run]) -> dict[str, str]:
    """Settings that are not at their defaults; those without a default are if they are rare."""
    usual = dict(defaults_of(run.settings["policy"]))
    others = [other.settings for other in firsts if other.policy == run.policy]
    changed = {}
    for name in sorted(run.settings.keys() - set(PLACE)):
        value = text_of(run.settings[name])
        if name not in usual:
            found = Counter(text_of(other[name]) for other in others if name in other)
            usual[name] = found.most_common(1)[0][0]
        if value != usual[name]:
            changed[name] = value
    return changed


@cache
def defaults_of(policy: str) -> dict[str, str]:
    """The defaults of a policy's settings in this version of the source, as text.

    A policy that is not in the source has none.
    """
    if policy not in POLICIES:
        return {}
    options = parse(["--policy", policy])
    values = vars(options.run) | dataclasses.asdict(options.hyperparameters)
    return {name: text_of(value) for name, value in values.items()} | {
        "load_model_sha256": text_of(None)
    }


def part_of_name(name: str, value: Any) -> str:
    """A setting in the name of a method: "kl_weight 0.1", "info-reg", "no normalize"."""
    if isinstance(value, bool):
        shown = printable(name).replace("_", "-")
        return shown if value else f"no {shown}"
    text = text_of(value)
    if name.endswith("_sha256"):
        name, text = name.removesuffix("_sha256"), text[:8]
    return f"{_short(printable(name))} {_short(text)}"


def text_of(value: Any) -> str:
    """A setting as text, on one line."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(text_of, value))
    return f"{value:.12g}" if isinstance(value, float) else printable(value)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _digest(run: Run) -> str:
    return hashlib.sha256(_key(run).encode()).hexdigest()[:4]


def _task_name(run: Run, firsts: Sequence[Run]) -> str:
    """The environment, marked if its data is synthetic, with a checksum where it has several."""
    notes = ["synthetic"] if run.is_synthetic else []
    if len({other.data for other in firsts if other.env == run.env}) > 1:
        notes.append(run.data[:8])
    name = run.env if len(run.env) <= 60 else f"{run.env[:59]}…"
    return f"{name} ({', '.join(notes)})" if notes else name
