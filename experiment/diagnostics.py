"""Numbers that show whether a critic diverges, at every evaluation.

The columns of <run>.csv that `Diagnostics.measure` adds are described in docs/metrics.md.
"""

import math

import numpy as np
import torch

from d4rl_tasks import Dataset
from utils import Batch, Policy, ReplayBuffer

SAMPLE = 1_000  # transitions, the same at every evaluation
BATCHES = 16  # for the weights, which depend on the other transitions of their batch
SAMPLE_SEED = 0
TOLERANCE = 0.1  # of the range of possible returns


class Diagnostics:
    """Measures a policy and its critic on a fixed sample of the dataset.

    Args:
        policy: whose `critic`, if it has one, and `weight` are looked at.
        replay_buffer: sampled with a generator of its own, so that training does not change.
        batch_size: of the run's train steps.
    """

    def __init__(self, policy: Policy, replay_buffer: ReplayBuffer, batch_size: int):
        self.policy = policy
        self.replay_buffer = replay_buffer
        self.batch_size = batch_size
        self.batch = replay_buffer.fixed_sample(SAMPLE, SAMPLE_SEED)
        self.is_warned = False

    def measure(self) -> dict[str, float]:
        """The columns by name; none for a policy without a critic. Waits for the device once."""
        devices = [self.policy.device] if self.policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(SAMPLE_SEED)
            measured = self._tensors(self.batch)
        if not measured:
            return {}
        values = torch.stack([value.float() for value in measured.values()]).tolist()
        return dict(zip(measured, values, strict=True)) | self._bounds()

    def _bounds(self) -> dict[str, float]:
        if not hasattr(self.policy.hp, "discount"):
            return {}
        _, found = self.policy.spec.return_range
        _, possible = self.policy.value_range
        of_data = {"data_return_max": found} if math.isfinite(found) else {}
        return of_data | {"value_bound": possible}

    def _tensors(self, batch: Batch) -> dict[str, torch.Tensor]:
        action = self.policy.act(batch.state)
        q_data = self.policy.value_of(batch.state, batch.action)
        value = self.policy.value_of(batch.state, action)
        if q_data is None or value is None:
            return {}
        distance = (action - batch.action).square().mean(-1).sqrt()
        measured = {
            "q_data": q_data.mean(),
            "value_policy": value.mean(),
            "value_max": torch.maximum(value, q_data).max(),
            "action_distance": distance.mean(),
        }
        if shares := self._effective_shares():
            measured["effective_sample_size"] = torch.stack(shares).mean()
        return measured

    def _effective_shares(self) -> list[torch.Tensor]:
        batches = (self.replay_buffer.fixed_sample(self.batch_size, i) for i in range(BATCHES))
        weights = map(self.policy.weight, batches)
        return [effective_share(weight) for weight in weights if weight is not None]

    def warning(self, measured: dict[str, float]) -> str | None:
        """One line, once, when a value is beyond any return that the data's rewards allow.

        A tenth of the range is tolerated, as critics start near 0 whatever the rewards.
        """
        if self.is_warned or "value_bound" not in measured:
            return None
        low, high = self.policy.value_range
        if not measured["value_max"] > high + TOLERANCE * (high - low):
            return None
        self.is_warned = True
        return (
            f"warning: the critic values an action at {measured['value_max']:.0f}, but the "
            f"dataset's rewards allow at most {measured['value_bound']:.0f}: it overestimates, and "
            "the policy may fail; docs/metrics.md lists options that may help"
        )


def effective_share(weight: torch.Tensor) -> torch.Tensor:
    """(sum w)^2 / sum w^2 / n, 0-d; 0 if all weights (n,) are 0."""
    tiny = torch.finfo(weight.dtype).tiny
    weight = weight / weight.max().clamp(min=tiny)  # so that no square of a small one is 0
    return weight.sum().square() / weight.square().sum().clamp(min=tiny) / len(weight)


def return_range(dataset: Dataset, rewards: np.ndarray, discount: float) -> tuple[float, float]:
    """Lowest and highest discounted return that follows a state of a dataset.

    An episode continues with the next row as long as that row starts in its next observation.

    Args:
        rewards: (N,), as the policy trains on them.
        discount: gamma.

    Returns:
        (-inf, inf) for shuffled transitions, which do not show what followed them.
    """
    follows = np.zeros(len(rewards), bool)
    np.all(dataset.next_observations[:-1] == dataset.observations[1:], axis=1, out=follows[:-1])
    if follows.sum() < np.count_nonzero(dataset.terminals == 0) / 2:
        return -math.inf, math.inf
    factor = discount * np.where(follows, 1 - dataset.terminals, 0.0)
    total, lowest, highest = 0.0, math.inf, -math.inf
    for reward, rest in zip(rewards[::-1].tolist(), factor[::-1].tolist(), strict=True):
        total = reward + rest * total
        lowest, highest = min(lowest, total), max(highest, total)
    return lowest, highest
