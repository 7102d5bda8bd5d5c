"""Runs as main_training.py leaves them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d4rl_tasks.command_line import printable
from reports.errors import ReportError
from reports.schema import read_columns, read_config

LAST_EVALUATIONS = 10
OTHER_BACKENDS = {"minari": "Minari", "ogbench": "OGBench"}  # whose tasks are not D4RL's


class UnfinishedError(ReportError):
    """The run has not reached its last step; the message says how far it is."""


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    Attributes:
        path: of its JSON.
        config: the JSON's content, checked by `reports.schema`.
        columns: of its CSV, (E,) each.
    """

    path: Path
    config: dict[str, Any]
    columns: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return printable(self.path.stem)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what the run computes."""
        return self.config["settings"]

    @property
    def policy(self) -> str:
        return printable(self.settings["policy"])

    @property
    def env(self) -> str:
        return printable(self.settings["env"]).removeprefix("d4rl/")

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def data(self) -> str:
        """The dataset's SHA-256."""
        return printable(self.settings["dataset_sha256"])

    @property
    def is_synthetic(self) -> bool:
        """Whether the dataset is synthetic."""
        return self.config["dataset"]["synthetic"]

    @property
    def family(self) -> str:
        """The tasks that a mean may be taken over: "antmaze", "maze2d", "MuJoCo" or a backend."""
        backend = printable(self.settings.get("backend", "d4rl_tasks"))
        if backend in OTHER_BACKENDS:
            return OTHER_BACKENDS[backend]
        robot = self.env.partition("-")[0]
        return robot if robot in ("antmaze", "maze2d") else "MuJoCo"

    @property
    def code(self) -> list[str]:
        """Commits and PyTorch versions that computed it: several, if others resumed it."""
        parts = [self.config]
        for changes in reversed(self.config.get("earlier", [])):  # of each from the one after it
            parts.append(parts[-1] | changes)
        return sorted({_code(part) for part in parts})

    @property
    def steps(self) -> np.ndarray:
        """(E,) int64, train steps at the evaluations."""
        return self.columns["step"]

    @property
    def train_steps(self) -> int:
        return int(self.steps[-1])

    @property
    def scores(self) -> np.ndarray:
        """(E,) normalised score x 100, mean over an evaluation's episodes."""
        return 100 * self.columns["score_mean"]

    def column(self, name: str) -> np.ndarray:
        """(E,) a column of the CSV; NaN where the run has none."""
        return self.columns.get(name, np.full(len(self.steps), np.nan))

    @property
    def critic_loss(self) -> np.ndarray:
        """(E,) mean since the evaluation before; NaN for a policy without a critic."""
        return self.column("critic_loss")

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

    @property
    def overestimates(self) -> str:
        """When the policy's mean value was above all that the rewards allow; "" for never."""
        above = self.column("value_policy") > self.column("value_bound")
        if not above.any():
            return ""
        first, count = self.steps[above.argmax()], np.count_nonzero(above)
        return f"first at step {first}, in {count} of {len(above)} evaluations"

    @property
    def averaged_steps(self) -> tuple[int, ...]:
        """Train steps of the evaluations that `final_score` is the mean of."""
        return tuple(self.steps[-LAST_EVALUATIONS:].tolist())


def read_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """Read <folder>/<policy>/<run>.json and .csv, or <folder>/<run>.json and .csv.

    Returns:
        the finished runs, and a line for each run that is left out, and why.

    Raises:
        ReportError: the folder does not exist or holds no run.
    """
    if not folder.is_dir():
        raise ReportError(
            f"the folder {folder} does not exist: give the one main_training.py wrote to"
        )
    runs, left_out = [], []
    for path in _configs(folder):
        try:
            runs.append(read_run(path))
        except (ReportError, OSError) as reason:
            text = reason.strerror if isinstance(reason, OSError) else reason
            left_out.append(printable(f"{path.stem}: {text}"))
    if not runs and not left_out:
        raise ReportError(f"{folder} holds no <policy>/<run>.json: train something first")
    return runs, left_out


def read_run(path: Path) -> Run:
    """Read one run by the path of its JSON.

    Raises:
        UnfinishedError: it is not at its last step.
        BadFileError: the files are not what main_training.py writes.
        OSError: they cannot be read.
    """
    config, csv_path = read_config(path), path.with_suffix(".csv")
    columns = read_columns(csv_path) if csv_path.exists() else {}  # before the first evaluation
    last = int(columns["step"][-1]) if columns and len(columns["step"]) else 0
    if last < config["max_timesteps"]:
        raise UnfinishedError(f"unfinished, at step {last} of {config['max_timesteps']}")
    return Run(path, config, columns)


def _configs(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.json"))
    yield from sorted(folder.glob("*/*.json"))


def _code(config: dict[str, Any]) -> str:
    commit, torch = config["git_commit"], config["versions"].get("torch")
    short = f"{commit[:8]}{'+changes' * commit.endswith('+changes')}" if commit else "unknown"
    return printable(f"commit {short}, torch {torch}")
