"""A run on the terminal: its settings, a bar, a line for every evaluation."""

import time
from pathlib import Path
from typing import Any

from tqdm import tqdm


def print_configuration(config: dict[str, Any]) -> None:
    """Print the settings of a run, once."""
    data = config["dataset"]
    kind = "SYNTHETIC dataset" if data["synthetic"] else "dataset"
    print(f"run      {config['run']}")
    print(f"data     {kind}, {data['transitions']} transitions, {data['path']}")
    print(f"device   {config['device']}")
    shown = {"max_timesteps": config["max_timesteps"], **config["settings"]}
    for name, value in shown.items():
        text = " ".join(map(str, value)) if isinstance(value, list) else value
        if value not in (None, "") and not name.endswith("_sha256"):
            print(f"{name:<20}{text}")
    print()


def print_end(row: dict[str, float], path: Path) -> None:
    """Print how a run ended, and where its files are."""
    print(
        f"score {_percent(row, 'score_mean')} ± {_percent(row, 'score_std')} after {row['step']} "
        f"steps and {row['wall_time']:.0f} s: {path}"
    )


def print_finished(depends_on_train_steps: bool) -> None:
    """Print that a run has been finished before, and how to continue it."""
    longer = "another --max_timesteps is a run of its own"
    if not depends_on_train_steps:
        longer = "a higher --max_timesteps continues it"
    print(f"finished already: --fresh runs it again, {longer}")


class Progress:
    """One bar on a terminal; on any output a line for every evaluation."""

    def __init__(self, start: int, steps: int):
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=None,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._shown: dict[str, str] = {}
        self._start, self._steps, self._since = start, steps, time.monotonic()

    def step(self) -> None:
        """One train step is done."""
        self._bar.update()

    def show_losses(self, losses: dict[str, float]) -> None:
        """Show the losses of the last steps."""
        self._show({f"{name}_loss": f"{value:.3g}" for name, value in losses.items()})

    def show_evaluation(self, finished: int, episodes: int) -> None:
        """Show how many episodes of an evaluation have ended."""
        self._show({"evaluating": f"{finished}/{episodes}"})

    def evaluated(self, row: dict[str, float]) -> None:
        """Print a line for an evaluation, and show its score."""
        self._shown.pop("evaluating", None)
        self._show({"score": _percent(row, "score_mean")})
        losses = "  ".join(
            f"{name.removesuffix('_loss')} loss {value:.3f}"
            for name, value in row.items()
            if name.endswith("_loss")
        )
        self._bar.write(
            f"step {row['step']}/{self._steps}  {self._pace(row['step'])}{losses}  "
            f"score {_percent(row, 'score_mean')} ± {_percent(row, 'score_std')}  "
            f"return {row['return_mean']:.1f}"
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _pace(self, step: float) -> str:
        if step <= self._start or not self._bar.disable:  # the bar shows it
            return ""
        rate = (step - self._start) / (time.monotonic() - self._since)
        minutes = (self._steps - step) / rate / 60
        return f"{rate:.1f} steps/s  {minutes:.0f} min left  "

    def _show(self, values: dict[str, str]) -> None:
        self._shown |= values
        self._bar.set_postfix(self._shown)


def _percent(row: dict[str, float], name: str) -> str:
    return f"{100 * row[name]:z.1f}"  # z: no minus before a zero
