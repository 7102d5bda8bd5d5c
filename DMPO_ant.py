"""DMPO for AntMaze: as DMPO.py, with a value function, softer twins and deeper networks.

Osa et al., Offline Reinforcement Learning with Mixture of Deterministic Policies, TMLR 2023. The
actor loss, the gating, the mutual information and the diagnostics are those of DMPO.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from DMPO import DMPO
from utils import (
    Batch,
    Count,
    Fraction,
    HalfFraction,
    NonNegative,
    Positive,
    PositiveFraction,
    RunSpec,
    ValueFunction,
    WeightType,
    adam,
    endless_returns,
    minimize,
    td_loss,
    td_target,
)


@dataclass
class Hyperparameters:
    discount: Fraction = 0.99  # gamma, per step
    tau: PositiveFraction = 0.005  # Polyak step of the target networks
    policy_freq: Count = 2  # critic updates per policy update
    hidden: tuple[Count, ...] = (256, 256, 256)  # units of each hidden layer
    learning_rate: Positive = 2e-4  # of Adam
    latent_disc_dim: Count = 8  # K, components of the mixture
    temperature: Positive = 0.67  # of the Gumbel-softmax
    scale: NonNegative = 5.0  # alpha, of the advantages; 0 is plain regression; 10 on MuJoCo
    weight_type: WeightType = ""  # of the advantage weights; "" is adapt
    weight_floor: Fraction = 0.0  # least weight, as a share of the largest; not in the paper
    advantage_quantile: HalfFraction = 0.0  # cuts both tails of the advantages; not in the paper
    layer_norm: bool = False  # in the critics; not in the paper
    kl_weight: NonNegative = 1.0  # beta, of KL(q(z|s,a) || p(z|s))
    info_reg: bool = False  # maximise the mutual information of z and (s, a)
    ilr: Positive = 5e-7  # learning rate of the mutual information
    doubleq_min: Fraction = 0.7  # weight of the lower twin critic


class DMPO_ant(DMPO):
    """See the module's docstring; the interface is `utils.Policy`'s."""

    def __init__(
        self, spec: RunSpec, hyperparameters: Hyperparameters, device: torch.device | str = "cpu"
    ):
        super().__init__(spec, hyperparameters, device)  # type: ignore[arg-type]
        self.value = ValueFunction(spec.state_dim, self.hp.hidden).to(device)
        self.value_optimizer = adam([self.value], self.hp.learning_rate)

    @staticmethod
    def training_rewards(rewards: np.ndarray, is_antmaze: bool) -> np.ndarray:
        """Rewards as this policy trains on them, (N,) -> (N,): 100 r on antmaze, else r."""
        return 100 * rewards if is_antmaze else rewards

    @property
    def value_range(self) -> tuple[float, float]:
        """Bounds of possible returns; [0, 100] on antmaze, whose episodes have one reward."""
        return (0.0, 100.0) if self.spec.is_antmaze else super().value_range

    @property
    def target_range(self) -> tuple[float, float]:
        """Bounds of V's targets: `value_range` on antmaze, else those of an endless episode.

        Where every reward is positive, as on hopper, V then cannot be as low as the returns before
        a fall. That is the release's rule.
        """
        if self.spec.is_antmaze:
            return self.value_range
        return endless_returns(self.spec.reward_range, self.hp.discount)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses = {"value": self.value_loss(batch)}
        minimize(losses["value"], self.value_optimizer)
        return losses | super().update(batch)

    def value_loss(self, batch: Batch) -> Tensor:
        """(V(s) - Q'(s, mu'(s, z*)))^2, by the target networks, batch mean, 0-d.

        The target is clipped to `target_range`.
        """
        with torch.no_grad():
            action, _ = self.best_component(self.actor_target, batch.state)
            target = self.pessimistic(self.critic_target(batch.state, action))
            target = target.clamp(*self.target_range)
        return F.mse_loss(self.value(batch.state), target)

    def critic_loss(self, batch: Batch) -> Tensor:
        """(Q1(s, a) - y)^2 + (Q2(s, a) - y)^2, batch mean, 0-d; y = r + gamma not_done V(s')."""
        with torch.no_grad():
            next_value = self.value(batch.next_state)
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def advantage(self, batch: Batch) -> Tensor:
        """Q(s, a) - V(s), by the online critic: (B,)."""
        values = self.critic(batch.state, batch.action)
        return self.pessimistic(values) - self.value(batch.state)

    def pessimistic(self, values: tuple[Tensor, Tensor]) -> Tensor:
        """One value from the twins': doubleq_min of the lower, the rest of the higher."""
        return torch.lerp(torch.maximum(*values), torch.minimum(*values), self.hp.doubleq_min)
