"""The files of a run in the folders of its results and models."""

import csv
import glob
import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import filelock

from d4rl_tasks.files import read_small
from experiment.checkpoints import Checkpoints
from experiment.errors import RunError
from experiment.evaluation import Outcome
from experiment.files import set_aside, whole_file

MODELS = Path("models")
LARGEST_CONFIG = 2**20  # bytes; the program's own have a few thousand
CHANGING = ("max_timesteps", "options", "command", "versions", "git_commit", "device")


class Results:
    """A run's files: results/<policy>/<run>*, models/<run>.* and tensorboard/<run>, each whole.

    Files of an earlier run of the same name are set aside in a folder `old`, never overwritten.

    Attributes:
        rows: the lines of the CSV, one for each evaluation.
        losses: the mean of the logged loss in every window.
    """

    def __init__(self, folder: Path, policy: str, run: str):
        self.run = run
        self.folder = folder / policy
        self.config_path = self.folder / f"{run}.json"
        self.csv_path = self.folder / f"{run}.csv"
        self.text_paths = {
            name: self.folder / f"{run}_{name}.txt"
            for name in ("d4rl", "return", "critic_loss_log")
        }
        # A run in another folder of results has the same model and checkpoints.
        self.lock_paths = [self.folder / f"{run}.lock", MODELS / f"{run}.lock"]
        self.model_path = MODELS / f"{run}.safetensors"
        self.best_model_path = MODELS / f"{run}.best.safetensors"
        self.checkpoints = Checkpoints(MODELS / f"{run}.checkpoint.safetensors")
        self.tensorboard_folder = Path("tensorboard") / run
        self.rows: list[dict[str, float]] = []
        self.losses: list[float] = []

    def _paths(self) -> list[Path]:
        results = [self.config_path, self.csv_path, *self.text_paths.values()]
        return [*results, self.model_path, self.best_model_path, *self.checkpoints.paths]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off these files. The lock of a process that died is free.

        Raises:
            RunError: another process has the lock, or the folder cannot be written.
        """
        with ExitStack() as stack:
            for path in self.lock_paths:
                stack.enter_context(self._lock(path))
            self._delete_unfinished()
            yield

    def _lock(self, path: Path) -> AbstractContextManager:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return filelock.FileLock(path).acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(
                f"another process is running {self.run}: wait for it, stop it, or give another "
                "--seed"
            ) from None
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error

    def _delete_unfinished(self) -> None:
        # A process that was killed while writing leaves these; nobody else writes them now.
        for path in self._paths():
            for temporary in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
                temporary.unlink()

    def set_aside(self) -> None:
        """Move what an earlier run of this name has left."""
        for path in self._paths():
            if path.exists():
                set_aside(path)
        if self.tensorboard_folder.exists():  # not beside the others, where TensorBoard shows it
            set_aside(self.tensorboard_folder, self.folder / "old")

    def write_config(self, config: dict[str, Any]) -> None:
        """Write <run>.json."""
        with whole_file(self.config_path) as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")

    def update_config(self, config: dict[str, Any], step: int) -> None:
        """Write <run>.json for a run that is resumed at a step; `earlier` keeps what changes."""
        config = json.loads(json.dumps(config))
        try:
            saved = json.loads(read_small(self.config_path, LARGEST_CONFIG))
            changes = {key: saved[key] for key in CHANGING if saved[key] != config[key]}
            earlier = saved.get("earlier", [])
            if not (isinstance(earlier, list) and all(isinstance(one, dict) for one in earlier)):
                raise ValueError("`earlier` is not a list of changes")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # somebody changed it
            if self.config_path.exists():
                set_aside(self.config_path)
            self.write_config(config)
            return
        if changes:
            earlier.append({"until_step": step, **changes})
        self.write_config(config | ({"earlier": earlier} if earlier else {}))

    def add_evaluation(
        self,
        step: int,
        seconds: float,
        outcome: Outcome,
        others: dict[str, float],
    ) -> dict[str, float]:
        """Add a line to the CSV, with `others` as further columns, and write the logs.

        Returns:
            the line.
        """
        row = {
            "step": step,
            "wall_time": round(seconds, 3),
            "score_mean": float(outcome.scores.mean()),
            "score_std": float(outcome.scores.std()),
            "return_mean": float(outcome.returns.mean()),
            "return_std": float(outcome.returns.std()),
            **others,
        }
        self.rows.append(row)
        self.write_logs()
        return row

    @property
    def last_step(self) -> int:
        """Train steps at the last evaluation; 0 before the first."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def is_best(self) -> bool:
        """Whether the last evaluation has the highest score of all."""
        scores = [row["score_mean"] for row in self.rows]
        return scores[-1] > max(scores[:-1], default=-math.inf)

    def write_logs(self) -> None:
        """Write <run>.csv and the text files, one number a line."""
        columns = {
            "d4rl": [row["score_mean"] for row in self.rows],
            "return": [row["return_mean"] for row in self.rows],
            "critic_loss_log": self.losses,
        }
        for name, values in columns.items():
            if values:
                with whole_file(self.text_paths[name]) as temporary:
                    temporary.write_text("".join(f"{value!r}\n" for value in values))
        fields = list(dict.fromkeys(field for row in self.rows for field in row))
        with whole_file(self.csv_path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(self.rows)

    def restore(self, config: dict[str, Any]) -> None:
        """Write the files of a finished run that are missing."""
        if not self.config_path.exists():
            self.write_config(config)
        if not all(path.exists() for path in (self.csv_path, *self.text_paths.values())):
            self.write_logs()

    def state_dict(self) -> dict[str, Any]:
        """The content of the logs."""
        return {"rows": self.rows, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows, self.losses = state["rows"], state["losses"]
