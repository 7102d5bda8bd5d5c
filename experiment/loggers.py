"""Where else the evaluations go: TensorBoard or Weights & Biases, both optional."""

import importlib.util
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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
    """What is logged of a line of the CSV, by the names that others use."""
    logged = {name: row[column] * factor for column, (name, factor) in SCALARS.items()}
    losses = {f"train/{name}": value for name, value in row.items() if name.endswith("_loss")}
    return logged | losses | {"charts/SPS": row["step"] / max(row["wall_time"], 1e-9)}


class Logger(Protocol):
    """What the loop expects of a logger."""

    def evaluated(self, row: dict[str, float]) -> None:
        """Log a line of the CSV."""

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None:
        """Log a run's last line and figures."""

    def close(self) -> None:
        """Write out what is still on its way."""


class NoLogger:
    """Logs nothing."""

    def evaluated(self, row: dict[str, float]) -> None: ...

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None: ...

    def close(self) -> None: ...


class TensorBoardLogger:
    """Writes event files into a folder.

    Args:
        folder: of this run.
        config: what <run>.json says.
        start: the step that the run goes on from; what the files say of later steps is dropped.
    """

    def __init__(self, folder: Path, config: dict, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=start + 1)
        self._hyperparameters = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in config["hyperparameters"].items()
        }
        text = json.dumps(config, indent=4)
        self._writer.add_text("config", "    " + text.replace("\n", "\n    "), start)

    def evaluated(self, row: dict[str, float]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None:
        result = {"hparam/d4rl_normalized_score": scalars(row)["eval/d4rl_normalized_score"]}
        self._writer.add_hparams(self._hyperparameters, result, run_name=".")
        for name, figure in figures.items():
            self._writer.add_figure(f"figures/{name}", figure, row["step"])

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """Sends to Weights & Biases, or with WANDB_MODE=offline writes what `wandb sync` sends later.

    Args:
        run: the run's name.
        run_id: the same in all processes that carry on with one run.
        config: what <run>.json says.
    """

    def __init__(self, run: str, run_id: str, config: dict):
        import wandb

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=PROJECT, name=run, id=run_id, resume="allow", config=config
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise RunError(f"W&B does not start ({reason}): set WANDB_MODE=offline") from error

    def evaluated(self, row: dict[str, float]) -> None:
        self._run.log(scalars(row), step=row["step"])

    def finish(self, row: dict[str, float], figures: "dict[str, Figure]") -> None:
        images = {
            f"figures/{name}": self._wandb.Image(picture_of(figure))
            for name, figure in figures.items()
        }
        self._run.log(images, step=row["step"])

    def close(self) -> None:
        self._run.finish()


def picture_of(figure: "Figure"):
    """A figure as a PIL image: W&B itself takes only those that pyplot has made."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def choose_logger(name: str | None) -> str:
    """The logger that is asked for; for None TensorBoard, if it is installed.

    Raises:
        RunError: the one asked for is not installed.
    """
    if name is None:
        return "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    if name != "none" and importlib.util.find_spec(name) is None:
        raise RunError(f"--logger {name} needs a package: pip install {name}")
    return name


def make_logger(name: str, folder: Path, run_id: str, config: dict, start: int) -> Logger:
    """The logger of a run; `name` is one of LOGGERS."""
    if name == "tensorboard":
        return TensorBoardLogger(folder, config, start)
    if name == "wandb":
        return WandbLogger(config["run"], run_id, config)
    return NoLogger()
