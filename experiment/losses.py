"""The losses of the train steps, averaged for the logs."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from experiment.errors import DivergedError

CRITIC = "critic"


class Mean:
    """A running mean; it does not depend on how the values are split over calls."""

    def __init__(self, total: float = 0.0, count: int = 0):
        self.total, self.count = total, count

    def add(self, values: list[float]) -> None:
        # One by one: sum() corrects its rounding within a call, so pieces would matter.
        for value in values:
            self.total += value
        self.count += len(values)

    def take(self) -> float:
        """The mean of all values since the last call; NaN if there were none."""
        mean = self.total / self.count if self.count else math.nan
        self.total, self.count = 0.0, 0
        return mean


class LossLog:
    """Losses of the train steps, left on the device until they are read.

    Attributes:
        logged: the loss in the loss log: the critic's or, without one, the policy's first.
        latest: mean of each loss over the steps of the last reading.
    """

    def __init__(self):
        self.logged: str | None = None
        self.latest: dict[str, float] = {}
        self._unread: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
        self._since_eval: dict[str, Mean] = {}
        self._window = Mean()

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Keep a train step's losses, without waiting for them."""
        if self.logged is None and losses:
            self.logged = CRITIC if CRITIC in losses else next(iter(losses))
        for name, loss in losses.items():
            self._unread[name].append((step, loss))

    def read(self) -> None:
        """Wait for the losses of the steps since the last reading.

        Raises:
            DivergedError: one of them is NaN or infinite; it names the network and the step at
                which that began.
        """
        read = {
            name: torch.stack([loss for _, loss in entries]).tolist()
            for name, entries in self._unread.items()
        }
        self._check_finite(read)
        for name, values in read.items():
            self._since_eval.setdefault(name, Mean()).add(values)
            self.latest[name] = sum(values) / len(values)
            if name == self.logged:
                self._window.add(values)
        self._unread.clear()

    def _check_finite(self, read: dict[str, list[float]]) -> None:
        bad = [
            (step, name, value)
            for name, values in read.items()
            for (step, _), value in zip(self._unread[name], values, strict=True)
            if not math.isfinite(value)
        ]
        if bad:
            step, name, value = min(bad, key=lambda one: one[0])
            raise DivergedError(
                f"the {name} loss became {value} at train step {step}; the last good model and "
                "checkpoint are kept"
            )

    @property
    def has_window(self) -> bool:
        """Whether there are losses that no line of the log holds yet."""
        return self._window.count > 0

    def take_window(self) -> float:
        """Mean of the logged loss since it was last taken."""
        return self._window.take()

    def take_means(self) -> dict[str, float]:
        """Mean of each loss since they were last taken, named as in the CSV."""
        means = {f"{name}_loss": mean.take() for name, mean in self._since_eval.items()}
        self._since_eval.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """All that has been read and not taken; `read` comes first."""
        return {
            "logged": self.logged,
            "since_eval": {name: vars(mean).copy() for name, mean in self._since_eval.items()},
            "window": vars(self._window).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.logged = state["logged"]
        self._since_eval = {name: Mean(**mean) for name, mean in state["since_eval"].items()}
        self._window = Mean(**state["window"])
