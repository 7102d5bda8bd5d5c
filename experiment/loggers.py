"""Further places for the evaluations: TensorBoard or Weights & Biases, both optional."""

import argparse
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from d4rl_tasks.command_line import printable
from experiment.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGGERS = ("tensorboard", "wandb", "none")
PROJECT = "dmpo"
# As CORL and CleanRL name them; CORL's normalised score is times 100.
SCALARS = {
    "score_mean": ("eval/d4rl_normalized_score", 100),
    "score_std": ("eval/d4rl_normalized_score_std", 100),
    "return_mean": ("eval/episodic_return", 1),
    "return_std": ("eval/episodic_return_std", 1),
}


def scalars(row: dict[str, float]) -> dict[str, float]:
    """A line of the CSV by the names that others use."""
    logged = {name: row[column] * factor for column, (name, factor) in SCALARS.items()}
    known = {"step", "wall_time", *SCALARS}
    others = {f"train/{name}": value for name, value in row.items() if name not in known}
    return logged | others | {"charts/SPS": row["step"] / max(row["wall_time"], 1e-9)}


class Logger(Protocol):
    """The interface of a logger."""

    def evaluated(self, row: dict[str, float]) -> None:
        """Log a line of the CSV."""

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None:
        """Log a run's last line and figures."""

    def close(self) -> None:
        """Write everything that is still buffered."""


class NoLogger:
    """Logs nothing."""

    def evaluated(self, row: dict[str, float]) -> None: ...

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None: ...

    def close(self) -> None: ...


class TolerantLogger:
    """Passes everything on to a logger until that fails: then the run continues without it."""

    def __init__(self, logger: Logger):
        self._logger: Logger = logger

    def evaluated(self, row: dict[str, float]) -> None:
        self._try(lambda: self._logger.evaluated(row))

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None:
        self._try(lambda: self._logger.finish(row, figures))

    def close(self) -> None:
        self._try(self._logger.close)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a full disk, a network that is down, the library's own
            name = type(self._logger).__name__.removesuffix("Logger")
            print(f"warning: {name} stopped logging: {printable(error)}", file=sys.stderr)
            self._logger = NoLogger()


class TensorBoardLogger:
    """Writes event files into a folder.

    Args:
        folder: of this run.
        config: the content of <run>.json.
        start: the step at which the run is resumed; later steps in the files are dropped.
    """

    def __init__(self, folder: Path, config: dict[str, Any], start: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=start + 1)
        self._hyperparameters = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in config["settings"].items()
            if not name.endswith("_sha256")
        }
        text = json.dumps(config, indent=4)
        self._writer.add_text("config", "    " + text.replace("\n", "\n    "), start)

    def evaluated(self, row: dict[str, float]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None:
        result = {"hparam/d4rl_normalized_score": scalars(row)["eval/d4rl_normalized_score"]}
        self._writer.add_hparams(self._hyperparameters, result, run_name=".")
        for name, figure in figures.items():
            self._writer.add_figure(f"figures/{name}", figure, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """Sends to Weights & Biases, or with WANDB_MODE=offline writes what `wandb sync` sends later.

    Args:
        run_id: the same in all processes that resume one run.
        config: the content of <run>.json.
        project: None takes $WANDB_PROJECT, or "dmpo".
        group: None puts the seeds of one experiment together.
    """

    def __init__(self, run_id: str, config: dict[str, Any], project: str | None, group: str | None):
        import wandb

        self._wandb = wandb
        settings = config["settings"]
        project = project or os.environ.get("WANDB_PROJECT") or PROJECT
        group = group or f"{settings['policy']} {settings['env']}"
        try:
            self._run = wandb.init(
                project=project,
                group=group,
                name=config["run"],
                id=run_id,
                resume="allow",
                config=config,
            )
        except wandb.errors.Error as error:
            raise RunError(
                f"W&B cannot start ({printable(error)}): set WANDB_MODE=offline"
            ) from error

    def evaluated(self, row: dict[str, float]) -> None:
        self._run.log(scalars(row), step=int(row["step"]))

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None:
        images = {
            f"figures/{name}": self._wandb.Image(picture_of(figure))
            for name, figure in figures.items()
        }
        self._run.log(images, step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()


def picture_of(figure: "Figure"):
    """A figure as a PIL image: W&B itself takes only those that pyplot has made."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def _is_installed(package: str) -> bool:
    """Whether it can be imported: a run's own folder `tensorboard` or `wandb` has no origin."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def choose_logger(name: str | None) -> str:
    """The logger that is asked for; for None TensorBoard, if it is installed.

    Raises:
        RunError: the one asked for is not installed.
    """
    if name is None:
        return "tensorboard" if _is_installed("tensorboard") else "none"
    if name != "none" and not _is_installed(name):
        raise RunError(f"--logger {name} needs a package: pip install {name}")
    return name


def make_logger(
    name: str,
    folder: Path,
    run_id: str,
    config: dict[str, Any],
    start: int,
    options: argparse.Namespace,
) -> Logger:
    """The logger of a run; `name` is one of LOGGERS.

    Raises:
        RunError: W&B, or TensorBoard that was asked for, cannot start.
    """
    try:
        if name == "tensorboard":
            return TolerantLogger(TensorBoardLogger(folder, config, start))
        if name == "wandb":
            return TolerantLogger(WandbLogger(run_id, config, options.project, options.group))
        return NoLogger()
    except RunError:
        raise
    except Exception as error:  # a package that is installed may be broken
        reason = f"{name} cannot start ({printable(error)})"
        if options.logger:
            raise RunError(f"{reason}: reinstall it, or give --logger none") from error
        print(f"warning: {reason}: nothing is logged there", file=sys.stderr)
        return NoLogger()
