"""The files of a run in the folders results and models."""

import csv
import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from d4rl_tasks.files import atomic_path
from experiment.checkpoints import Checkpoints
from experiment.errors import RunError
from experiment.files import set_aside


class Results:
    """A run's files: results/<policy>/<run>*, models/<run>.* and tensorboard/<run>, each whole.

    Files of an earlier run of the same name are set aside in a folder `old`, never overwritten.

    Attributes:
        rows: the lines of the CSV, one for each evaluation.
        critic_losses: the mean critic loss of every window.
    """

    def __init__(self, policy: str, run: str):
        self.run = run
        folder = Path("results") / policy
        self.config_path = folder / f"{run}.json"
        self.csv_path = folder / f"{run}.csv"
        self.text_paths = {
            name: folder / f"{run}_{name}.txt" for name in ("d4rl", "return", "critic_loss_log")
        }
        self.lock_path = folder / f"{run}.lock"
        self.model_path = Path("models") / f"{run}.pt"
        self.checkpoints = Checkpoints(Path("models") / f"{run}.ckpt")
        self.tensorboard_folder = Path("tensorboard") / run
        self.rows: list[dict[str, float]] = []
        self.critic_losses: list[float] = []

    def _paths(self) -> list[Path]:
        results = [self.config_path, self.csv_path, *self.text_paths.values()]
        models = [self.model_path, *self.checkpoints.paths]
        return [*results, *models, self.tensorboard_folder]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off these files. The lock of a process that died is free.

        Raises:
            RunError: another process has the lock, or the folder cannot be written.
        """
        lock = filelock.FileLock(self.lock_path)
        try:
            self.lock_path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(
                f"another process is running {self.run}: wait for it, stop it, or give another "
                "--seed"
            ) from None
        except OSError as error:
            raise RunError(f"cannot write {self.lock_path}: {error.strerror}") from error
        try:
            self._delete_unfinished()
            yield
        finally:
            lock.release()

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

    def write_config(self, config: dict) -> None:
        """Write <run>.json."""
        with atomic_path(self.config_path) as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")

    def note_resumption(self, config: dict, step: int) -> None:
        """Add to <run>.json what is no more as when the run began, or was last resumed."""
        config = json.loads(json.dumps(config))
        try:
            saved = json.loads(self.config_path.read_text())
            earlier = saved.get("resumed", [])
            known = {key: value for part in (saved, *earlier) for key, value in part.items()}
        except (OSError, ValueError, AttributeError, TypeError):  # somebody has changed it
            if self.config_path.exists():
                set_aside(self.config_path)
            self.write_config(config)
            return
        changes = {key: value for key, value in config.items() if known.get(key) != value}
        if changes:
            self.write_config(saved | {"resumed": [*earlier, {"step": step, **changes}]})

    def write_logs(self) -> None:
        """Write <run>.csv and the text files, one number a line."""
        columns = {
            "d4rl": [row["score_mean"] for row in self.rows],
            "return": [row["return_mean"] for row in self.rows],
            "critic_loss_log": self.critic_losses,
        }
        for name, values in columns.items():
            with atomic_path(self.text_paths[name]) as temporary:
                temporary.write_text("".join(f"{value!r}\n" for value in values))
        fields = list(dict.fromkeys(field for row in self.rows for field in row))
        with atomic_path(self.csv_path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(self.rows)

    def restore(self, config: dict) -> None:
        """Write the files that are missing."""
        if not self.config_path.exists():
            self.write_config(config)
        if not all(path.exists() for path in (self.csv_path, *self.text_paths.values())):
            self.write_logs()

    def state_dict(self) -> dict:
        """The content of the logs."""
        return {"rows": self.rows, "critic_losses": self.critic_losses}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.rows, self.critic_losses = state["rows"], state["critic_losses"]
