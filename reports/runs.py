"""Runs as main_training.py leaves them, and which of them differ by nothing but the seed."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reports.errors import ReportError

POLICY_ORDER = ("DMPO", "DMPO_ant", "AWAC", "IQL", "mixAWAC", "LP_AWAC")
LAST_EVALUATIONS = 10
# Arguments that change nothing in what a run computes, or that are said elsewhere: the dataset by
# its checksum. All others keep runs apart, those of later versions of the program too.
NOT_SETTINGS = {
    *("policy", "env", "source", "seed", "device_id", "c_loss_freq", "save_model"),
    *("checkpoint_freq", "fresh", "logger", "no_cuda_graph"),
}
# What means the same in all policies and has one default: policies in which it differs do not
# belong side by side. So it is with all options that are no hyperparameter.
COMMON_SETTINGS = {"max_timesteps", "scale", "discount", "tau", "policy_freq", "weight_type"}
# Options that are on unless a run says otherwise.
OPTIONS_ON = {"normalize"}
# They follow from the task's data, so they differ between tasks under equal settings.
DATA_HYPERPARAMETERS = {"value_range"}


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    Attributes:
        name: the files' stem.
        policy, env, seed: as given to main_training.py.
        hyperparameters: of the policy, as text.
        options: main_training.py's own that a result depends on, as text.
        data: the dataset's SHA-256, or its source where there is no file.
        synthetic: the dataset was a synthetic dataset.
        code: git commit and PyTorch version.
        steps: (E,) int64, train steps at the evaluations.
        scores: (E,) float64, normalised score x 100, mean over an evaluation's episodes.
        critic_loss: (E,) float64, mean since the evaluation before; NaN where there is none.
    """

    name: str
    policy: str
    env: str
    seed: int
    hyperparameters: dict[str, str]
    options: dict[str, str]
    data: str
    synthetic: bool
    code: str
    steps: np.ndarray
    scores: np.ndarray
    critic_loss: np.ndarray

    @property
    def settings(self) -> dict[str, str]:
        """Hyperparameters and options, sorted by name."""
        return dict(sorted((self.hyperparameters | self.options).items()))

    @property
    def family(self) -> str:
        """The tasks a mean may be taken over: "antmaze" or "MuJoCo"."""
        return "antmaze" if self.env.startswith("antmaze") else "MuJoCo"

    @property
    def final_score(self) -> float:
        """Mean of the last ten evaluations (of all, if there are fewer), x 100."""
        return float(self.scores[-LAST_EVALUATIONS:].mean())

    @property
    def critic_loss_sum(self) -> float:
        """Critic loss summed over all train steps: how much it accumulated."""
        return float(self.accumulated_critic_loss[-1])

    @property
    def accumulated_critic_loss(self) -> np.ndarray:
        """(E,) critic loss summed over the train steps up to each evaluation."""
        return np.cumsum(self.critic_loss * np.diff(self.steps, prepend=0))


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ by nothing but the seed, in order of their seeds.

    Attributes:
        label: the settings that distinguish it from the policy's other groups; "" if none do.
    """

    runs: list[Run]
    label: str

    @property
    def policy(self) -> str:
        return self.runs[0].policy

    @property
    def env(self) -> str:
        return self.runs[0].env

    @property
    def scores(self) -> np.ndarray:
        """(seeds,) final scores."""
        return np.array([run.final_score for run in self.runs])


def read_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """Read results/<policy>/<run>.json and .csv.

    Returns:
        the finished runs, and a line for each run that is left out, and why.

    Raises:
        ReportError: there are no runs.
    """
    if not folder.is_dir():
        raise ReportError(f"there is no folder {folder}: give the one main_training.py wrote to")
    runs, left_out = [], []
    for path in sorted(folder.glob("*/*.json")):
        try:
            runs.append(read_run(path))
        except UnfinishedError as reason:
            left_out.append(f"{path.stem}: {reason}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            left_out.append(f"{path.stem}: cannot be read ({type(error).__name__}: {error})")
    if not runs and not left_out:
        raise ReportError(f"{folder} holds no <policy>/<run>.json: train something first")
    return runs, left_out


class UnfinishedError(Exception):
    """The run has not come to its end; the message says how far it is."""


def read_run(path: Path) -> Run:
    """Read one run by the path of its JSON.

    Raises:
        UnfinishedError: it is not at its last step.
        OSError, ValueError, KeyError, TypeError: the files are not what main_training.py writes.
    """
    config = json.loads(path.read_text())
    arguments, data = config["arguments"], config["dataset"]
    rows = _read_rows(path.with_suffix(".csv"))
    last = int(rows[-1]["step"]) if rows else 0
    if last < arguments["max_timesteps"]:
        raise UnfinishedError(f"unfinished, at step {last} of {arguments['max_timesteps']}")
    scores = 100 * np.array([float(row["score_mean"]) for row in rows])
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return Run(
        name=path.stem,
        policy=arguments["policy"],
        env=arguments["env"],
        seed=arguments["seed"],
        hyperparameters={k: _text(v) for k, v in config["hyperparameters"].items()},
        options=_options(config),
        data=data["sha256"] or data["source"],
        synthetic=data["synthetic"],
        code=f"commit {config['git_commit']}, torch {config['versions']['torch']}",
        steps=np.array([int(row["step"]) for row in rows]),
        scores=scores,
        critic_loss=np.array([float(row.get("critic_loss") or math.nan) for row in rows]),
    )


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():  # before the first evaluation
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _options(config: dict) -> dict[str, str]:
    # An option that is None, False or empty is one the run did not use. Runs that were written
    # before an option existed then equal those that leave it alone.
    return {
        name: _text(value)
        for name, value in config["arguments"].items()
        if name not in NOT_SETTINGS and name not in config["hyperparameters"]
        if value not in (None, False, "")
    }


def _text(value: object) -> str:
    if isinstance(value, list):
        return "-".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Put together what differs by nothing but the seed, ordered by task, label and policy."""
    same: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        # Seeds with other evaluations (of runs that began from a saved model) have other curves.
        steps = tuple(run.steps)
        same[run.policy, run.env, run.data, steps, tuple(run.settings.items())].append(run)
    varying = _varying_settings(same.values())
    groups = [
        Group(
            sorted(members, key=lambda run: run.seed),
            _label(members[0], varying[_kind(members[0])]),
        )
        for members in same.values()
    ]
    return sorted(groups, key=lambda g: (g.env, g.runs[0].data, g.label, policy_rank(g.policy)))


