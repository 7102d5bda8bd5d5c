"""The losses of the train steps, averaged for the logs."""

import math
from collections import defaultdict

import torch
from torch import Tensor

from experiment.errors import DivergedError


class Mean:
    """A running mean; what it holds does not depend on how the values are cut into pieces."""

    def __init__(self, total: float = 0.0, count: int = 0):
        self.total, self.count = total, count

    def add(self, values: list[float]) -> None:
        # One by one: sum() corrects its rounding within a call, so pieces would matter.
        for value in values:
            self.total += value
        self.count += len(values)

    def take(self) -> float:
        """The mean of what was added since the last call; NaN if nothing was."""
        mean = self.total / self.count if self.count else math.nan
        self.total, self.count = 0.0, 0
        return mean


class LossLog:
    """Losses of the train steps, left on the device until they are read."""

    def __init__(self):
        self._unread: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
        self._since_eval: dict[str, Mean] = {}
        self._critic_window = Mean()

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Keep a train step's losses, without waiting for them."""
        for name, loss in losses.items():
            self._unread[name].append((step, loss.detach()))

    def read(self) -> None:
        """Wait for the losses of the steps since the last reading.

        Raises:
            DivergedError: one of them is NaN or infinite; it names the network and the step.
        """
        for name, entries in self._unread.items():
            values = torch.stack([loss for _, loss in entries]).tolist()
            for (step, _), value in zip(entries, values, strict=True):
                if not math.isfinite(value):
                    raise DivergedError(f"the {name} loss became {value} at train step {step}")
            self._since_eval.setdefault(name, Mean()).add(values)
            if name == "critic":
                self._critic_window.add(values)
        self._unread.clear()

    def take_critic_mean(self) -> float:
        """Mean critic loss since it was last taken."""
        return self._critic_window.take()

    def take_means(self) -> dict[str, float]:
        """Mean of each loss since they were last taken, named as in the CSV."""
        means = {f"{name}_loss": mean.take() for name, mean in self._since_eval.items()}
        self._since_eval.clear()
        return means

    def state_dict(self) -> dict:
        """What has been read and not taken; `read` comes first."""
        return {
            "since_eval": {name: vars(mean).copy() for name, mean in self._since_eval.items()},
            "critic_window": vars(self._critic_window).copy(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self._since_eval = {name: Mean(**mean) for name, mean in state["since_eval"].items()}
        self._critic_window = Mean(**state["critic_window"])
