"""DMPO for AntMaze: as DMPO.py, with a value function, softer twins and deeper networks.

Osa et al., Offline Reinforcement Learning with Mixture of Deterministic Policies, TMLR 2023. What
is not here is as in DMPO.py: the actor loss, the gating, the mutual information, the diagnostics.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from DMPO import DMPO
from utils import Batch, ReplayBuffer, ValueFunction, adam, minimize, td_loss, td_target


@dataclass
class Hyperparameters:
    discount: float = 0.99  # gamma
    tau: float = 0.005  # Polyak step of the targets
    policy_freq: int = 2  # critic updates per policy update
    hidden: tuple[int, ...] = (256, 256, 256)
    learning_rate: float = 2e-4
    latent_disc_dim: int = 8  # K, components of the mixture
    temperature: float = 0.67  # of the Gumbel-softmax
    scale: float = 10.0  # alpha, of the advantages (5 on antmaze)
    weight_type: str = ""
    kl_weight: float = 1.0  # beta, of KL(q(z|s,a) || p(z|s))
    info_reg: bool = False  # maximise the mutual information of z and (s, a)
    ilr: float = 5e-7  # learning rate of the mutual information
    doubleq_min: float = 0.7  # weight of the lower twin
    value_range: tuple[float, float] = (0.0, 100.0)  # of V's targets; main_training sets it


class DMPO_ant(DMPO):
    """See the module's docstring; the interface is `utils.Policy`'s."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        max_action: float,
        hyperparameters: Hyperparameters,
        device: torch.device | str = "cpu",
    ):
        super().__init__(state_dim, action_dim, max_action, hyperparameters, device)
        self.value = ValueFunction(state_dim, self.hp.hidden).to(device)
        self.value_optimizer = adam([self.value], self.hp.learning_rate)

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> Tensor:
        self.total_it += 1
        batch = replay_buffer.sample(batch_size)
        self.losses = {"value": self.value_loss(batch.state)}
        minimize(self.losses["value"], self.value_optimizer)
        self.losses["critic"] = self.critic_loss(batch)
        minimize(self.losses["critic"], self.critic_optimizer)
        if self.total_it % self.hp.policy_freq == 0:
            self.update_policy(batch)
        return self.losses["critic"].detach()

    def value_loss(self, state: Tensor) -> Tensor:
        with torch.no_grad():
            action, _ = self.best_component(self.actor_target, state)
            target = self.pessimistic(self.critic_target(state, action))
            target = target.clamp(*self.hp.value_range)
        return F.mse_loss(self.value(state), target)

    def critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_value = self.value(batch.next_state)
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def advantage(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) - V(s): (B,)."""
        return self.pessimistic(self.critic(state, action)) - self.value(state)

    def pessimistic(self, values: tuple[Tensor, Tensor]) -> Tensor:
        """Mostly the lower twin."""
        return torch.lerp(torch.maximum(*values), torch.minimum(*values), self.hp.doubleq_min)