def policy_rank(policy: str) -> tuple[int, str]:
    """Sorts the paper's policies first, in the paper's order."""
    known = policy in POLICY_ORDER
    return (POLICY_ORDER.index(policy) if known else len(POLICY_ORDER)), policy


def _varying_settings(groups: Collection[list[Run]]) -> dict[tuple[str, bool], set[str]]:
    """The settings in which groups differ that should not, by family and kind of data.

    antmaze is run at another scale than MuJoCo; that is no variant.
    """
    options = {name for first, *_ in groups for name in first.options}
    names: dict[str, set[str]] = defaultdict(set)
    for first, *_ in groups:
        names[first.policy] |= first.hyperparameters.keys() | options
    seen: dict[tuple, set] = defaultdict(set)
    for first, *_ in groups:
        for name in names[first.policy]:
            policy = None if name in options | COMMON_SETTINGS else first.policy
            task = (first.env, first.data) if name in DATA_HYPERPARAMETERS else None
            seen[_kind(first), policy, name, task].add(first.settings.get(name))
    varying: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for (kind, _, name, _), values in seen.items():
        if len(values) > 1:
            varying[kind].add(name)
    return varying


def _kind(run: Run) -> tuple[str, bool]:
    return run.family, run.synthetic


def _label(run: Run, varying: set[str]) -> str:
    """The run's own values of the settings that vary, e.g. "no normalize, scale 1.5"."""
    parts = []
    for name in sorted(varying):
        if name in run.settings:
            parts.append(f"{name} {run.settings[name]}")
        elif name in OPTIONS_ON:
            parts.append(f"no {name}")
    return ", ".join(parts)


def data_label(group: Group, groups: Iterable[Group]) -> str:
    """The task, marked if its data is synthetic, with a checksum where a task has several."""
    run = group.runs[0]
    notes = ["synthetic"] if run.synthetic else []
    if len({g.runs[0].data for g in groups if g.env == group.env}) > 1:
        notes.append(run.data[:8])
    return f"{run.env} ({', '.join(notes)})" if notes else run.env


def group_notes(groups: Iterable[Group]) -> list[str]:
    """A line for each group that mixes runs of different code, or counts a seed twice."""
    notes = []
    for group in groups:
        name = f"{group.policy} on {group.env}"
        codes = sorted({run.code for run in group.runs})
        if len(codes) > 1:
            notes.append(f"{name}: its seeds were run by different code: {'; '.join(codes)}")
        if len({run.seed for run in group.runs}) < len(group.runs):
            notes.append(f"{name}: a seed is there twice: {', '.join(r.name for r in group.runs)}")
    return notes
